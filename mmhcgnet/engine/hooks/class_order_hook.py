"""Testing where the classes are those of the training in another order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.engine.models import unwrapped


@HOOKS.register_module()
class ClassOrderHook(Hook):
    """Compare the classes that a tested checkpoint was trained on with those of the tested set.

    A model predicts numbers, and a checkpoint says what they were called. The same names in
    another order are mapped, so that metrics and drawings are right; of other names it warns.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare, and map what the model will predict."""
        if not isinstance(runner._test_loop, BaseLoop):
            return
        metainfo = getattr(runner.test_loop.dataloader.dataset, "metainfo", None)
        tested = metainfo.get("classes") if isinstance(metainfo, dict) else None
        trained = Checkpoint(checkpoint, "").classes
        if not tested or not trained or list(tested) == trained:
            return
        if len(set(trained)) == len(trained) and sorted(trained) == sorted(map(str, tested)):
            print_log(
                f"The checkpoint was trained on the classes {_few(trained)}, and the test set "
                f"has them in another order, {_few(tested)}: predictions are mapped by name.",
                "current",
                logging.WARNING,
            )
            _map_predictions(runner.model, [trained.index(name) for name in tested])
        else:
            print_log(
                f"The checkpoint was trained on other classes than the test set has "
                f"({_few(trained)} and {_few(tested)}): the metrics compare them by number.",
                "current",
                logging.WARNING,
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:6])) + (", ..." if len(names) > 6 else "")


def _map_predictions(model: nn.Module, places: list[int]) -> None:
    """Let a model predict by the numbers of the tested set.

    Args:
        model: The model, in whatever wrapper.
        places: For each class of the tested set, its number in the model.
    """
    columns = torch.tensor(places)
    numbers = columns.argsort()

    def rename(model: nn.Module, inputs: tuple, outputs: Any) -> None:
        for sample in outputs if isinstance(outputs, list | tuple) else ():
            found = getattr(sample, "pred_instances", None)
            if found is not None and "labels" in found:
                found.labels = numbers.to(found.labels.device)[found.labels]
            for name, table in (("pred_label", numbers), ("pred_score", columns)):
                value = getattr(sample, name, None)
                if isinstance(value, torch.Tensor):
                    table = table.to(value.device)
                    mapped = table[value] if name == "pred_label" else value[..., table]
                    sample.set_field(mapped, name)

    unwrapped(model).register_forward_hook(rename)
