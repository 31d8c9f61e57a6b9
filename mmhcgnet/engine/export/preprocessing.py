"""Images as engines are given them, normalised as the config's data preprocessor does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmhcgnet.errors import UsageError


class Normalize(nn.Module):
    """Turn RGB images into what the network reads.

    Args:
        preprocessor: MMDetection's ``DetDataPreprocessor`` or MMPretrain's
            ``ClsDataPreprocessor``.
        order: The order of the channels that it is given in a test, ``'bgr'`` or ``'rgb'``.

    Raises:
        UsageError: If it is another one.
    """

    def __init__(self, preprocessor: nn.Module, order: str) -> None:
        super().__init__()
        kind = type(preprocessor).__name__
        if kind == "DetDataPreprocessor":
            converts = preprocessor._channel_conversion
        elif kind == "ClsDataPreprocessor":
            converts = preprocessor.to_rgb
        else:
            raise UsageError(
                f"The data preprocessor {kind} cannot be exported: only DetDataPreprocessor and "
                "ClsDataPreprocessor can."
            )
        self.flips = bool(converts) == (order == "rgb")
        self.pad_value = float(preprocessor.pad_value)
        self.normalizes = preprocessor._enable_normalize
        if self.normalizes:
            self.register_buffer("mean", preprocessor.mean.float())
            self.register_buffer("std", preprocessor.std.float())

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Normalise, and fill what is padding as the preprocessor does after normalising.

        Args:
            images: RGB, uint8 ``(N, H, W, 3)``.
            sizes: Height and width of each without padding, int64 ``(N, 2)``.

        Returns:
            ``(N, 3, H, W)``, in the order of channels that the network was trained on.
        """
        x = images.permute(0, 3, 1, 2).float()
        if self.flips:
            x = x[:, [2, 1, 0]]
        if self.normalizes:
            x = (x - self.mean) / self.std
        if sizes is None:
            return x
        rows = torch.arange(images.shape[1], device=x.device) < sizes[:, :1]  # (N, H)
        columns = torch.arange(images.shape[2], device=x.device) < sizes[:, 1:]  # (N, W)
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, x, torch.full_like(x[:1, :1, :1, :1], self.pad_value))
