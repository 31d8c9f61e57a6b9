"""Network dissection: which units of a layer detect which concept.

Bau et al., Network Dissection: Quantifying Interpretability of Deep Visual Representations,
CVPR 2017, https://arxiv.org/abs/1704.05796; figure 4 of the paper of HCGNet. A first pass over
annotated images finds for each unit (channel) the threshold that a given share of its activations
exceed, a second one compares where the unit exceeds it with where each concept is.

Deviations from the code of Bau et al.: thresholds are exact or have a stated error; the union is
over the images that have a label of the concept's category, as their paper says, where the code
wants one inside the unit's mask; a pixel that has a label in two maps counts once.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import ProgressBar
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from mmhcgnet.analysis.report import digest, digest_of_weights, say, write
from mmhcgnet.datasets.broden import Annotation, Broden
from mmhcgnet.errors import DataError, UsageError, did_you_mean

TOP_IMAGES = 4
STATE = "state.npz"
_SECONDS_BETWEEN_SAVES = 120
_ROWS_AT_ONCE = 64
_PIXELS_AT_ONCE = 2**24


class Probe:
    """Gives the maps of one layer for images as they come from a file.

    Args:
        model: A classifier or detector in eval mode.
        layer: Name of a module. Defaults to the backbone's output, its last map.

    Raises:
        UsageError: If the model has no such module, or no backbone.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        self.layer = layer or "backbone"
        modules = dict(model.named_modules())
        if self.layer not in modules:
            raise UsageError(
                f"The model has no layer {self.layer}{did_you_mean(self.layer, modules)}: name "
                "a module as the model does, such as backbone.stages.3."
            )
        if not (hasattr(model, "extract_feat") and hasattr(model, "data_preprocessor")):
            raise UsageError(
                f"Dissection takes classifiers of MMPretrain and detectors of MMDetection, and a "
                f"{type(model).__name__} is neither."
            )
        self._model, self._module = model, modules[self.layer]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute the maps, on the device of the model.

        Args:
            images: uint8, ``(N, 3, H, W)``.

        Returns:
            float32, ``(N, U, h, w)``.

        Raises:
            UsageError: If the layer does not give a map, or the map holds NaN or inf.
        """
        outputs: list[Any] = []
        hook = self._module.register_forward_hook(lambda _, __, output: outputs.append(output))
        data = dict(inputs=images, data_samples=None)
        try:
            inputs = self._model.data_preprocessor(data, False)["inputs"]
            if inputs.shape[-2:] != images.shape[-2:]:
                raise UsageError(
                    f"The model pads images of {images.shape[2]} x {images.shape[3]} pixels to "
                    f"{inputs.shape[2]} x {inputs.shape[3]}: give these as the shape."
                )
            self._model.extract_feat(inputs)
        finally:
            hook.remove()
        if not outputs:
            raise UsageError(
                f"The layer {self.layer} is not run as a module when the model extracts features: "
                "name another layer."
            )
        output = outputs[-1]
        output = output[-1] if isinstance(output, list | tuple) and output else output
        if not isinstance(output, Tensor) or output.dim() != 4 or len(output) != len(images):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"The layer {self.layer} gives no maps (N, C, H, W), but {shape}: name a "
                "convolutional layer before the pooling."
            )
        if not torch.isfinite(output).all():
            raise UsageError(f"The maps of the layer {self.layer} hold NaN or inf.")
        return output.float()


class LargestValues:
    """The largest values of each unit in a stream, which is what its upper quantile takes.

    It keeps twice as many values as exceed the quantile. If these would need more memory than
    there may be, it looks at a random share of the positions only.

    Args:
        units: Number of units.
        images: Number of images in the whole stream.
        positions: Positions of a map.
        quantile: Share of the activations that are to exceed the threshold.
        memory: Bytes that the values may take.
        device: Where they are kept.

    Attributes:
        share (float): Share of the positions that are looked at.
        keep (int): Values that give the threshold.
        filled (int): Values of each unit that are there.
        values (Tensor): They are its first ``filled`` columns, ``(units, capacity)``.

    Raises:
        UsageError: If the quantile leaves no activation above the threshold.
    """

    def __init__(
        self,
        units: int,
        images: int,
        positions: int,
        quantile: float,
        memory: float,
        device: torch.device | str = "cpu",
    ) -> None:
        needed = 8 * units * quantile * images * positions  # two float32 for each
        self._per_image = max(1, math.floor(positions * min(1, memory / needed)))
        self._quantile, self._total = quantile, images * self._per_image
        self.share = self._per_image / positions
        # A product such as 0.29 * 100 is a little less than what it stands for.
        self.keep = math.floor(quantile * self._total + 1e-6) + 1
        if self.keep < 2:
            raise UsageError(
                f"The quantile {quantile} of {self._total} activations of a unit is less than one "
                "of them: take more images or a larger quantile."
            )
        self.values = torch.empty(units, self.keep + max(self.keep, 4096), device=device)
        self.filled = 0

    @property
    def error(self) -> float:
        """Standard error of the share of activations above the threshold; 0 if that is exact.

        The positions are drawn at random, so it holds however neighbours depend on each other.
        """
        return math.sqrt((1 - self.share) * self._quantile / self._total)

    def add(self, maps: Tensor, seed: int) -> None:
        """Take the maps of a batch, ``(N, U, h, w)``; a seed draws the same positions again."""
        values = maps.transpose(0, 1).flatten(1)
        if self.share < 1:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randperm(values.shape[1], generator=generator)
            drawn = drawn[: len(maps) * self._per_image]
            values = values[:, drawn.to(values.device)]
        while values.shape[1]:
            room = self.values.shape[1] - self.filled
            now, values = values[:, :room], values[:, room:]
            self.values[:, self.filled : self.filled + now.shape[1]] = now
            self.filled += now.shape[1]
            if self.filled == self.values.shape[1]:
                self.compact()

    def compact(self) -> None:
        """Drop what cannot matter any more."""
        if self.filled > self.keep:
            for rows in self.values.split(_ROWS_AT_ONCE):  # bounds what the search needs
                rows[:, : self.keep] = rows[:, : self.filled].topk(self.keep, sorted=False).values
            self.filled = self.keep

    def thresholds(self) -> Tensor:
        """Values that the quantile's share of all activations exceed, ``(units,)``.

        No more than that share is above them, less where several activations are equal to them.
        """
        self.compact()
        return self.values[:, : self.keep].amin(1)


class Tally:
    """Counts pixels of units, of concepts and of both.

    Args:
        units: Number of units.
        category_of: Category of each label by its number.

    Attributes:
        both (np.ndarray): Pixels where the unit is above its threshold and the label is,
            ``(units, labels)``.
        of_labels (np.ndarray): Pixels of each label, ``(labels,)``.
        of_units (np.ndarray): Pixels where the unit is above its threshold, in the images with a
            label of the category, ``(units, categories)``.
    """

    def __init__(self, units: int, category_of: np.ndarray) -> None:
        self._category_of = category_of
        self.both = np.zeros((units, len(category_of)), np.int64)
        self.of_labels = np.zeros(len(category_of), np.int64)
        self.of_units = np.zeros((units, category_of.max() + 1), np.int64)

    def add(self, maps: Tensor, thresholds: Tensor, annotation: Annotation) -> None:
        """Count an image.

        Args:
            maps: The maps of the units, ``(U, h, w)``.
            thresholds: Their thresholds, ``(U,)``.
            annotation: The labels of the image.
        """
        labels, size = annotation.labels, annotation.masks.shape[1:]
        if not len(labels):
            return
        concepts = torch.from_numpy(annotation.masks).flatten(1).to(maps.device, torch.float32)
        self.of_labels[labels] += annotation.masks.sum((1, 2))
        categories = np.unique(self._category_of[labels])
        # Interpolation never exceeds the largest value.
        active = (maps.amax((1, 2)) > thresholds).nonzero()[:, 0]
        for units in active.split(max(1, _PIXELS_AT_ONCE // math.prod(size))):
            if not len(units):
                continue
            above = masks_of(maps[units], thresholds[units], size).flatten(1)
            # Exact, as float32 holds all integers up to 2 ** 24 pixels.
            both = above.float() @ concepts.T
            rows = units.cpu().numpy()
            self.both[np.ix_(rows, labels)] += both.cpu().numpy().astype(np.int64)
            self.of_units[np.ix_(rows, categories)] += above.sum(1).cpu().numpy()[:, None]

    def iou(self) -> np.ndarray:
        """IoU of each unit with each label over the data set, ``(units, labels)``."""
        # Labels without a category, which are only gaps between numbers, read the last column.
        union = self.of_units[:, self._category_of] + self.of_labels - self.both
        return np.where(self._category_of >= 0, self.both / np.maximum(union, 1), 0)


def masks_of(maps: Tensor, thresholds: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the bilinearly enlarged maps ``(U, h, w)`` exceed the thresholds, ``(U, *size)``."""
    enlarged = interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    return enlarged > thresholds[:, None, None]


