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
    if isinstance(node, dict):
        yield node
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            yield from nested_dicts(child)
