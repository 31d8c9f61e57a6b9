"""A trained model as a function of images, with the results of ``mmhcgnet_runtime.Predictor``."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.config_dicts import dataset_class, type_name
from mmhcgnet.errors import UsageError
from mmhcgnet_runtime.images import read

from .configs import loads_files, tested_dataset, tested_pipeline
from .models import load_model

# The image is there, and has no annotations.
_NEEDLESS = ("LoadImageFromFile", "LoadImageFromNDArray")
_NEEDLESS += ("LoadAnnotations", "LoadPanopticAnnotations")


class TorchPredictor:
    """A detector or classifier in PyTorch.

    Args:
        cfg: The config; its test pipeline prepares the images.
        checkpoint: The weights, a local file.
        device: Where to compute.

    Attributes:
        cfg (Config): The config.
        model (nn.Module): The model, in eval mode.
        classes (list[str]): Names of the classes; empty if neither file nor config has them.

    Raises:
        UsageError: As :func:`load_model`; or if the config has no test pipeline, or its model
            finds neither boxes nor classes.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str = "cpu") -> None:
        self.cfg = cfg
        self._scope = cfg.get("default_scope")
        pipeline = copy.deepcopy(tested_pipeline(cfg))
        if not pipeline:
            raise UsageError("The config has no test pipeline: test_dataloader.dataset.pipeline.")
        self._reads_files = loads_files(pipeline)
        steps = [step for step in pipeline if type_name(step) not in _NEEDLESS]
        with DefaultScope.overwrite_default_scope(self._scope):
            self._pipeline = Compose(steps)
        self.model = load_model(cfg, checkpoint, device)
        self.classes = class_names(cfg, checkpoint)

    def __call__(self, images: Any, batch_size: int = 1) -> Any:
        """Predict, as ``mmhcgnet_runtime.Predictor`` does, which describes the results.

        Args:
            images: A file or RGB image, or a list of them.
            batch_size: Images at once.

        Raises:
            FileNotFoundError: If a file does not exist.
            RuntimeFileError: If something is not an image.
            UsageError: If the model finds neither boxes nor classes.
        """
        several = isinstance(images, list | tuple)
        todo = list(images) if several else [images]
        results = []
        for start in range(0, len(todo), batch_size):
            results += self._predict([read(image) for image in todo[start : start + batch_size]])
        return results if several else results[0]

    def _predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        samples = [self._prepare(image) for image in images]
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self._scope):
            return [_describe(found) for found in self.model.test_step(pseudo_collate(samples))]

    def _prepare(self, image: np.ndarray) -> dict[str, Any]:
        image = np.ascontiguousarray(image[..., ::-1]) if self._reads_files else image
        size = image.shape[:2]
        return self._pipeline(
            dict(img=image, img_shape=size, ori_shape=size, img_id=0, img_path=None)
        )


def class_names(cfg: Config, checkpoint: str) -> list[str]:
    """Name the classes, as the checkpoint does or the data of a config; empty if neither does."""
    dataset = tested_dataset(cfg)
    kind = dataset_class(cfg, dataset)
    metainfo = {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {})}
    named = Checkpoint.open(checkpoint, in_full=False).classes or metainfo.get("classes")
    return [str(name) for name in named or ()]


def _describe(found: Any) -> dict[str, Any]:
    if "pred_score" in found:
        scores = found.pred_score.cpu().numpy()
        return dict(scores=scores, label=int(scores.argmax()))
    if "pred_instances" not in found:
        raise UsageError("The model finds neither boxes nor classes: there is nothing to show.")
    objects = found.pred_instances.cpu()
    order = objects.scores.argsort(descending=True, stable=True)
    names = dict(boxes="bboxes", scores="scores", labels="labels", masks="masks")
    return {name: np.asarray(objects[key][order]) for name, key in names.items() if key in objects}