class Dissection:
    """Both passes over the data, of which an interrupted one goes on where it was saved last.

    Args:
        probe: Computes the maps.
        data: The annotated images.
        size: Height and width to which images are resized.
        channel_order: What the model takes, ``'bgr'`` or ``'rgb'``.
        quantile: Share of the activations above a threshold.
        batch_size: Images in a batch.
        workers: Processes that read images and labels.
        memory: Bytes that :class:`LargestValues` may take.
        folder: Where the state is saved; it is read from there.
        setup: What else distinguishes this dissection from others, by name.

    Attributes:
        thresholds (Tensor): Of each unit.
        top_images (np.ndarray): Indices of the images in which it is largest, ``(units, n)``.
        tally (Tally): What the second pass has counted.
        quantile_error (float): Standard error of the share above a threshold.

    Raises:
        UsageError: If the quantile is not between 0 and 1, or the folder holds another dissection.
    """

    def __init__(
        self,
        probe: Probe,
        data: Broden,
        size: tuple[int, int],
        channel_order: str,
        folder: str | Path,
        setup: dict[str, Any],
        quantile: float = 0.005,
        batch_size: int = 32,
        workers: int = 0,
        memory: float = 2e9,
    ) -> None:
        if not 0 < quantile < 1:
            raise UsageError(f"quantile must be between 0 and 1, got {quantile}.")
        self._probe, self._data, self._size, self._order = probe, data, size, channel_order
        self._batch_size, self._workers = batch_size, workers
        self._path = Path(folder) / STATE
        self._setup = setup | dict(
            layer=probe.layer,
            data=data.fingerprint,
            images=len(data),
            shape=list(size),
            quantile=quantile,
            memory=memory,
        )
        self._quantile, self._memory = quantile, memory
        self._saved = self._load()
        self._last_save = time.monotonic()

    def run(self) -> None:
        """Do what is left of both passes."""
        first = self._data.load(0, self._size, self._order)
        maps = self._probe(_as_tensor(first)[None])
        self._device, (_, units, *shape) = maps.device, maps.shape
        largest = LargestValues(
            *(units, len(self._data), math.prod(shape)),
            *(self._quantile, self._memory, self._device),
        )
        self.quantile_error = largest.error
        if "thresholds" not in self._saved:
            self._find_thresholds(largest)
        del largest
        self.thresholds = torch.from_numpy(self._saved["thresholds"]).to(self._device)
        self.top_images = self._saved["top_images"]
        self.tally = Tally(units, self._data.category_of)
        self._count()

    def maps(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray, Tensor]]:
        """Compute the maps of some images again.

        Yields:
            The index of an image, the image itself, uint8, ``(H, W, 3)`` in BGR, and the maps of
            all units, ``(U, h, w)``.
        """
        for start, images, _ in self._batches(indices):
            for index, image, maps in zip(
                indices[start:], images, self._probe(images), strict=False
            ):
                image = image.permute(1, 2, 0).numpy()
                yield index, image[..., ::-1] if self._order == "rgb" else image, maps

    def _find_thresholds(self, largest: LargestValues) -> None:
        units, count = len(largest.values), len(self._data)
        kept = min(TOP_IMAGES, count)
        top_values = torch.full((units, kept), -math.inf, device=self._device)
        top_images = torch.full((units, kept), -1, device=self._device)
        done = int(self._saved.get("done", 0))
        if done:
            values = torch.from_numpy(self._saved["values"])
            largest.filled = values.shape[1]
            largest.values[:, : largest.filled] = values
            top_values[:] = torch.from_numpy(self._saved["top_values"])
            top_images[:] = torch.from_numpy(self._saved["top_images"])
        self._saved = {}  # as large as the values

        def state() -> dict[str, np.ndarray]:
            return dict(top_values=top_values.cpu().numpy(), top_images=top_images.cpu().numpy())

        say(f"Pass 1 of 2, thresholds: {count - done} of {count} images are left.")
        for start, images, _ in self._batches(range(done, count)):
            maps = self._probe(images)
            largest.add(maps, seed=done + start)
            numbers = torch.arange(len(images), device=self._device) + done + start
            values = torch.cat([top_values, maps.amax((2, 3)).T], 1)
            numbers = torch.cat([top_images, numbers.expand(units, -1)], 1)
            top_values, places = values.topk(kept)
            top_images = numbers.gather(1, places)
            if self._is_time_to_save():
                largest.compact()
                kept_values = largest.values[:, : largest.filled].cpu().numpy()
                self._save(done=done + start + len(images), values=kept_values, **state())
        self._saved = state() | dict(thresholds=largest.thresholds().cpu().numpy())
        self._save(**self._saved)

    def _count(self) -> None:
        counts = ("both", "of_labels", "of_units")
        done, count = int(self._saved.get("done", 0)), len(self._data)
        if done:
            for name in counts:
                getattr(self.tally, name)[:] = self._saved[name]
        if done == count:
            say("Both passes are done already.")
            return
        say(f"Pass 2 of 2, IoU: {count - done} of {count} images are left.")
        for start, images, labelled in self._batches(range(done, count), annotated=True):
            for maps, annotation in zip(self._probe(images), labelled, strict=True):
                self.tally.add(maps, self.thresholds, annotation)
            reached = done + start + len(images)
            if self._is_time_to_save() or reached == count:
                found = {name: getattr(self.tally, name) for name in counts}
                self._save(**self._saved | found | dict(done=reached))

    def _batches(
        self, indices: Sequence[int], annotated: bool = False
    ) -> Iterator[tuple[int, Tensor, list[Annotation | None]]]:
        """Read images and show how far it is; yields the place of the batch's first one, too."""
        samples = _Samples(self._data, indices, self._size, self._order, annotated)
        loader = DataLoader(samples, self._batch_size, num_workers=self._workers, collate_fn=list)
        bar, start = ProgressBar(len(indices), file=sys.stderr), 0
        for batch in loader:
            for sample in batch:
                if isinstance(sample, DataError):
                    raise sample
            images, labelled = zip(*batch, strict=True)
            yield start, torch.stack(images), list(labelled)
            start += len(images)
            bar.update(len(images))
        say("")

    def _is_time_to_save(self) -> bool:
        return time.monotonic() - self._last_save >= _SECONDS_BETWEEN_SAVES

    def _save(self, **state: Any) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, setup=json.dumps(self._setup), **state)
        write(str(self._path), buffer.getbuffer())
        self._last_save = time.monotonic()

    def _load(self) -> dict[str, np.ndarray]:
        if not self._path.exists():
            return {}
        try:
            with np.load(self._path) as file:
                state = dict(file)
            setup = json.loads(str(state.pop("setup")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{self._path}, from which to continue, cannot be read: delete it to start over."
            ) from error
        others = [key for key, value in self._setup.items() if setup.get(key) != value]
        if others:
            raise UsageError(
                f"{self._path.parent} holds a dissection with other {', '.join(others)}: name "
                f"another output folder, or delete {self._path} to start over."
            )
        return state


@dataclasses.dataclass
class _Samples(Dataset):
    """Images and, if they are wanted, their labels."""

    data: Broden
    indices: Sequence[int]
    size: tuple[int, int]
    channel_order: str
    annotated: bool

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Tensor, Annotation | None] | DataError:
        index = self.indices[place]
        try:
            image = _as_tensor(self.data.load(index, self.size, self.channel_order))
            return image, self.data.annotation(index) if self.annotated else None
        except DataError as error:
            # Raised in a worker, it would come with the worker's traceback as its message.
            return error


def _as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def setup_of(cfg: Config, checkpoint: str) -> dict[str, str]:
    """What of a config and a checkpoint the result depends on, as digests."""
    parts = [cfg.get(key) for key in ("default_scope", "model", "data_preprocessor")]
    return dict(model=digest(parts), checkpoint=digest_of_weights(checkpoint))


def describe(dissection: Dissection, data: Broden) -> list[dict[str, Any]]:
    """Say of each unit which concept it fits best.

    Returns:
        For each unit a dict with ``unit``, its number from 0; ``concept`` and ``category``, or
        ``None`` if it overlaps with none; ``iou``; ``threshold``; ``images``, the files in which
        it is largest, largest first.
    """
    iou = dissection.tally.iou()
    units = []
    for unit, (label, threshold, top) in enumerate(
        zip(iou.argmax(1), dissection.thresholds.tolist(), dissection.top_images, strict=True)
    ):
        found = iou[unit, label] > 0
        units.append(
            dict(
                unit=unit,
                concept=data.names[label] if found else None,
                category=data.categories[data.category_of[label]] if found else None,
                iou=float(iou[unit, label]),
                threshold=threshold,
                images=[data.rows[index]["image"] for index in top],
            )
        )
    return units
