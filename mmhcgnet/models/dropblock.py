"""DropBlock, a dropout of neighbouring positions.

Ghiasi et al., DropBlock: A regularization method for convolutional networks, NeurIPS 2018,
https://arxiv.org/abs/1810.12890. Those of torchvision and MMDetection only take odd block sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """Set squares of a map to zero in training and scale up what is left.

    HCGNet's paper does not mention it. The released CIFAR program has it in a form of its own,
    ``style='released'``, with squares of two positions and a probability that rises to 0.1 within
    each cycle of SGDR.

    Args:
        block_size: Side of the squares in positions, odd or even; on a smaller map, the map's
            shorter side.
        drop_prob: Share of the positions to drop, up to overlaps of the squares. With
            :class:`mmhcgnet.DropBlockHook`, its peak.
        style: ``'original'``, as in the paper of DropBlock: a mask for every channel, squares that
            lie inside the map, and as many of them as ``drop_prob`` asks for. ``'released'``, as in
            the released program: one mask for all channels of an image, and squares that begin at
            any position with the probability ``drop_prob / block_size**2`` and end at the last row
            and column, so that somewhat less is dropped. Defaults to ``'original'``.

    Attributes:
        strength (float): Factor on ``drop_prob`` from 0 to 1, set by the hook; 1 without it.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, block_size: int, drop_prob: float = 0.1, style: str = "original") -> None:
        super().__init__()
        if type(block_size) is not int or block_size < 1:
            raise ValueError(f"block_size must be an integer above 0, got {block_size!r}.")
        if type(drop_prob) not in (int, float) or not 0 <= drop_prob < 1:
            raise ValueError(
                f"drop_prob must be a number of at least 0 and below 1, got {drop_prob!r}."
            )
        if style not in ("original", "released"):
            raise ValueError(f"style must be 'original' or 'released', got {style!r}.")
        self.block_size = block_size
        self.drop_prob = drop_prob
        self.style = style
        self.strength = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Drop squares of ``(N, C, H, W)``, others in every image and, originally, channel."""
        prob = self.drop_prob * self.strength
        if not self.training or prob == 0:
            return x
        height, width = x.shape[2:]
        size = min(self.block_size, height, width)
        gamma = prob / size**2
        if self.style == "released":
            masks, rows, columns, after = 1, height, width, 0
        else:  # squares lie inside the map, and as many are seeded as drop_prob asks for (eq. 1)
            masks, rows, columns, after = x.shape[1], height - size + 1, width - size + 1, size - 1
            gamma *= height * width / (rows * columns)
        seeds = torch.rand(x.shape[0], masks, rows, columns, device=x.device) < gamma
        # A position is dropped if any of the squares that cover it is.
        padded = F.pad(seeds.float(), [size - 1, after] * 2)
        keep = 1 - F.max_pool2d(padded, size, stride=1)
        return x * (keep / keep.mean().clamp(min=1e-6)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, drop_prob={self.drop_prob}, style={self.style!r}"
