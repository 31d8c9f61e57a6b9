"""An exported model in the place of a config's own, for MMEngine's runner to test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from mmhcgnet.errors import UsageError
from mmhcgnet_runtime import RuntimeFileError, open_engine
from mmhcgnet_runtime.images import pad
from mmhcgnet_runtime.masks import paste


class ExportedModel(BaseModel):
    """A file of a detector or a classifier, which reads what the config's dataloader gives.

    Args:
        path: The file.
        order: The order of the channels that the dataloader gives, ``'bgr'`` or ``'rgb'``.
        engine: ``'onnxruntime'`` or ``'openvino'``; by default the one that is installed.

    Raises:
        UsageError: If it cannot be run here, or is a backbone.
    """

    def __init__(self, path: str, order: str, engine: str | None = None) -> None:
        super().__init__()
        self._is_bgr = order == "bgr"
        try:
            self.engine = open_engine(path, engine)
        except (FileNotFoundError, RuntimeFileError) as error:
            raise UsageError(str(error)) from error
        self.facts = self.engine.facts
        if self.facts["task"] == "features":
            raise UsageError(f"{path} is a backbone alone, which has no metric.")

    @property
    def classes(self) -> list[str]:
        """Names of the classes that it finds; empty if the file has none."""
        return list(self.facts.get("classes") or [])

    def test_step(self, data: dict) -> list:
        """Predict a batch of a dataloader, which holds the arguments of :meth:`forward`."""
        return self(data["inputs"], data["data_samples"])

    def forward(self, inputs: Sequence[Tensor], samples: list) -> list:
        """Predict.

        Args:
            inputs: Images ``(3, H, W)`` of the dataloader.
            samples: Their data samples.

        Returns:
            The data samples with predictions.
        """
        step = -1 if self._is_bgr else 1
        images = [image.numpy()[::step].transpose(1, 2, 0) for image in inputs]
        if self.facts["task"] == "classification":
            scores = self.engine(dict(images=np.stack(images)))["scores"]
            for sample, score in zip(samples, torch.from_numpy(scores), strict=True):
                sample.set_pred_score(score).set_pred_label(score.argmax(keepdim=True))
            return samples
        batch, sizes = pad(images, self.facts["pad_divisor"])
        outputs = self.engine(dict(images=batch, sizes=sizes))
        for i, sample in enumerate(samples):
            sample.pred_instances = self._instances(
                {name: values[i] for name, values in outputs.items()}, sample.metainfo
            )
        return samples

    def _instances(self, found: dict[str, np.ndarray], meta: dict) -> InstanceData:
        there = found["labels"] >= 0
        boxes = found["boxes"][there] / np.tile(np.float32(meta["scale_factor"]), 2)
        instances = InstanceData(
            bboxes=torch.from_numpy(boxes),
            scores=torch.from_numpy(found["scores"][there]),
            labels=torch.from_numpy(found["labels"][there]),
        )
        if "masks" in found:
            threshold = self.facts["mask_threshold"]
            masks = paste(found["masks"][there], boxes, meta["ori_shape"][:2], threshold)
            instances.masks = torch.from_numpy(masks)
        return instances
