"""Types as configs write them."""

from __future__ import annotations

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
