"""Drawn images of equal names, kept apart."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ImageNameHook(Hook):
    """Keep the folders of images in the names of what is drawn in a test, where names are equal.

    The visualization hooks of MMDetection and MMPretrain name a drawn image as its file, and those
    of other folders, as of other classes, overwrite it.
    """

    def before_test(self, runner: Runner) -> None:
        """Let the visualizer name files by folder and name if one of the names occurs twice."""
        dataset = runner.test_loop.dataloader.dataset
        try:
            paths = {dataset.get_data_info(i)["img_path"] for i in range(len(dataset))}
            names = {os.path.basename(path) for path in paths}
            root = os.path.commonpath([os.path.dirname(path) for path in paths])
        except (AttributeError, KeyError, TypeError, ValueError):
            return  # images that are not files
        if len(names) == len(paths):
            return
        for method in ("add_datasample", "visualize_cls"):
            if draw := getattr(runner.visualizer, method, None):
                setattr(runner.visualizer, method, _named(draw, root))


def _named(draw: Callable, root: str) -> Callable:
    def draw_named(*args: Any, **kwargs: Any) -> Any:
        path = getattr(kwargs.get("data_sample"), "img_path", None)
        if path and kwargs.get("out_file"):
            folder, name = os.path.split(kwargs["out_file"])
            inner = os.path.relpath(os.path.dirname(path), root)
            kwargs["out_file"] = os.path.normpath(os.path.join(folder, inner, name))
        return draw(*args, **kwargs)

    return draw_named
