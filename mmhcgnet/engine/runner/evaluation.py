"""COCO metrics with ids that pycocotools takes for what they are, of the images that are tested.

pycocotools counts a match with the annotation 0 as none, cannot hold ids that are strings, and
sorts the ids of categories, which MMDetection's class-wise table does not; and MMDetection counts
the objects of images that were not tested as missed. Where an annotation file has none of this,
nothing is changed.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable
from functools import partial

from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import print_log


def guard_evaluator(evaluator: Evaluator | None) -> None:
    """Let the COCO metrics of an evaluator compute the right numbers.

    Args:
        evaluator: The evaluator, whose metrics are changed in place; once, if called repeatedly.
            Loops of another kind than MMEngine's may have none.
    """
    for metric in getattr(evaluator, "metrics", ()):
        if _is_coco(metric) and not isinstance(metric.compute_metrics, partial):
            metric.compute_metrics = partial(_compute_metrics, metric, metric.compute_metrics)


def _is_coco(metric: BaseMetric) -> bool:
    """Whether a metric compares with an annotation file through pycocotools."""
    if not hasattr(metric, "_coco_api"):
        return False
    from mmdet.evaluation.metrics import CocoMetric
    from pycocotools.coco import COCO

    return isinstance(metric, CocoMetric) and isinstance(metric._coco_api, COCO)


def _compute_metrics(metric: BaseMetric, compute: Callable, results: list) -> dict:
    """Compute metrics as MMDetection does, of files and results that it gets right."""
    api = metric._coco_api
    first = {truth["img_id"]: i for i, (truth, _) in reversed(list(enumerate(results)))}
    if len(first) < len(results):
        _warn(
            f"{len(results) - len(first):,} of {len(results):,} tested images had been "
            "tested already: each counts once."
        )
        results = [results[i] for i in sorted(first.values())]
    if metric.img_ids is None:
        metric.img_ids = api.get_img_ids()
    every = metric.img_ids
    metric.img_ids = [id_ for id_ in every if id_ in first]
    missed = {*every} - first.keys()
    objects = sum(len(api.imgToAnns.get(id_, ())) for id_ in missed)
    if objects:
        _warn(
            f"{len(missed):,} of the {len(every):,} images in the evaluator's annotation file were "
            f"not tested: their {objects:,} objects do not count."
        )
    try:
        return (
            compute(results) if metric.format_only else _compute_numbered(metric, compute, results)
        )
    finally:
        metric.img_ids = every


def _warn(text: str) -> None:
    print_log(text, "current", logging.WARNING)


def _compute_numbered(metric: BaseMetric, compute: Callable, results: list) -> dict:
    """Number annotations from 1 and categories in their order, if they are not, and compute."""
    api = metric._coco_api
    if metric.cat_ids is None:
        metric.cat_ids = api.get_cat_ids(cat_names=metric.dataset_meta["classes"])
    categories, annotations = api.dataset["categories"], api.dataset.get("annotations", [])
    ids = [category["id"] for category in categories]
    strings = any(isinstance(id_, str) for id_ in ids)
    sound = not strings and metric.cat_ids == sorted(metric.cat_ids)
    if sound and all(not isinstance(e["id"], str) and e["id"] >= 1 for e in annotations):
        return compute(results)
    numbers = {id_: number for number, id_ in enumerate(ids, 1)}
    numbered = copy.copy(api)
    numbered.dataset = dict(
        api.dataset,
        categories=[dict(category, id=numbers[category["id"]]) for category in categories],
        annotations=[
            dict(entry, id=number, category_id=numbers.get(entry["category_id"], 0))
            for number, entry in enumerate(annotations, 1)
        ],
    )
    numbered.createIndex()
    # MMDetection's other names for two of pycocotools' tables.
    numbered.img_ann_map, numbered.cat_img_map = numbered.imgToAnns, numbered.catToImgs
    former = metric.cat_ids
    metric._coco_api, metric.cat_ids = numbered, [numbers[id_] for id_ in former]
    try:
        computed = compute(results)
    finally:
        metric._coco_api, metric.cat_ids = api, former
    if metric.outfile_prefix:  # what was written is to have the file's own ids
        for kind in ("bbox", "segm"):
            _restore(f"{metric.outfile_prefix}.{kind}.json", ids)
    return computed


def _restore(path: str, ids: list) -> None:
    if not os.path.exists(path):
        return
    with open(path) as file:
        predictions = json.load(file)
    for prediction in predictions:
        prediction["category_id"] = ids[prediction["category_id"] - 1]
    with open(path, "w") as file:
        json.dump(predictions, file)
