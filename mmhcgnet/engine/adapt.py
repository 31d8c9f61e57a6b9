"""HCGNet in the place of the ResNet of any config, with what reads it rewired."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict

from mmhcgnet.config_dicts import type_name
from mmhcgnet.errors import UsageError
from mmhcgnet.models.architecture import Architecture
from mmhcgnet.models.arguments import stage_indices

RESNETS = ("ResNet", "ResNetV1c", "ResNetV1d", "ResNeXt")
# What HCGNet takes as it is.
_CARRIED = ("in_channels", "frozen_stages", "norm_eval", "norm_cfg", "with_cp")
# What makes a ResNet the one that it is, and has no counterpart to lose.
_OWN = {
    *("type", "depth", "num_stages", "style", "deep_stem", "avg_down", "stem_channels"),
    *("base_channels", "expansion", "zero_init_residual", "groups", "base_width"),
    *("width_per_group", "contract_dilation", "out_indices", "strides", "dilations"),
    *("init_cfg", "pretrained", "_scope_"),
}
# Parts of a model that read no map.
_OTHERS = ("data_preprocessor", "train_cfg", "test_cfg", "init_cfg")
_WIDTH = 88  # of what is written in a line


@dataclasses.dataclass
class Adaptation:
    """What :func:`adapt_config` has changed, as sentences that begin with the key.

    Attributes:
        changes: What was replaced or rewired.
        losses: What the config asks of its ResNet and HCGNet does not have.
    """

    changes: list[str] = dataclasses.field(default_factory=list)
    losses: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [*self.changes, *(f"LOST: {loss}" for loss in self.losses)]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Level:
    """A map: its channels by the config, and those that it has now."""

    old: int
    new: int


def adapt_config(
    cfg: Config, arch: str | dict = "B", pretrained: str | None = None, **backbone: Any
) -> tuple[Config, Adaptation]:
    """Put an HCGNet in the place of every ResNet of a config of any MM toolbox.

    ResNetV1c, ResNetV1d and ResNeXt count, and in nested models all of them are replaced: detector,
    teacher and student, image encoder. The levels stay those of the config (``out_indices``,
    ``strides``, ``dilations``), and so do ``frozen_stages``, ``norm_eval``, ``norm_cfg``,
    ``with_cp`` and ``in_channels``. Necks, heads and RoI extractors that read the backbone get its
    channels. A head on RoIs that is itself a stage of ResNet (``shared_head``, in C4 models) stays,
    behind a ``ChannelMapper``. What HCGNet does not have is left out with a warning.

    Args:
        cfg: A config with a ``model``. It is not changed.
        arch: As of :class:`mmhcgnet.HCGNet`.
        pretrained: A checkpoint that holds the backbone's weights under ``backbone.``. Without one,
            nothing gives it weights: then ``frozen_stages=-1, norm_eval=False`` trains all of it.
        **backbone: Further arguments of every HCGNet, which come before the config's.

    Returns:
        The adapted config, and what was changed.

    Raises:
        UsageError: If there is no ResNet in the model, or something reads it in a way that is not
            known; the message names the key.
        ValueError: If ``arch`` is not one of :class:`mmhcgnet.HCGNet`.
    """
    adapted = copy.deepcopy(cfg)
    model = adapted.get("model")
    if not isinstance(model, dict):
        raise UsageError(f"The config {cfg.filename} has no model: give a complete config.")
    adapter = _Adapter(arch, pretrained, backbone, adapted.get("default_scope"))
    adapter.visit(model, "model")
    report = adapter.report
    if not report.changes:
        raise UsageError(
            f"The model of the config {cfg.filename} has none of {', '.join(RESNETS)}, whose place "
            "HCGNet could take."
        )
    if report.losses:
        warnings.warn(
            "HCGNet lacks what the config asks for: " + " ".join(report.losses), stacklevel=2
        )
    return adapted, report


def write_child(base: str, original: Config, adapted: Config) -> str:
    """Write a config that inherits another one and states what :func:`adapt_config` has changed.

    Args:
        base: What ``_base_`` is to be: a path from the new config's folder, or ``PACKAGE::PATH``.
        original: The config there.
        adapted: What it became.

    Raises:
        UsageError: If the original is in MMEngine's new style, which other configs import.
    """
    if original._imported_names:
        raise UsageError(
            f"The config {base} is of MMEngine's new style, from which a config of the usual one "
            "cannot inherit: use mmhcgnet.adapt_config(cfg) in Python."
        )
    changes = _changes(adapted.model, original.model)
    return f"_base_ = {_shown(base)}\n\nmodel = {_written(changes)}\n"


def _changes(adapted: dict, original: dict) -> dict:
    """What a dict that inherits ``original`` states in order to be ``adapted``."""
    if adapted.get("type") != original.get("type"):
        return dict(_delete_=True, **adapted)
    changed = {}
    for key, value in adapted.items():
        before = original.get(key)
        if value == before:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            changed[key] = _changes(value, before)
        elif isinstance(value, dict) and key in original:
            changed[key] = dict(_delete_=True, **value)  # MMEngine merges no dict into a list
        else:
            changed[key] = value
    return changed


def _written(value: Any, indent: int = 0) -> str:
    """A value as a config states it, one item a line where it does not fit into one."""
    flat = _shown(value)
    fits = len(flat) < _WIDTH - 4 * indent and indent > 0
    if fits or not isinstance(value, dict | list):
        return flat
    margin = "    " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{key}={_written(each, indent + 1)}" for key, each in value.items()]
    else:
        items = [_written(each, indent + 1) for each in value]
    lines = "".join(f"{margin}{item},\n" for item in items)
    begin, end = ("dict(", ")") if isinstance(value, dict) else ("[", "]")
    return f"{begin}\n{lines}{margin[4:]}{end}"


class _Adapter:
    """One call of :func:`adapt_config`."""

    def __init__(
        self, arch: str | dict, pretrained: str | None, backbone: dict, scope: str | None
    ) -> None:
        self.arch = arch
        self.numbers = Architecture.create(arch)
        if self.numbers.stem != "imagenet":
            raise UsageError(
                f"arch={arch!r} is for images of CIFAR's size and has no maps at a ResNet's "
                "strides: choose B, C or a dict with stem='imagenet'."
            )
        self.pretrained = pretrained
        self.backbone = backbone
        self.scope = scope
        self.report = Adaptation()

    def visit(self, node: Any, path: str) -> None:
        """Replace what is in a part of the model."""
        if isinstance(node, list | tuple):
            for i, child in enumerate(node):
                self.visit(child, f"{path}.{i}")
            return
        if not isinstance(node, dict):
            return
        names = [name for name, child in node.items() if _resnet_in(child)]
        for name in names:
            self._replace(node, name, path, [other for other in names if other != name])
        for name, child in list(node.items()):
            if name not in names:
                self.visit(child, f"{path}.{name}")

    def _replace(self, parent: dict, name: str, path: str, others: list[str]) -> None:
        """Replace one ResNet and rewire what else in its parent reads it.

        Args:
            parent: The model, or a part of it.
            name: The key of the ResNet, or of a list that begins with it and continues with necks.
            path: The parent's key.
            others: The keys of other ResNets of the parent, such as a teacher's.
        """
        wrapper = type_name(parent)
        if wrapper == "ICNet":
            raise UsageError(
                f"{path} is an ICNet, which calls the layers of its ResNet one by one "
                "(layer1 to layer4), so that no other backbone can take its place."
            )
        in_list = isinstance(parent[name], list | tuple)
        resnet = parent[name][0] if in_list else parent[name]
        network, levels = self._convert(resnet, f"{path}.{name}" + (".0" if in_list else ""))
        if in_list:
            necks = list(parent[name][1:])
            parent[name] = type(parent[name])([network, *necks])
            levels = self._through(necks, f"{path}.{name}", levels)
        else:
            parent[name] = network
        if parent.get("pretrained") is not None:  # MMSegmentation hands it on to the backbone
            self.report.changes.append(f"{path}.pretrained: {parent['pretrained']} -> None")
            parent["pretrained"] = None
        if wrapper == "BiSeNetV1":
            self._rewire_bisenet(parent, path, levels)
            return
        # A teacher's neck and heads have its prefix; a student's are all that have no other's.
        prefix = name.removesuffix("backbone") if name.endswith("backbone") else ""
        foreign = [other.removesuffix("backbone") for other in others]
        readers = [
            key
            for key in parent
            if key.startswith(prefix)
            and key not in (name, *others, *_OTHERS)
            and not any(own and own != prefix and key.startswith(own) for own in foreign)
        ]
        neck = parent.get(f"{prefix}neck")
        if neck is None and "shared_head" in (parent.get(f"{prefix}roi_head") or {}):
            self._map_channels(parent, f"{prefix}neck", path, levels)
            return
        if neck is not None:
            levels = self._through(
                neck if isinstance(neck, list | tuple) else [neck], f"{path}.{prefix}neck", levels
            )
        if levels:
            for key in readers:
                if key != f"{prefix}neck":
                    self._rewire(parent[key], f"{path}.{key}", levels, "head" in key)

    def _convert(self, resnet: dict, path: str) -> tuple[ConfigDict, list[_Level]]:
        """Return the HCGNet for a ResNet, and the maps of both."""
        toolbox = _scope_of(resnet) or self.scope
        given = resnet.get("out_indices", (3,) if toolbox == "mmpretrain" else (0, 1, 2, 3))
        arguments = dict(out_indices=given)
        if not self.backbone.keys() & {"output_stride", "strides", "dilations"}:
            arguments |= _geometry(resnet, path)
        if toolbox == "mmdet":  # whose ResNet does so unless it is told not to
            arguments["norm_eval"] = True
        arguments |= {key: resnet[key] for key in _CARRIED if key in resnet}
        if (arguments.get("norm_cfg") or {}).get("eps") == 0:  # which goes with its weights
            arguments["norm_cfg"] = {k: v for k, v in arguments["norm_cfg"].items() if k != "eps"}
            self.report.losses.append(f"{path}.norm_cfg.eps=0 is left out.")
        groups = (arguments.get("norm_cfg") or {}).get("num_groups", 1)
        if groups != 1 and "norm_cfg" not in self.backbone:
            arguments["norm_cfg"] = dict(arguments["norm_cfg"], num_groups=1)
            self.report.losses.append(
                f"{path}.norm_cfg: {groups} groups do not divide HCGNet's widths, so it has 1; "
                'norm_cfg=dict(type="BN") suits pretrained weights.'
            )
        for key, value in resnet.items():
            if key not in _OWN and key not in _CARRIED and value not in (None, False, 0):
                self.report.losses.append(f"{path}.{key}={_shown(value)} is left out.")
        if self.pretrained is not None:
            arguments["init_cfg"] = dict(
                type="Pretrained", checkpoint=self.pretrained, prefix="backbone."
            )
        arguments |= self.backbone
        levels = self._levels(resnet, given, arguments["out_indices"], path)
        network = ConfigDict(type="mmhcgnet.HCGNet", arch=self.arch, **arguments)
        shown = ", ".join(f"{key}={_shown(value)}" for key, value in network.items())
        self.report.changes.append(
            f"{path}: {type_name(resnet)}-{resnet.get('depth')} -> dict({shown})"
        )
        if network.get("init_cfg") is None and network.get("frozen_stages", -1) >= 0:
            self.report.changes.append(
                f"{path}.init_cfg: no weights, and frozen_stages={network.frozen_stages} freezes "
                "random ones: give pretrained, or frozen_stages=-1, norm_eval=False"
            )
        return network, levels

    def _levels(self, resnet: dict, old: Any, new: Any, path: str) -> list[_Level]:
        stages = len(self.numbers.depths)
        try:
            before = stage_indices(old, resnet.get("num_stages", 4))
            after = stage_indices(new, stages)
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from error
        if len(before) != len(after):
            raise UsageError(
                f"{path} has the {len(before)} maps of out_indices={old}, and out_indices={new} "
                "are not as many: give as many."
            )
        base = resnet.get("base_channels", 64)
        base *= resnet.get("expansion") or (4 if resnet.get("depth", 50) >= 50 else 1)
        widths = self.numbers.stage_channels
        return [_Level(base * 2**i, widths[j]) for i, j in zip(before, after, strict=True)]

    def _map_channels(self, parent: dict, name: str, path: str, levels: list[_Level]) -> None:
        """Give a C4 model, whose head on RoIs is a stage of ResNet, the maps that it reads."""
        kind = "ChannelMapper" if self.scope == "mmdet" else "mmdet.ChannelMapper"
        parent[name] = ConfigDict(
            type=kind,
            in_channels=[level.new for level in levels],
            out_channels=levels[-1].old,
            kernel_size=1,
            num_outs=len(levels),
            norm_cfg=dict(type="BN"),
        )
        self.report.changes.append(
            f"{path}.{name}: {kind} to the {levels[-1].old} channels that the shared head reads"
        )

    def _through(self, necks: list[dict], path: str, levels: list[_Level]) -> list[_Level] | None:
        """Rewire the first neck that reads channels.

        Returns:
            The maps behind the necks, ``None`` if they are what they were.
        """
        for neck in necks:
            if "in_channels" not in neck:  # pooling and the like
                continue
            self._rewire(neck, path, levels, reads=True)
            if type_name(neck) != "JPU":
                return None
            made = neck.get("mid_channels", 512) * len(neck.get("dilations", (1, 2, 4, 8)))
            start, end = neck.get("start_level", 0), neck.get("end_level", -1)
            end = len(levels) if end == -1 else end
            return [*levels[start : end - 1], _Level(made, made)]
        return levels

    def _rewire(self, node: Any, path: str, levels: list[_Level], reads: bool) -> None:
        """Set the channels of what reads the maps.

        Args:
            node: A neck or a head, or several.
            path: Its key.
            levels: The maps.
            reads: Whether it reads them if it has ``in_channels``. In what a head consists of, only
                what has an ``in_index`` does.
        """
        if isinstance(node, list | tuple):
            for i, child in enumerate(node):
                self._rewire(child, f"{path}.{i}", levels, reads)
            return
        if not isinstance(node, dict):
            return
        if "in_channels" in node and (reads or "in_index" in node):
            self._set(node, "in_channels", path, _channels(node, path, levels))
        if "c1_in_channels" in node:  # of DeepLabV3+, which reads the first map, too
            value = _matching(node["c1_in_channels"], levels[:1])
            self._set(node, "c1_in_channels", path, value)
        for name, child in node.items():
            if name.endswith("roi_extractor"):
                self._rewire_rois(node, path, levels)
                return
            if name not in ("init_cfg", "loss_decode"):
                self._rewire(child, f"{path}.{name}", levels, reads=False)

    def _rewire_rois(self, head: dict, path: str, levels: list[_Level]) -> None:
        """Set what heads on RoIs read where no neck precedes them."""
        for name, child in head.items():
            key = "out_channels" if name.endswith("roi_extractor") else "in_channels"
            for part, place in _parts(child, f"{path}.{name}"):
                if key in part and (value := _matching(part[key], levels)) is not None:
                    self._set(part, key, place, value)

    def _rewire_bisenet(self, wrapper: dict, path: str, levels: list[_Level]) -> None:
        """Set the widths of a BiSeNetV1, the first of which is its own.

        It joins maps of the first width and of the last of its spatial path, and takes it that
        both together have as many channels as the backbone's map of stride 16.
        """
        context, spatial = wrapper["context_channels"], wrapper["spatial_channels"]
        maps = [level.new for level in levels[-2:]]
        self._set(wrapper, "context_channels", path, type(context)([context[0], *maps]))
        rest = maps[0] - context[0]
        self._set(wrapper, "spatial_channels", path, type(spatial)([*spatial[:-1], rest]))

    def _set(self, node: dict, key: str, path: str, value: Any) -> None:
        if value is not None and node[key] != value:
            self.report.changes.append(f"{path}.{key}: {_shown(node[key])} -> {_shown(value)}")
            node[key] = value


def _resnet_in(node: Any) -> bool:
    """Whether this is a ResNet, or a list that begins with one, as MMPretrain's image encoders."""
    if isinstance(node, list | tuple):
        node = node[0] if node else None
    return isinstance(node, dict) and type_name(node) in RESNETS


