"""What the gates of HCGNet do on an image: spatial attention and channel weights, as figures.

The maps are the softmax weights of eq. 5, one for each branch of the update gate and one for the
forget gate; the channel weights are ``u3`` and ``u5`` of eq. 9 and ``f`` of eq. 11.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mmhcgnet.analysis.report import new_figure
from mmhcgnet.errors import UsageError, did_you_mean
from mmhcgnet.models import HCGNet
from mmhcgnet.models.blocks import SMG
from mmhcgnet.models.gates import pooling_dtype

from .images import Sample, lay_over, thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

# Three of Okabe and Ito's colours, which colour-blind readers tell apart.
_U3, _U5, _F = "#0072B2", "#D9D9D9", "#D55E00"
_MAPS = dict(
    attention3="update gate, 3×3", attention5="update gate, dilated 3×3", attention="forget gate"
)
_THUMBNAIL = 96  # pixels of the longer side in the contact sheet


@dataclasses.dataclass(frozen=True)
class Gates:
    """What the gates of one module do on one image.

    Args:
        attention3: Weights of the positions in the 3x3 branch, ``(H, W)``, which add up to 1.
        attention5: The same in the branch of the dilated 3x3 convolution.
        attention: The same in the forget gate.
        u3: Share of the 3x3 branch in each channel, ``(C,)``.
        u5: Share of the dilated branch, ``1 - u3``.
        f: Weight of each channel of the squeezed map, ``(C,)``, from 0 to 1.
    """

    attention3: Tensor
    attention5: Tensor
    attention: Tensor
    u3: Tensor
    u5: Tensor
    f: Tensor


def find_network(model: nn.Module) -> HCGNet | None:
    """Return the HCGNet in a model, or ``None``.

    Raises:
        UsageError: If it is deployed.
    """
    network = next((part for part in model.modules() if isinstance(part, HCGNet)), None)
    if network is not None and network.deployed:
        raise UsageError(
            "The gates of a deployed HCGNet are folded and cannot be read: give a config without "
            "deploy=True, and the checkpoint that the deployed one was made of."
        )
    return network


def modules_of(network: HCGNet) -> dict[str, SMG]:
    """Return the SMG modules by name, in the order in which an image passes them."""
    modules = {}
    for i, stage in enumerate(network.stages):
        modules |= {f"stages.{i}.{j}": module for j, module in enumerate(stage)}
        if i < len(network.stages) - 1:
            modules[f"transitions.{i}"] = network.transitions[i]
    return modules


def choose_modules(network: HCGNet, chosen: Sequence[str]) -> list[str]:
    """Return the names of chosen modules; ``stages.3`` stands for all modules of that stage.

    Raises:
        UsageError: If the module does not exist.
    """
    names = list(modules_of(network))
    found = []
    for choice in chosen:
        matches = [name for name in names if name == choice or name.startswith(f"{choice}.")]
        if not matches:
            raise UsageError(
                f"The network has no module {choice!r}{did_you_mean(choice, names)}: choose "
                f"of {len(names)} such as {names[0]}."
            )
        found += [name for name in matches if name not in found]
    return found


MODULES_HEADER = ["module", "channels read", "channels made", "stride"]


def module_rows(network: HCGNet) -> list[list[str]]:
    """Describe all modules in rows for ``MODULES_HEADER``; the stride is in pixels of the image."""
    rows = []
    stride = network.arch.stem_stride
    for name, module in modules_of(network).items():
        stride *= module.squeeze2.conv.stride[0]
        read = module.squeeze1.conv.in_channels
        rows.append([name, str(read), str(module.out_channels), str(stride)])
    return rows


@torch.no_grad()
def read_gates(network: HCGNet, image: Tensor) -> dict[str, Gates]:
    """Let a network read an image, and return what the gates of all its modules did.

    Args:
        network: A network in eval mode, which has its plain form without gradients.
        image: Normalised image of shape ``(in_channels, H, W)`` on the network's device.

    Returns:
        Gates on the CPU by the names of :func:`modules_of`.
    """
    assert not network.training, "batch statistics would be of this image alone"
    outputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[layer] = output[0]

    modules = modules_of(network)
    with ExitStack() as hooks:
        for module in modules.values():
            update, forget = module.update_gate, module.forget_gate
            for layer in (
                *(update.attention3, update.attention5, update.expand3, update.expand5),
                *(forget.attention, forget),
            ):
                hooks.callback(layer.register_forward_hook(keep).remove)
        network(image[None])

    def positions(attention: nn.Module) -> Tensor:
        logits = outputs[attention][0]  # (H, W)
        weights = logits.flatten().to(pooling_dtype(logits)).softmax(dim=0)
        return weights.view_as(logits).cpu()

    gates = {}
    for name, module in modules.items():
        update, forget = module.update_gate, module.forget_gate
        u3, u5 = torch.stack([outputs[update.expand3], outputs[update.expand5]]).softmax(dim=0)
        gates[name] = Gates(
            attention3=positions(update.attention3),
            attention5=positions(update.attention5),
            attention=positions(forget.attention),
            u3=u3.cpu(),
            u5=u5.cpu(),
            f=outputs[forget].cpu(),
        )
    return gates


def as_arrays(gates: Mapping[str, Gates]) -> dict[str, np.ndarray]:
    """Return all maps and weights by ``<module>.<name in Gates>``."""
    return {
        f"{name}.{field.name}": getattr(values, field.name).numpy()
        for name, values in gates.items()
        for field in dataclasses.fields(values)
    }


def _relative(attention: Tensor) -> Tensor:
    """Attention in units of its mean."""
    return attention * attention.numel()


def _colours(attention: Tensor) -> ScalarMappable:
    """Blue below the mean, grey at it, red above.

    The red reaches to twice the mean at least: a map that is all but even, as those of untrained
    gates are, looks even.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm

    end = max(2.0, float(_relative(attention).max()))
    return ScalarMappable(TwoSlopeNorm(1, 0, end), "coolwarm")


