"""A checkpoint: opened and verified once, then asked."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mmhcgnet.errors import MissingFileError, UsageError
from mmhcgnet.paths import shipped_weights
from mmhcgnet.weights import (
    explain_official,
    find_weights,
    holds_deployed,
    listed,
    official_layout,
    strip_module,
)

from .reading import read_checkpoint

UNIX_TIME = "unix_time"  # what meta calls it, next to MMEngine's local time
RUN = "run_id"  # what the message hub calls the run that a checkpoint is of
MOST = 10**12  # epochs and iterations; no training has more


class Checkpoint:
    """What a file of weights holds.

    Args:
        content: All that was read. The source of configs is taken out of it: MMEngine would execute
            it, and a file may come from anyone.
        path: Where it comes from, for messages.
    """

    def __init__(self, content: dict[str, Any], path: str) -> None:
        self.content, self.path = content, path
        hub = _as_dict(content.get("message_hub"))
        parts = [content.get("meta"), hub.get("runtime_info"), hub.get("resumed_keys")]
        for part in map(_as_dict, parts):
            part.pop("config", None)
            part.pop("cfg", None)

    @classmethod
    def open(cls, path: str, in_full: bool = True) -> Checkpoint:
        """Read a file of PyTorch or of safetensors (see :func:`read_checkpoint`).

        Args:
            path: A local file; ``~`` is the home.
            in_full: Otherwise an outline, which is quick: not verified, with ``None`` for tensors.

        Raises:
            MissingFileError: If it does not exist.
            UsageError: If it cannot be read, or asks for more than data.
        """
        path = find_file(path)
        return cls(read_checkpoint(path, in_full), path)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The tensors by name, without the ``module.`` of wrappers.

        What stands among them may be something else: toolboxes pass over numbers that they do not
        know, and the extra state of a module is whatever it likes.

        Raises:
            UsageError: If there are none by name, or two of the same.
        """
        found = find_weights(self.content)
        wrong = {"state_dict", "net"} & self.content.keys() and found is self.content
        named = all(isinstance(name, str) for name in found)
        if wrong or not named or not any(isinstance(value, Tensor) for value in found.values()):
            raise UsageError(f"The checkpoint {self.path} holds no weights by name.")
        weights, twice = strip_module(found)
        if twice:
            raise UsageError(
                f"The checkpoint {self.path} has {listed(twice, 'tensors twice')}, with and "
                "without 'module.': remove the wrong ones."
            )
        weights = OrderedDict(weights)
        weights._metadata = getattr(found, "_metadata", {})
        return weights

    @property
    def meta(self) -> dict[str, Any]:
        """What MMEngine notes besides the weights; empty where there is nothing."""
        return _as_dict(self.content.get("meta"))

    @property
    def classes(self) -> list[str]:
        """The names of the classes that its model was trained on; empty where it has none."""
        dataset_meta = _as_dict(self.meta.get("dataset_meta"))
        # MMDetection 2 and MMClassification wrote them in capitals.
        found = [dataset_meta.get("classes"), dataset_meta.get("CLASSES"), self.meta.get("CLASSES")]
        named = next((names for names in found if names), ())
        return [str(name) for name in named] if isinstance(named, list | tuple) else []

    @property
    def layout(self) -> str | None:
        """Which of the authors' layouts it has: ``'classification'``, ``'detection'`` or none."""
        return official_layout(find_weights(self.content))

    @property
    def is_deployed(self) -> bool:
        """Whether it holds an HCGNet in the deployed form."""
        return holds_deployed(self.weights)

    @property
    def iteration(self) -> int | None:
        """How many iterations of a training it comes after, if it says so."""
        return count(self.meta.get("iter"))

    @property
    def run(self) -> str | None:
        """The id of the run that saved it, if it says so."""
        info = _as_dict(_as_dict(self.content.get("message_hub")).get("runtime_info"))
        return info[RUN] if isinstance(info.get(RUN), str) else None

    @property
    def lacks(self) -> list[str]:
        """What a training would need to resume from it and it does not have."""
        lacking = [key for key in ("epoch", "iter") if count(self.meta.get(key)) is None]
        hub = _as_dict(self.content.get("message_hub"))
        if not {"log_scalars", "runtime_info", "resumed_keys"} <= hub.keys():
            lacking.append("message_hub")
        return lacking if "optimizer" in self.content else [*lacking, "optimizer"]

    @property
    def has_training_state(self) -> bool:
        """Whether a training may resume from it."""
        return not self.lacks

    @property
    def saved_at(self) -> float:
        """When it was saved by its own account, in seconds since 1970; 0 if it does not say."""
        saved = self.meta.get(UNIX_TIME)
        if isinstance(saved, float):
            return saved
        # MMEngine's own hook notes the local time alone, which may be another machine's.
        try:
            return time.mktime(time.strptime(str(self.meta.get("time")), "%Y%m%d_%H%M%S"))
        except (ValueError, OverflowError):
            return 0.0

    def require(self, deployed: bool | None = None) -> Checkpoint:
        """Check that the weights are in our layout and in the form that a model has.

        MMEngine would load what fits by name, of another layout or form next to nothing, and go on
        with random weights.

        Args:
            deployed: Whether the model is deployed, or ``None`` if it is not an HCGNet.

        Returns:
            Itself.

        Raises:
            UsageError: If they are not.
        """
        if self.layout:
            raise UsageError(explain_official(self.path, self.layout))
        if deployed is False and self.is_deployed:
            raise UsageError(
                f"The checkpoint {self.path} holds a deployed HCGNet, but the config builds a "
                "regular one: to test it, set model.backbone.deploy=True; to train, use the "
                "checkpoint that it was converted from."
            )
        if deployed and not self.is_deployed:
            raise UsageError(
                "The config's HCGNet is deployed (model.backbone.deploy=True), but the checkpoint "
                f"{self.path} holds a regular one: remove deploy=True from the config, or convert "
                f"the file with `python tools/model_converters/deploy.py CONFIG {self.path}`."
            )
        return self


def find_file(path: str) -> str:
    """The path of a local checkpoint, with ``~`` replaced, or of weights that the project ships.

    Raises:
        MissingFileError: If it does not exist.
    """
    path = os.path.expanduser(path)
    # A folder of that name is a training's work directory.
    if not os.path.isfile(path) and (shipped := shipped_weights(path)):
        return str(shipped)
    if not os.path.exists(path):
        folder = Path(path).parent
        found = sorted(str(file) for file in folder.glob("*.pth"))
        hint = f" ({folder} holds {', '.join(found[-3:])})" if found else ""
        raise MissingFileError(f"The checkpoint {path} does not exist{hint}: name one that does.")
    return path


def count(value: object) -> int | None:
    """A number of epochs or iterations, if it is one."""
    return value if type(value) is int and 0 <= value < MOST else None


def _as_dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}
