"""Models in the form for inference alone, by MMPretrain's convention: ``switch_to_deploy``."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mmhcgnet.errors import UsageError


def switch_to_deploy(model: nn.Module) -> list[str]:
    """Put a model into eval mode and switch all that has a form for inference alone, for good.

    A part with the method ``switch_to_deploy`` sees to all parts inside it by itself.

    Args:
        model: The model, in whatever wrapper.

    Returns:
        The names of the parts, such as ``backbone``.

    Raises:
        UsageError: If no such part exists, or one cannot be switched.
    """
    model.eval()
    parts = dict(_parts(model, ""))
    if not parts:
        raise UsageError(
            f"No part of the model, {type(model).__name__}, has a deployed form (a method "
            "switch_to_deploy): use it as it is."
        )
    for part in parts.values():
        try:
            part.switch_to_deploy()
        except ValueError as error:
            raise UsageError(str(error)) from error
    return list(parts)


def _parts(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if hasattr(module, "switch_to_deploy"):
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _parts(child, f"{name}.{child_name}".lstrip("."))
