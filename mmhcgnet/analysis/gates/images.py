"""From image files to what a model reads of them, and maps drawn over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmcv
import numpy as np
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import TRANSFORMS, DefaultScope
from torch import Tensor, nn

from mmhcgnet.config_dicts import type_name
from mmhcgnet.engine.configs import check_sections, loads_files, tested_pipeline
from mmhcgnet.engine.models import explain_misspelt_types
from mmhcgnet.errors import MissingFileError, UsageError
from mmhcgnet.paths import IMAGES, images_below

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable


def find_images(paths: Sequence[str]) -> dict[str, str]:
    """List image files, those in folders and their subfolders included.

    Args:
        paths: Files and folders.

    Returns:
        The files by names that differ: a file's without its suffix, with the folders that lead to
        it from the one that was given.

    Raises:
        MissingFileError: If a file or folder does not exist.
        UsageError: If a folder has no images, or no path is given.
    """
    if not paths:
        raise UsageError("Name an image, several, or a folder of them after the checkpoint.")
    images = {}
    for given in map(Path, paths):
        if not given.exists():
            raise MissingFileError(f"The image {given} does not exist.")
        files = images_below(given) if given.is_dir() else [given]
        if not files:
            raise UsageError(f"The folder {given} has no images: they end in {', '.join(IMAGES)}.")
        for file in files:
            short = file.relative_to(given if given.is_dir() else given.parent)
            name = stem = str(short.with_suffix(""))
            number = 1
            while name in images:
                number += 1
                name = f"{stem}-{number}"
            images[name] = str(file)
    return images


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image as the test pipeline of a config makes it.

    Args:
        picture: ``(H, W, 3)``, RGB, of 8 bits.
        inputs: What the network reads, ``(C, H', W')``: normalised, and perhaps padded on the
            right and at the bottom.
    """

    picture: np.ndarray
    inputs: Tensor

    @property
    def covered(self) -> tuple[float, float]:
        """Height and width of the inputs, padding included, in units of the image's."""
        height, width = self.picture.shape[:2]
        return self.inputs.shape[1] / height, self.inputs.shape[2] / width


def make_reader(cfg: Config, model: nn.Module) -> Callable[[str], Sample]:
    """Return a function that reads an image file as the config tests.

    Args:
        cfg: A config with a ``test_dataloader``, of whose pipeline the annotations are left out.
        model: Its model, on the device on which it computes.

    Raises:
        UsageError: If the config has no test pipeline, or its model normalises no images; by the
            function, if a file cannot be read.
    """
    check_sections(cfg, "test_dataloader")
    pipeline = tested_pipeline(cfg)
    if not pipeline or not hasattr(model, "data_preprocessor"):
        raise UsageError(
            f"The config {cfg.filename} has no test pipeline or no data_preprocessor, and so does "
            "not say how images are read: give one of a classifier or a detector."
        )
    steps = [step for step in pipeline if "Annotations" not in type_name(step)]
    is_rgb = False
    if not loads_files(steps):
        # Sets that hold pixels, such as CIFAR's, have them in the order that the model normalises.
        is_rgb = not model.data_preprocessor.to_rgb
        steps = [dict(type="LoadImageFromFile"), *([_swap_channels] if is_rgb else []), *steps]
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")), explain_misspelt_types():
        pipeline = Compose([s if callable(s) else TRANSFORMS.build(s) for s in steps])

    def read(path: str) -> Sample:
        try:
            data = pipeline(dict(img_path=path, img_id=0))
        except Exception as error:  # decoders and transforms raise what they like
            raise UsageError(f"The image {path} cannot be read: {error}") from error
        image = data["inputs"]
        inputs = model.data_preprocessor(pseudo_collate([data]), False)["inputs"][0]
        picture = image.permute(1, 2, 0).float().clamp(0, 255).byte().numpy()
        if picture.shape[2] == 1:
            picture = picture.repeat(3, axis=2)
        return Sample(picture if is_rgb else picture[:, :, ::-1], inputs)

    return read


def _swap_channels(results: dict[str, Any]) -> dict[str, Any]:
    return dict(results, img=np.ascontiguousarray(results["img"][:, :, ::-1]))


def thumbnail(picture: np.ndarray, side: int) -> np.ndarray:
    """Resize an image so that its longer side has ``side`` pixels."""
    return mmcv.imrescale(np.ascontiguousarray(picture), (side, side))


def lay_over(
    picture: np.ndarray,
    values: Tensor,
    covered: tuple[float, float],
    colours: ScalarMappable,
) -> np.ndarray:
    """Draw a map over an image, which shows in grey.

    Args:
        picture: ``(H, W, 3)`` of 8 bits.
        values: Map ``(h, w)``.
        covered: Height and width of the region that the map covers in units of the image's, with
            which it shares the upper left corner.
        colours: Matplotlib's colours for the values.

    Returns:
        ``(H, W, 3)``, from 0 to 1.
    """
    height, width = picture.shape[:2]
    size = [round(side * part) for side, part in zip((height, width), covered, strict=True)]
    values = F.interpolate(values.float().cpu()[None, None], size, mode="bilinear")[0, 0]
    colour = colours.to_rgba(values[:height, :width].numpy())[:, :, :3]
    grey = picture.mean(axis=2, keepdims=True) / 255
    return 0.4 * grey + 0.6 * colour
