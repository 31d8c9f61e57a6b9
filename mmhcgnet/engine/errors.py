"""Mistakes of the user, reported in one sentence instead of a traceback."""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mmhcgnet.models.pretrained import PretrainedMismatchError

_RANK_VARIABLES = dict(pytorch="RANK", slurm="SLURM_PROCID", mpi="OMPI_COMM_WORLD_RANK")
_UNKNOWN_TYPE = re.compile(r"(?P<name>\S+) is not in the (?P<registry>\S+) registry")
_FAILED_TYPE = re.compile(r"Failed to get (?P<name>\S+)$")


class UsageError(ValueError):
    """A mistake that the user can mend; its message is one sentence that says how."""


class MissingFileError(UsageError, FileNotFoundError):
    """A file or folder that the command line or the config names is not there."""


@contextmanager
def report_usage_errors(launcher: str = "none") -> Iterator[None]:
    """Turn a mistake of the user into ``error: sentence`` on stderr and exit code 2.

    In a distributed run rank 0 speaks first. The others wait: its failure makes torchrun stop
    them, so that they report only what rank 0 did not meet.

    Args:
        launcher: The ``--launcher`` of the script.
    """
    try:
        yield
    except (UsageError, PretrainedMismatchError) as error:
        if int(os.environ.get(_RANK_VARIABLES.get(launcher, ""), 0)) > 0:
            time.sleep(5)
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


@contextmanager
def explain_misspelt_types() -> Iterator[None]:
    """Turn the registries' errors about an unknown ``type=`` into a :class:`UsageError`."""
    try:
        yield
    except (KeyError, RuntimeError) as error:
        message = str(error.args[0]) if error.args else ""
        match = _UNKNOWN_TYPE.search(message) or _FAILED_TYPE.match(message)
        if match is None:
            raise
        name = match["name"].strip("'\"`")
        scope, _, registry = match.groupdict().get("registry", "").rpartition("::")
        where = f"the {registry} registry of {scope}" if registry else "any registry"
        hint = did_you_mean(name, _registered_names(registry, scope))
        raise UsageError(
            f"type={name!r} is not in {where}{hint}: mend the name in the config, write it as "
            "'package.Name', or import the module that registers it with custom_imports."
        ) from error


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return ``" (did you mean …?)"`` for the candidates close to ``word``, or nothing."""
    close = difflib.get_close_matches(word, sorted(set(candidates)), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _registered_names(registry: str, scope: str) -> set[str]:
    """Names of all types in the registries called ``registry``, as one would type them."""
    from mmengine import registry as registries

    pending = [
        root
        for root in vars(registries).values()
        if isinstance(root, registries.Registry) and registry in ("", root.name)
    ]
    names = set()
    while pending:
        node = pending.pop()
        pending += node.children.values()
        for name, kind in node.module_dict.items():
            # Ours sit in MMEngine's registry, and configs write them with the package's name.
            home = "mmhcgnet" if kind.__module__.startswith("mmhcgnet.") else node.scope
            # The root's types need no prefix, nor do those of the scope of the look-up.
            names.add(name if home in ("mmengine", scope) else f"{home}.{name}")
    return names