def _overlay(picture: np.ndarray, attention: Tensor, sample: Sample) -> np.ndarray:
    return lay_over(picture, _relative(attention), sample.covered, _colours(attention))


_TITLE = "Where the gates of HCGNet look in an image, module by module"
_LEGEND = """\
HCGNet is a chain of modules, in stages whose maps get coarser. In each module, gates look at all positions
of the map, and then decide for every channel what goes on to the next module.

Red: the gate looks here more than on average. Blue: less. Grey: as much as on average. The numbers are the
highest weights of the three maps, in units of the mean: at 1.0, a gate looks everywhere alike.

The chart next to the maps shows what the gates decide, with the channels sorted; the one on the right says
which is which."""  # noqa: E501


def contact_sheet(sample: Sample, gates: Mapping[str, Gates]) -> Figure:
    """Draw all modules: a column for each stage, its transition to the next one in the last row.

    Each has its three maps, red where the weight lies above the mean, and its channel weights,
    sorted: ``u3`` as an area and ``f`` as a line. What they are is said above.

    Args:
        sample: The image.
        gates: What :func:`read_gates` returned of it.
    """
    places = {}
    for name in gates:
        kind, stage, *index = name.split(".")
        places[name] = (int(index[0]) if kind == "stages" else None, int(stage))
    last = 1 + max(row for row, _ in places.values() if row is not None)
    rows = last + any(row is None for row, _ in places.values())
    columns = 1 + max(column for _, column in places.values())

    picture = thumbnail(sample.picture, _THUMBNAIL)
    height, width = picture.shape[:2]
    # Three maps with gaps, and the weights in a panel of one and a half times the height.
    strip = 3 * width + 2 * 2
    cell = (strip + 1.5 * _THUMBNAIL) / 100 + 0.25, height / 100 + 0.3
    heights = [2.4, rows * cell[1] + 0.6]
    figure = new_figure(max(columns * cell[0], 11), sum(heights))
    figure.suptitle(_TITLE, fontsize=14, fontweight="bold")
    top, body = figure.subfigures(2, 1, height_ratios=heights)
    _draw_legend(top, sample)
    grid = body.add_gridspec(
        1 + rows,
        2 * columns,
        width_ratios=[strip, 1.5 * _THUMBNAIL] * columns,
        height_ratios=[0.45, *[cell[1]] * rows],
    )
    for name, (row, column) in places.items():
        row = last if row is None else row
        maps = [getattr(gates[name], key) for key in _MAPS]
        if row == 0:
            heading = body.add_subplot(grid[0, 2 * column : 2 * column + 2])
            heading.set_axis_off()
            size = " × ".join(map(str, maps[0].shape))
            heading.text(0, 0.5, f"Stage {column}: {size} positions", fontsize=10)
            for i, short in enumerate(("update 3×3", "update dilated", "forget")):
                at = (i + 0.5) * width / (strip + 1.5 * _THUMBNAIL)
                heading.text(at, -0.3, short, fontsize=8, ha="center")
        gap = np.ones((height, 2, 3))
        overlays = [_overlay(picture, attention, sample) for attention in maps]
        ax = body.add_subplot(grid[1 + row, 2 * column])
        ax.imshow(np.hstack([overlays[0], gap, overlays[1], gap, overlays[2]]))
        ax.set_axis_off()
        peaks = " | ".join(f"{_relative(attention).max():.1f}" for attention in maps)
        ax.set_title(f"{name}   {peaks}", fontsize=8, pad=2)
        chart = body.add_subplot(grid[1 + row, 2 * column + 1])
        weights = (gates[name].u3, gates[name].f)
        _draw_stairs(chart, *(each.sort(descending=True).values.numpy() for each in weights))
    return figure


