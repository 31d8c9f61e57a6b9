"""The dicts that a config is made of, and the types that they name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


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
