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
    """

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Drop entries of each ``(N, C)``; the shapes stay."""
        return tuple(super(DropoutNeck, self).forward(x) for x in features)