def _scope_of(cfg: dict) -> str | None:
    """The package of a config's type, if it says so."""
    kind = cfg["type"]
    name = kind if isinstance(kind, str) else f"{getattr(kind, '__module__', '')}."
    return name.partition(".")[0] if "." in name else cfg.get("_scope_")


def _geometry(resnet: dict, path: str) -> dict:
    """The strides and dilations of a ResNet as arguments of HCGNet; none if they are the usual."""
    stages = resnet.get("num_stages", 4)
    strides = tuple(resnet.get("strides", (1, 2, 2, 2)))[:stages]
    dilations = tuple(resnet.get("dilations", (1, 1, 1, 1)))[:stages]
    if strides[0] != 1:
        raise UsageError(
            f"{path}.strides={strides} begin with {strides[0]}, and HCGNet's first stage, which "
            "no transition precedes, has the stride 1."
        )
    for output_stride in (32, 16, 8):
        usual = Architecture.create("B").geometry(output_stride)
        if (strides, dilations) == tuple(each[:stages] for each in usual):
            return {} if output_stride == 32 else dict(output_stride=output_stride)
    return dict(strides=strides, dilations=dilations)


def _channels(node: dict, path: str, levels: list[_Level]) -> Any:
    """The channels that a neck or a head reads, in the form in which it states them.

    Raises:
        UsageError: If what it states is not what a ResNet gives.
    """
    stated, index = node["in_channels"], node.get("in_index")
    several = isinstance(stated, list | tuple)
    if index is None:
        chosen = levels if several else levels[-1:]
    else:
        wanted = index if isinstance(index, list | tuple) else [index]
        if not all(-len(levels) <= i < len(levels) for i in wanted):
            raise UsageError(
                f"{path}.in_index={index} names a map that the backbone does not give."
            )
        chosen = [levels[i] for i in wanted]
    if several and index is None and len(stated) < len(levels):  # it leaves the others alone
        chosen = levels[: len(stated)]
        if list(stated) != [level.old for level in chosen]:
            chosen = levels[-len(stated) :]
    old = [level.old for level in chosen]
    if (list(stated) if several else [stated]) != old:
        by_value = None if several or index is not None else _matching(stated, levels)
        if by_value is not None:
            return by_value
        raise UsageError(
            f"{path} ({type_name(node)}) reads {_shown(stated)} channels where the backbone gave "
            f"{', '.join(map(str, old))}: it cannot be rewired."
        )
    new = [level.new for level in chosen]
    return type(stated)(new) if several else new[0]


def _matching(old: Any, levels: list[_Level]) -> int | None:
    """The channels now of the last map that had so many."""
    return next((level.new for level in reversed(levels) if level.old == old), None)


def _parts(node: Any, path: str) -> Iterator[tuple[dict, str]]:
    """A dict, or those of a list."""
    if isinstance(node, dict):
        yield node, path
    elif isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _parts(child, f"{path}.{i}")


def _shown(value: Any) -> str:
    """A value as it stands in a config."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f"dict({', '.join(f'{key}={_shown(each)}' for key, each in value.items())})"
        return f"{{{', '.join(f'{_shown(key)}: {_shown(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
