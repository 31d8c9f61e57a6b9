"""The paper's tables next to our own counts of the same networks."""

from __future__ import annotations

import dataclasses

from mmhcgnet.analysis import paper
from mmhcgnet.engine.configs import load_config
from mmhcgnet.engine.models import build_model

from .counting import Complexity, count, input_shape

# What MMDetection 1.x, with which the paper's detectors were made, counted its FLOPs on.
COCO_SHAPE = (3, 800, 1280)


@dataclasses.dataclass(frozen=True)
class Row:
    """An entry of the paper and our counts, ``None`` where there is no config to count.

    In table 2, there are two counts, by the number of classes.
    """

    paper: paper.Entry
    computed: Complexity | dict[int, Complexity] | None


def count_network(
    config: str, changes: dict | None = None, shape: tuple[int, int, int] | None = None
) -> Complexity:
    """Count a network of the tables.

    Args:
        config: As for :func:`load_config`.
        changes: What to change in its model.
        shape: Shape of the image. Defaults to that of the config's own test.
    """
    cfg = load_config(config)
    cfg.merge_from_dict(dict(model=dict(changes or {})))
    return count(build_model(cfg), shape or input_shape(cfg))[""]


def compare_cifar() -> list[Row]:
    """Table 2, for 10 and for 100 classes."""
    return [
        Row(e, e.config and {n: count_network(e.config.format(n)) for n in (10, 100)})
        for e in paper.CIFAR
    ]


def compare_imagenet() -> list[Row]:
    """Table 3."""
    return [Row(e, e.config and count_network(e.config, e.changes)) for e in paper.IMAGENET]


def compare_coco() -> list[Row]:
    """Table 4, at the paper's 1280 x 800 pixels."""
    return [Row(e, e.config and count_network(e.config, shape=COCO_SHAPE)) for e in paper.COCO]


def flops_ratios(rows: list[Row]) -> tuple[float, float]:
    """HCGNet-B-FPN over ResNet-50-FPN in table 4: the paper's FLOPs, our multiply-adds."""
    by_name = {row.paper.name: row for row in rows}
    ours, theirs = by_name["HCGNet-B-FPN"], by_name["ResNet-50-FPN"]
    return (
        ours.paper.flops / theirs.paper.flops,
        ours.computed.multiply_adds / theirs.computed.multiply_adds,
    )
