"""What configs give to HCGNet besides its architecture, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmhcgnet.errors import did_you_mean

from .dropblock import DropBlock


def stage_indices(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Return the stages that ``out_indices`` names, counted from 0.

    Raises:
        ValueError: If it names none, one twice, or one that does not exist.
    """
    indices = out_indices if isinstance(out_indices, list | tuple) else [out_indices]
    allowed = range(-num_stages, num_stages)
    if not indices or any(type(i) is not int or i not in allowed for i in indices):  # no bool
        raise ValueError(
            f"out_indices must be integers from {-num_stages} to {num_stages - 1}, "
            f"got {out_indices!r}."
        )
    indices = tuple(i % num_stages for i in indices)
    if len(set(indices)) < len(indices):
        raise ValueError(f"out_indices must name each stage once, got {out_indices!r}.")
    return indices


def build_dropblock(arguments: dict) -> DropBlock:
    """Build a DropBlock from a dict of its arguments.

    Raises:
        ValueError: If it is not a dict of them.
    """
    if not isinstance(arguments, dict):
        raise ValueError(f"dropblock must be a dict of arguments or None, got {arguments!r}.")
    try:
        return DropBlock(**arguments)
    except TypeError as error:
        raise ValueError(f"dropblock={arguments!r}: {error}") from error


def explain_unknown(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Say what a config lacks whose backbone has arguments that HCGNet does not know."""
    unknown = list(unknown)
    hints = [f"{name}{did_you_mean(name, known)}" for name in unknown]
    remedy = (
        "if the config inherits the dict of another backbone, replace all of it with "
        "backbone=dict(_delete_=True, type='mmhcgnet.HCGNet', ...)"
    )
    if unknown == ["pretrained"]:
        remedy = (
            "name the weights in init_cfg=dict(type='Pretrained', checkpoint=...), and if it is "
            "the model's, which MMSegmentation hands on, set it to None"
        )
    return f"HCGNet has no argument {' and no '.join(hints)}: {remedy}."
