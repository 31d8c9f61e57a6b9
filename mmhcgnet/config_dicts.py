"""The dicts that a config is made of, and the types that they name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS


def type_name(cfg: Any) -> str:
    """The name of a config's type, without its package.

    Args:
        cfg: A config of a part, such as ``dict(type="mmdet.CocoDataset")``. In MMEngine's new style
            the type is the class itself.

    Returns:
        The name, ``""`` if there is none. MMEngine's initialisers are registered without the
        ``Init`` that their classes end in, and so they are named here.
    """
    kind = cfg.get("type", "") if isinstance(cfg, dict) else ""
    if isinstance(kind, str):
        name = kind.rpartition(".")[2]
    else:
        name = getattr(kind, "__name__", type(kind).__name__)
    return "Pretrained" if name == "PretrainedInit" else name


def dataset_class(cfg: Config, dataset: dict) -> type | None:
    """The class that the type of a data set stands for, if it is known in the config's scope."""
    kind = dataset.get("type")
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        return registry.get(kind)


def nested_dicts(node: Any) -> Iterator[dict]:
    """Walk the dicts of a config, an outer one before those in it."""
    return (found for _, found in placed_dicts(node, ""))


def placed_dicts(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Walk the dicts of a part of a config, whose key is given, with their dotted keys."""
    if isinstance(node, dict):
        yield key, node
    if isinstance(node, dict | list | tuple):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from placed_dicts(child, f"{key}.{name}")
