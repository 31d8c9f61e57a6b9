"""Whether a file computes what the model does in PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from mmhcgnet_runtime import open_engine

from .models import Exported

# Detections whose scores are nearer than this may be in another order in the file.
APART = 1e-3


def difference(exported: Exported, path: str, objects: bool = True) -> float:
    """Compare a file with its model, at a size and a batch other than those it was traced with.

    Args:
        exported: The model.
        path: Its file.
        objects: Compare the labels, boxes and masks of a detector's objects as well as the scores;
            with weights in half precision, other objects may be found.

    Returns:
        The largest difference between values, over the largest value; of a detector between what
        is found at one rank, boxes over the largest side of the image, and infinity if a label is
        another.

    Raises:
        RuntimeFileError: If no engine for it is installed, or it cannot read the file.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 5, 6, generator=generator)
    images = torch.nn.functional.interpolate(images, (96, 128), mode="bilinear")
    images = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    values = (images, torch.tensor([[96, 128], [90, 128], [96, 101]]))
    inputs = dict(zip(exported.inputs, values, strict=False))
    with torch.no_grad():
        wanted = exported.model(*inputs.values())
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
    found = open_engine(path)({name: value.numpy() for name, value in inputs.items()})
    expected = dict(zip(exported.outputs, (want.numpy() for want in wanted), strict=True))
    detector = exported.task == "detection"
    differences = [
        np.abs(found[name] - expected[name]).max() / max(np.abs(expected[name]).max(), 1e-12)
        for name in (["scores"] if detector else expected)
    ]
    if detector and objects:
        scores = np.pad(expected["scores"], ((0, 0), (1, 1)), constant_values=(np.inf, -np.inf))
        gaps = -np.diff(scores)
        apart = (np.minimum(gaps[:, :-1], gaps[:, 1:]) > APART) & (expected["labels"] >= 0)
        pairs = {name: (found[name][apart], expected[name][apart]) for name in expected}
        if apart.any():
            differences.append(np.abs(np.subtract(*pairs["boxes"])).max() / max(images.shape[1:3]))
            differences.append(0.0 if np.array_equal(*pairs["labels"]) else np.inf)
            if "masks" in pairs:
                differences.append(np.abs(np.subtract(*pairs["masks"])).max())
    return float(np.max(differences))  # NaN if one is
