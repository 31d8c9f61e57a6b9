"""What stands between HCGNet and MMPretrain's heads."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DropoutNeck(nn.Dropout):
    """Dropout of pooled features, before the classifier (the paper's ImageNet recipe, p = 0.1).

    MMPretrain's linear head has none. To stand behind the pooling:
    ``neck=[dict(type='GlobalAveragePooling'), dict(type='mmhcgnet.DropoutNeck', p=0.1)]``. It has
    no weights, so that checkpoints are the same with and without it.

    Args:
        p: Share of the entries that are dropped.
        inplace: Drop them in the given tensors.

    Raises:
        ValueError: If ``p`` is not a number from 0 to 1.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if type(p) not in (int, float) or not 0 <= p <= 1:
            raise ValueError(f"p must be a number from 0 to 1, got {p!r}.")
        super().__init__(p, inplace)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Drop entries of each ``(N, C)``; the shapes stay."""
        return tuple(super(DropoutNeck, self).forward(x) for x in features)
