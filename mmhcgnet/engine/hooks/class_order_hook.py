"""Testing where the classes are those of the training in another order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.engine.export.in_runner import ExportedModel
from mmhcgnet.engine.models import unwrapped
from mmhcgnet.errors import UsageError

# MMDetection's, by which the segments of one class differ. Classifiers work without MMDetection.
_INSTANCE_OFFSET = 1000


@HOOKS.register_module()
class ClassOrderHook(Hook):
    """Compare the classes that a tested model was trained on with those of the tested set.

    A model predicts numbers, and a checkpoint or an exported file says what they were called. The
    same names in another order are mapped, so that metrics and drawings are right; of other names
    it warns, and refuses an exported file with another number of them.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare with the checkpoint's, and map what the model will predict."""
        if isinstance(runner._test_loop, BaseLoop):
            _compare(runner, Checkpoint(checkpoint, "").classes, "checkpoint")

    def before_test(self, runner: Runner) -> None:
        """Compare with an exported file's, for which no checkpoint is loaded.

        Raises:
            UsageError: If it has another number of classes.
        """
        model = unwrapped(runner.model)
        if not isinstance(model, ExportedModel):
            return
        trained, tested = list(map(str, model.classes)), _tested_classes(runner)
        if tested and trained and len(tested) != len(trained):
            raise UsageError(
                f"The exported model finds {len(trained)} classes ({_few(trained)}), and the test "
                f"set has {len(tested)} ({_few(tested)}): test it with the config that it was "
                "exported with."
            )
        _compare(runner, trained, "exported model")


def _tested_classes(runner: Runner) -> list[str]:
    metainfo = getattr(runner.test_loop.dataloader.dataset, "metainfo", None)
    names = metainfo.get("classes") if isinstance(metainfo, dict) else None
    return [str(name) for name in (() if names is None else names)]


def _compare(runner: Runner, trained: list[str], what: str) -> None:
    tested = _tested_classes(runner)
    if not tested or not trained or tested == trained:
        return
    if len(set(trained)) == len(trained) and sorted(trained) == sorted(tested):
        print_log(
            f"The {what} was trained on the classes {_few(trained)}, and the test set "
            f"has them in another order, {_few(tested)}: predictions are mapped by name.",
            "current",
            logging.WARNING,
        )
        _map_predictions(runner.model, [trained.index(name) for name in tested])
    else:
        print_log(
            f"The {what} was trained on other classes than the test set has "
            f"({_few(trained)} and {_few(tested)}): the metrics compare them by number.",
            "current",
            logging.WARNING,
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _map_predictions(model: nn.Module, places: list[int]) -> None:
    """Let a model predict by the numbers of the tested set.

    Args:
        model: The model, in whatever wrapper.
        places: For each class of the tested set, its number in the model.
    """
    columns = torch.tensor(places)
    numbers = columns.argsort()

    def rename(model: nn.Module, inputs: tuple, outputs: Any) -> None:
        for sample in outputs if isinstance(outputs, list | tuple) else ():
            found = getattr(sample, "pred_instances", None)
            if found is not None and "labels" in found:
                found.labels = _renumbered(found.labels, numbers)
            # MMSegmentation calls the map of the classes data, and MMDetection sem_seg.
            for name, offset in (("pred_sem_seg", None), ("pred_panoptic_seg", _INSTANCE_OFFSET)):
                pixels = getattr(sample, name, {})
                for key in {"data", "sem_seg"}.intersection(pixels.keys()):
                    setattr(pixels, key, _renumbered(pixels.get(key), numbers, offset))
            logits = getattr(sample, "seg_logits", {}).get("data")
            if logits is not None and len(logits) == len(columns):  # two classes may share one map
                sample.seg_logits.data = logits[columns.to(logits.device)]
            if isinstance(label := getattr(sample, "pred_label", None), Tensor):
                sample.set_field(_renumbered(label, numbers), "pred_label")
            if isinstance(score := getattr(sample, "pred_score", None), Tensor):
                sample.set_field(score[..., columns.to(score.device)], "pred_score")

    unwrapped(model).register_forward_hook(rename)


def _renumbered(values: Tensor, numbers: Tensor, offset: int | None = None) -> Tensor:
    """Replace classes by other numbers.

    Args:
        values: The classes. What is none, as of pixels that are ignored, stays as it is.
        numbers: The number of each class.
        offset: A value is its class plus a multiple of this, which is kept.
    """
    wide = values.long()  # in eight bits, the comparisons would overflow
    classes = wide % offset if offset else wide
    is_class = (wide >= 0) & (classes < len(numbers))
    mapped = numbers.to(values.device)[torch.where(is_class, classes, 0)]
    return torch.where(is_class, wide - classes + mapped, wide).to(values.dtype)
