"""The tables of the paper and its figure 5, as data: what others are compared with.

Yang et al., Gated Convolutional Networks with Hybrid Connectivity for Image Classification,
AAAI 2020, https://arxiv.org/abs/1908.09699. Every number here is the paper's, none was measured
with this project. Parameters are in millions, FLOPs in thousand millions of multiply-adds, errors
and precisions in per cent; what the paper does not give is ``None``.

``config`` names the network where it can be built: one of our configs, or one of MMPretrain or
MMDetection with ``changes`` to its model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


class Entry:
    """What the rows of all tables have."""

    name: str

    @property
    def ours(self) -> bool:
        """Whether the network is an HCGNet."""
        return self.name.startswith("HCGNet")


@dataclasses.dataclass(frozen=True)
class CifarEntry(Entry):
    """A row of table 2: test errors. ``config`` has a gap for the number of classes."""

    name: str
    params: float
    flops: float | None
    cifar10: float | None
    cifar100: float | None
    config: str | None = None


@dataclasses.dataclass(frozen=True)
class ImageNetEntry(Entry):
    """A row of table 3: errors on the validation set, one crop of 224 pixels."""

    name: str
    params: float
    flops: float
    top1: float
    top5: float | None
    config: str | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CocoEntry(Entry):
    """A row of table 4: average precisions of Mask R-CNN on val2017."""

    name: str
    params: float
    flops: float | None
    box_ap: float
    box_ap50: float
    box_ap75: float
    mask_ap: float
    mask_ap50: float
    mask_ap75: float
    config: str | None = None


@dataclasses.dataclass(frozen=True)
class RobustnessEntry(Entry):
    """A line of figure 5: top-1 accuracies on ImageNet after FGSM, by the size of the attack."""

    name: str
    accuracies: tuple[float, ...]


_A1 = "hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar{}"
_A2 = "hcgnet-a2_1xb128-mixup-sgdr-2x630e_cifar{}"
_A3 = "hcgnet-a3_1xb128-mixup-sgdr-2x630e_cifar{}"

CIFAR = (
    CifarEntry("CondenseNet-182", 4.2, 0.5, 3.76, 18.47),
    CifarEntry("SparseNet-BC", 16.7, None, 4.10, 18.22),
    CifarEntry("AOGNet", 24.8, 3.7, 3.27, 16.63),
    CifarEntry("LogDenseNetV2", 19.0, 11.1, 3.75, 18.80),
    CifarEntry("WRN-28", 36.5, 5.2, 4.17, 20.50),
    CifarEntry("ResNeXt-29+SK", 27.7, None, 3.47, 17.33),
    CifarEntry("Res2NeXt-29", 36.9, None, None, 16.56),
    CifarEntry("DenseNet-BC-190", 25.6, 9.4, 3.46, 17.18),
    CifarEntry("DPN-28-10", 47.8, None, 3.65, 20.23),
    CifarEntry("MixNet-190", 48.5, 17.3, 3.13, 16.96),
    CifarEntry("NASNet-A", 3.3, None, 3.41, 19.70),
    CifarEntry("NASNet-A", 50.9, None, None, 16.03),
    CifarEntry("AmoebaNet-A", 4.6, None, 3.34, None),
    CifarEntry("AmoebaNet-B", 34.9, None, 2.98, 17.66),
    CifarEntry("PNASNet", 3.2, None, 3.41, 19.53),
    CifarEntry("PNASNet", 53.0, None, None, 16.70),
    CifarEntry("ENASNet", 4.6, None, 3.54, 19.43),
    CifarEntry("ENASNet", 52.7, None, None, 16.44),
    CifarEntry("HCGNet-A1", 1.1, 0.2, 3.15, 18.13, _A1),
    CifarEntry("HCGNet-A2", 3.1, 0.5, 2.29, 16.54, _A2),
    CifarEntry("HCGNet-A3", 11.4, 2.0, 2.14, 15.96, _A3),
)

_HCGNET = "hcgnet-{}_2xb128-mixup-lbs-sgdr-630e_in1k"
_RESNET = "mmpretrain::resnet/resnet{}_8xb32_in1k.py"
_SERESNET = "mmpretrain::seresnet/seresnet{}_8xb32_in1k.py"
_RESNEXT = "mmpretrain::resnext/resnext{}-32x4d_8xb32_in1k.py"
_SERESNEXT = "mmpretrain::seresnet/seresnext{}-32x4d_8xb32_in1k.py"
_DENSENET = "mmpretrain::densenet/densenet{}_4xb256_in1k.py"
_DENSENET264 = dict(_delete_=True, growth_rate=32, depths=[6, 12, 64, 48], init_channels=64)

IMAGENET = (
    ImageNetEntry("ResNet-50", 25.6, 3.9, 24.6, 7.5, _RESNET.format(50)),
    ImageNetEntry("ResNet-50+SE", 28.1, 3.9, 23.1, 6.7, _SERESNET.format(50)),
    ImageNetEntry("ResNet-50+CBAM", 28.1, 3.9, 22.7, 6.3),
    ImageNetEntry("ResNet-101", 44.6, 7.6, 23.4, 6.9, _RESNET.format(101)),
    ImageNetEntry("ResNet-101+SE", 49.3, 7.6, 22.4, 6.2, _SERESNET.format(101)),
    ImageNetEntry("ResNet-101+CBAM", 49.3, 7.6, 21.5, 5.7),
    ImageNetEntry("ResNeXt-50", 25.0, 3.8, 22.9, 6.5, _RESNEXT.format(50)),
    ImageNetEntry("ResNeXt-50+SE", 27.6, 3.8, 21.9, 6.0, _SERESNEXT.format(50)),
    ImageNetEntry("ResNeXt-101", 44.2, 7.5, 21.5, 5.8, _RESNEXT.format(101)),
    ImageNetEntry("ResNeXt-101+SE", 49.0, 7.5, 21.2, 5.7, _SERESNEXT.format(101)),
    ImageNetEntry("ResNeXt-101+SK", 48.9, 8.5, 20.2, None),
    ImageNetEntry("DenseNet-169", 14.2, 3.5, 23.8, 6.9, _DENSENET.format(169)),
    ImageNetEntry("DenseNet-201", 20.0, 4.4, 22.6, 6.3, _DENSENET.format(201)),
    ImageNetEntry(
        *("DenseNet-264", 33.4, 6.0, 22.2, 6.1, _DENSENET.format(201)),
        changes=dict(backbone=dict(arch=_DENSENET264), head=dict(in_channels=2688)),
    ),
    ImageNetEntry("SparseNet-201", 14.9, 9.2, 22.7, None),
    ImageNetEntry("MixNet-105", 11.2, 5.0, 23.3, 6.7),
    ImageNetEntry("MixNet-121", 21.9, 8.3, 21.9, 5.9),
    ImageNetEntry("MixNet-141", 41.1, 13.1, 20.4, 5.3),
    ImageNetEntry("DPN-68", 12.8, 2.5, 23.6, 6.9),
    ImageNetEntry("DPN-92", 38.0, 6.5, 20.7, 5.4),
    ImageNetEntry("DPN-98", 61.6, 11.7, 20.2, 5.2),
    ImageNetEntry(
        *("WideResNet-18", 45.6, 6.7, 25.6, 8.2, _RESNET.format(18)),
        changes=dict(backbone=dict(base_channels=128), head=dict(in_channels=1024)),
    ),
    ImageNetEntry("WideResNet-18+SE", 46.0, 6.7, 24.9, 7.7),
    ImageNetEntry("AOGNet-12M", 11.9, 2.4, 22.3, 6.1),
    ImageNetEntry("AOGNet-40M", 40.3, 8.9, 19.8, 4.9),
    ImageNetEntry("HCGNet-B", 12.9, 2.0, 21.5, 5.9, _HCGNET.format("b")),
    ImageNetEntry("HCGNet-C", 42.2, 7.1, 19.5, 4.8, _HCGNET.format("c")),
)

_MASK_RCNN = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"

COCO = (
    CocoEntry("ResNet-50-FPN", 44.2, 275.6, 37.3, 59.9, 40.2, 34.2, 55.9, 36.2, _MASK_RCNN),
    CocoEntry("AOGNet-12M-FPN", 31.2, None, 38.0, 59.8, 41.3, 34.6, 56.6, 36.4),
    CocoEntry(
        *("HCGNet-B-FPN", 32.1, 230.4, 38.3, 60.6, 41.3, 35.2, 57.5, 37.1),
        config="mask-rcnn_hcgnet-b_fpn_1x_coco_v1",
    ),
)

# Sizes of the attack, for images in [0, 1]; the accuracies are those of the authors' repository.
EPSILONS = (0, 0.001, 0.002, 0.003, 0.004, 0.005)
ROBUSTNESS = (
    RobustnessEntry("ResNet-50", (76.2, 38.4, 22.8, 15.8, 12.1, 10.2)),
    RobustnessEntry("DenseNet-169", (76.0, 35.3, 19.4, 12.5, 9.4, 7.7)),
    RobustnessEntry("ResNeXt-50", (77.6, 38.2, 23.9, 17.7, 14.8, 13.1)),
    RobustnessEntry("Wide ResNet-50", (78.5, 43.9, 27.9, 20.2, 16.2, 13.9)),
    RobustnessEntry("HCGNet-B", (78.5, 48.0, 41.5, 38.6, 37.0, 36.0)),
)
