"""Whether a file computes what the model does in PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from mmhcgnet_runtime import open_engine

from .models import Exported


def difference(exported: Exported, path: str) -> float:
    """Compare a file with its model, at a size and a batch other than those it was traced with.

    Args:
        exported: The model.
        path: Its file.

    Returns:
        The largest difference: of a detector between the scores of one rank, of others between
        values, over the largest value.

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
    names = ["scores"] if exported.task == "detection" else list(exported.outputs)
    differences = []
    for name, want in zip(exported.outputs, wanted, strict=True):
        if name in names:
            largest = max(float(want.abs().max()), 1e-12)
            differences.append(float(np.abs(found[name] - want.numpy()).max()) / largest)
    return float(np.max(differences))  # NaN if one is
