"""Draw the errors of the paper's tables 2 and 3 against parameters and FLOPs, all the paper's."""

import argparse
import itertools
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Two of Okabe and Ito's colours, which colour-blind readers tell apart, as they do the markers.
OURS, OTHERS = "#D55E00", "#0072B2"


class Point(NamedTuple):
    """A network in a panel."""

    name: str
    x: float
    y: float
    ours: bool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="docs", help="folder for the three PNG files")
    return parser.parse_args()


def points(table: str, error: str, cost: str) -> list[Point]:
    """A table's networks that have both; ``cost`` is ``"params"`` (million) or ``"flops"`` (G)."""
    from mmhcgnet.analysis import paper

    found = [(e, getattr(e, cost), getattr(e, error)) for e in getattr(paper, table)]
    return [Point(e.name, x, y, e.ours) for e, x, y in found if None not in (x, y)]


def draw(
    ax: "Axes", points: list[Point], title: str, xlabel: str, ylabel: str, ticks: list[int]
) -> None:
    """Draw one panel, without the names."""
    ours = sorted((point.x, point.y) for point in points if point.ours)
    others = [(point.x, point.y) for point in points if not point.ours]
    ax.scatter(*np.transpose(others), s=26, color=OTHERS, zorder=3)
    ax.plot(*np.transpose(ours), color=OURS, linewidth=1.2, zorder=2)
    ax.scatter(*np.transpose(ours), s=130, marker="*", color=OURS, zorder=4)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.margins(0.12, 0.09)
    ax.grid(color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)


def label(ax: "Axes", points: list[Point]) -> list["Annotation"]:
    """Write each name next to its point, where it covers no other name, no point and no line."""
    from matplotlib.transforms import Bbox

    ax.figure.canvas.draw()
    scale = ax.figure.dpi / 72
    panel = ax.get_window_extent()

    def around(position: np.ndarray, half: float) -> "Bbox":
        return Bbox([position - half * scale, position + half * scale])

    # Ours first: they get the best places.
    points = sorted(points, key=lambda point: (not point.ours, point.x))
    centres = ax.transData.transform([(point.x, point.y) for point in points])
    taken = [
        around(centre, 6 if point.ours else 3.5)
        for point, centre in zip(points, centres, strict=True)
    ]
    for start, end in itertools.pairwise(centres[: sum(point.ours for point in points)]):
        taken += [around(start + t * (end - start), 1) for t in np.linspace(0, 1, 60)]

    labels = []
    for point, centre in zip(points, centres, strict=True):
        bold = dict(fontsize=8, fontweight="bold", color=OURS)
        style, reach = (bold, 1.4) if point.ours else (dict(fontsize=7), 1)
        probe = ax.text(0, 0, point.name, **style)
        extent = probe.get_window_extent()
        probe.remove()
        places = []
        for right, up, distance in _PLACES:
            offset = np.multiply((right, up), distance * reach)
            # The side or corner of the name that faces the point stands at the place.
            corner = centre + offset * scale + ((right, up) - np.ones(2)) / 2 * extent.size
            box = Bbox.from_bounds(*corner, *extent.size)
            covered = sum(_common_area(box, other) for other in taken)
            outside = np.prod(extent.size) - _common_area(box, panel)
            # A name that is nearer to another point reads as that one's.
            own = _distance(box, centre)
            rivals = sum(_distance(box, other) < own + scale for other in centres) - 1
            places.append((round(covered + 9 * outside + 30 * rivals), offset, right, up, box))
        # Of equals the first, the nearest.
        _, offset, right, up, box = min(places, key=lambda place: place[0])
        taken.append(box.padded(scale))
        labels.append(
            ax.annotate(
                point.name,
                (point.x, point.y),
                xytext=offset,
                textcoords="offset points",
                ha=("right", "center", "left")[right + 1],
                va=("top", "center", "bottom")[up + 1],
                in_layout=False,  # which would move the panel once more
                **style,
            )
        )
    return labels


# To the right, left, above, below, then the corners; distances in points.
_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_PLACES = [
    (right, up, distance / (abs(right) + abs(up)) ** 0.5)
    for distance in (6, 8, 10, 14)
    for right, up in _DIRECTIONS
]


def _common_area(box: "Bbox", other: "Bbox") -> float:
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(width, 0) * max(height, 0)


def _distance(box: "Bbox", position: np.ndarray) -> float:
    return float(np.linalg.norm(position - np.clip(position, box.min, box.max)))


def figure(panels: list[tuple[list[Point], str, str, str, list[int]]]) -> "Figure":
    """Draw panels side by side; each has points, a title, the names of its axes, and ticks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(5.6 * len(panels), 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(fig)
    for ax, (points, *axis) in zip(fig.subplots(1, len(panels)), panels, strict=True):
        draw(ax, points, *axis)
    for ax, (points, *_) in zip(fig.axes, panels, strict=True):
        label(ax, points)
    return fig


def figures() -> dict[str, "Figure"]:
    """Draw all panels, two to a figure."""
    costs = dict(params="parameters (million, log scale)", flops="FLOPs (G, log scale)")
    cifar_ticks = dict(params=[1, 2, 5, 10, 20, 50], flops=[0.2, 0.5, 1, 2, 5, 10, 20])
    imagenet_ticks = dict(params=[10, 20, 40, 60], flops=[2, 4, 6, 8, 12])
    names = dict(params="error_cifar", flops="error_cifar_flops")
    panels = {
        names[cost]: [
            (
                points("CIFAR", f"cifar{n}", cost),
                f"CIFAR-{n}, table 2 of the paper",
                costs[cost],
                "test error (%)",
                cifar_ticks[cost],
            )
            for n in (10, 100)
        ]
        for cost in costs
    }
    title, error = "ImageNet, table 3 of the paper", "top-1 error (%)"
    panels["error_imagenet"] = [
        (points("IMAGENET", "top1", cost), title, costs[cost], error, imagenet_ticks[cost])
        for cost in costs
    ]
    return {name: figure(row) for name, row in panels.items()}


def main() -> None:
    args = parse_args()
    from mmhcgnet.analysis.report import check_matplotlib
    from mmhcgnet.cli.report import report_usage_errors

    with report_usage_errors():
        check_matplotlib()
        os.makedirs(args.out, exist_ok=True)
        for name, fig in figures().items():
            path = os.path.join(args.out, f"{name}.png")
            fig.savefig(path)
            print(path)


if __name__ == "__main__":
    main()