def _draw_legend(figure: Any, sample: Sample) -> None:
    """Draw the image, and say what is to be seen."""
    image, text, bar, chart = figure.subplots(
        1, 4, gridspec_kw=dict(width_ratios=[1.3, 4.6, 0.12, 1.9])
    )
    image.imshow(sample.picture)
    image.set_title("The image", fontsize=9)
    image.set_axis_off()
    text.set_axis_off()
    text.text(0, 1, _LEGEND, fontsize=11, va="top", linespacing=1.4)
    even = torch.ones(1, 2)
    scale = figure.colorbar(_colours(even), cax=bar, ticks=[0, 1, 2])
    scale.ax.set_yticklabels(["less", "average", "twice\nor more"], fontsize=8)
    share, kept = np.linspace(0.85, 0.4, 40), np.linspace(0.65, 0.15, 40)
    _draw_stairs(chart, share, kept)
    chart.set_title("One column for each channel", fontsize=9)
    chart.text(39, 0.8, "from the dilated\n3×3 branch (u5)", fontsize=8, ha="right")
    chart.text(1, 0.05, "from the 3×3 branch (u3)", fontsize=8, color="white")
    chart.text(1, 0.45, "line: kept by\nthe forget gate (f)", fontsize=8, color="white")


def _draw_stairs(ax: Axes, u3: np.ndarray, f: np.ndarray) -> None:
    # Edges of steps, so that a single channel has a width, too.
    places = np.arange(len(u3) + 1)
    ax.stairs(u3, places, fill=True, color=_U3)
    ax.stairs(f, places, baseline=None, color=_F, linewidth=1.2)
    ax.axhline(0.5, color="#888888", linewidth=0.5)
    ax.set_xlim(0, len(u3))
    ax.set_ylim(0, 1)
    ax.set_xticks([])
    ax.set_yticks([])


def module_figure(name: str, sample: Sample, gates: Gates) -> Figure:
    """Draw one module: the image, its three maps with their scales, and its channels as bars.

    Args:
        name: Name of the module.
        sample: The image.
        gates: What its gates did.
    """
    height, width = sample.picture.shape[:2]
    figure = new_figure(13, 13 / 4 * min(height / width, 2) + 2.9)
    top, bottom = figure.subfigures(2, 1, height_ratios=[figure.get_figheight() - 2.5, 2.5])
    # Large enough to be read, and no larger where the image is.
    picture = thumbnail(sample.picture, max(320, min(640, max(height, width))))
    image, *axes = top.subplots(1, 4)
    image.imshow(sample.picture)
    image.set_title(f"{name}, image of {height} × {width}", fontsize=9)
    image.set_axis_off()
    for ax, (key, title) in zip(axes, _MAPS.items(), strict=True):
        attention = getattr(gates, key)
        ax.imshow(_overlay(picture, attention, sample))
        ax.set_title(f"{title}, {' × '.join(map(str, attention.shape))}", fontsize=9)
        ax.set_axis_off()
        bar = top.colorbar(_colours(attention), ax=ax, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("weight in units of the mean", fontsize=7)
    update, forget = bottom.subplots(1, 2)
    channels = np.arange(len(gates.u3))
    u3, u5 = gates.u3.numpy(), gates.u5.numpy()
    update.bar(channels, u3, width=1, color=_U3, label=f"u3, mean {u3.mean():.2f}")
    update.bar(channels, u5, width=1, bottom=u3, color=_U5, label=f"u5, mean {u5.mean():.2f}")
    f = gates.f.numpy()
    forget.bar(channels, f, width=1, color=_F, label=f"f, mean {f.mean():.2f}")
    for ax in (update, forget):
        ax.set_xlim(-0.5, len(channels) - 0.5)
        ax.set_ylim(0, 1)
        ax.set_xlabel("channel", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.legend(fontsize=8, loc="lower right")
        ax.spines[["top", "right"]].set_visible(False)
    return figure
