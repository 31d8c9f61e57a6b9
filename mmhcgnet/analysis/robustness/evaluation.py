"""Top-1 accuracy of classifiers after attacks (figure 5 of the paper), with results that are kept.

A cell is one model after one attack of one size. All cells of a model are counted in one pass over
the test images, and each continues from the image where it was left.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import foolbox
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from mmhcgnet.analysis import paper
from mmhcgnet.analysis.benchmark.measuring import describe_machine
from mmhcgnet.analysis.report import (
    digest,
    digest_of_weights,
    new_figure,
    number,
    say,
    write_json,
)
from mmhcgnet.checkpoints.run_lock import one_at_a_time
from mmhcgnet.config_dicts import type_name
from mmhcgnet.datasets.checks.of_config import check_data
from mmhcgnet.engine.configs import check_sections, load_config, set_dataloader_defaults, toolbox
from mmhcgnet.engine.models import explain_misspelt_types, load_model
from mmhcgnet.engine.runner.data_loading import guard_loader
from mmhcgnet.errors import UsageError

from .attacks import Classifier, is_right

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAVE_EVERY = 10  # seconds
CPU_BATCH = 10  # images that a CPU attacks at a time


class Subject:
    """A classifier with its weights and the test images that it is attacked on.

    Args:
        name: What results call it.
        config: The config file, or another package's as ``package::path``.
        checkpoint: The weights, a local file.
        images: How many images are attacked, spread evenly over the data set; 0 for all.
        cfg_options: ``key=value`` texts to override settings of the config.

    Attributes:
        name, config, checkpoint (str): As given.
        classifier (Classifier): The function to attack.
        chosen (list[int]): The images, by their index in the data set.
        setup (dict): All that its results depend on.

    Raises:
        MissingFileError: If the config, the checkpoint or the data do not exist.
        UsageError: If it is not a classifier with a score for each class, the weights are not the
            config's, or the images cannot be attacked.
    """

    def __init__(
        self,
        name: str,
        config: str,
        checkpoint: str,
        images: int = 0,
        cfg_options: list[str] | None = None,
    ) -> None:
        self.name, self.config, self.checkpoint = name, config, checkpoint
        self.cfg = cfg = load_config(config, cfg_options)
        check_sections(cfg, "model", "test_dataloader")
        if toolbox(cfg) == "mmdet":
            raise _no_classifier(config, type_name(cfg.model))
        check_data(cfg, "test")
        set_dataloader_defaults(cfg)
        model = load_model(cfg, checkpoint)
        from mmpretrain.models import BaseClassifier

        if not isinstance(model, BaseClassifier):
            raise _no_classifier(config, type(model).__name__)
        self.classifier = Classifier(model)
        self._dataset = self._build(cfg.test_dataloader).dataset
        total = len(self._dataset)
        if images > total:
            raise UsageError(f"images={images} is more than the {total} of {config}.")
        images = images or total
        self.chosen = [i * total // images for i in range(images)]
        self.setup = dict(
            model=digest([cfg.model, cfg.get("data_preprocessor")]),
            weights=digest_of_weights(checkpoint),
            data=digest(cfg.test_dataloader.dataset),
            images=[images, total],
        )
        self._check_scores()

    def pictures(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images ``(N, C, H, W)`` in [0, 1] and their classes ``(N)``.

        Args:
            first: The place in ``chosen`` to begin at.

        Raises:
            UsageError: If a file cannot be loaded, or something else is packed than what can be
                attacked.
        """
        cfg = dict(self.cfg.test_dataloader, batch_sampler=None, drop_last=False)
        cfg.update(dataset=self._dataset, sampler=self.chosen[first:])
        cfg.update(collate_fn=dict(type="pseudo_collate"))  # as stacking may fail
        for data in guard_loader(self._build(cfg)):
            yield _unpack(data, self.cfg.filename)

    def _build(self, loader: dict) -> DataLoader:
        scope = DefaultScope.overwrite_default_scope(self.cfg.get("default_scope"))
        with explain_misspelt_types(), scope:
            return Runner.build_dataloader(loader)

    def _check_scores(self) -> None:
        images, _ = next(self.pictures(0))
        with torch.no_grad():
            scores = self.classifier(images[:1])
        head = type(getattr(self.classifier.model, "head", None)).__name__
        if not isinstance(scores, Tensor) or scores.ndim != 2:
            raise UsageError(
                f"The head of {self.cfg.filename}, {head}, gives no score for each class: name "
                "the config of a classifier with one label per image."
            )


def _no_classifier(config: str, kind: object) -> UsageError:
    return UsageError(
        f"The config {config} does not build a classifier ({kind}): attacks need one label per "
        "image; name the config of an MMPretrain classifier."
    )


def _unpack(data: dict, config: str) -> tuple[Tensor, Tensor]:
    images = data["inputs"]
    if not all(isinstance(image, Tensor) and _is_picture(image) for image in images):
        raise UsageError(
            f"The test pipeline of {config} does not pack images of 0 to 255: leave their "
            "normalization to the data_preprocessor."
        )
    if len({image.shape for image in images}) > 1:
        raise UsageError(
            f"The test images of {config} differ in size: crop them in the pipeline, or set "
            "test_dataloader.batch_size=1"
        )
    labels = [getattr(sample, "gt_label", ()) for sample in data["data_samples"]]
    if any(len(label) != 1 for label in labels):
        raise UsageError(f"The test data of {config} do not have exactly one label for each image.")
    return torch.stack(list(images)).float() / 255, torch.cat(labels)


def _is_picture(image: Tensor) -> bool:
    """Distinguish images of 0 to 255 from normalised ones and those that were divided by 255."""
    scaled = image.is_floating_point() and image.max() <= 1
    return image.ndim == 3 and not scaled and bool(image.min() >= 0 and image.max() <= 255)


def cells_of(attacks: Sequence[str], epsilons: Sequence[float]) -> list[tuple[str, float]]:
    """List attacks and sizes; at size 0 there is no attack, and one cell for all of them."""
    pairs = [(a, e) if e else ("none", 0.0) for a in attacks for e in epsilons]
    return list(dict.fromkeys(pairs))


class Results:
    """What has been counted, in a JSON file that is whole at any moment.

    Several processes may share the file: each adds what it counts to what is there.

    Args:
        path: The file; if it exists, its results are kept and continued.

    Attributes:
        counts (dict): Images attacked and still classified right, by model and cell.

    Raises:
        UsageError: If the file cannot be read or holds something else.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.counts: dict[str, dict[tuple[str, float], tuple[int, int]]] = {}
        self._about: dict[str, dict] = {}
        self._saved = -math.inf
        self._merge()

    def _merge(self) -> None:
        """Take from the file what it has more of: a cell counts the images in their order."""
        if not os.path.exists(self.path):
            return
        try:
            models = json.loads(Path(self.path).read_text(encoding="utf-8"))["models"]
            cells = {
                (name, cell["attack"], float(cell["epsilon"])): (cell["images"], cell["right"])
                for name, model in models.items()
                for cell in model.pop("cells")
            }
            about = {
                name: dict(model, setup=dict(model["setup"])) for name, model in models.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{self.path} holds no results of this tool: name another file for the results."
            ) from error
        for name, known in about.items():
            self._check(name, self._about.setdefault(name, known)["setup"], known["setup"])
        for (name, *cell), count in cells.items():
            counts = self.counts.setdefault(name, {})
            counts[tuple(cell)] = max(count, counts.get(tuple(cell), (0, 0)))

    def _check(self, name: str, ours: dict, known: dict) -> None:
        other = [key for key, value in ours.items() if known.get(key) != value]
        if other:
            what = " and ".join(f"other {key}" for key in other)
            raise UsageError(
                f"{self.path} has results of {name} with {what}: name another file "
                "for the results, give the model another name, or remove that file."
            )

    def begin(self, subject: Subject, cells: Iterable[tuple[str, float]], device: str) -> None:
        """Make room for the cells of a model; those that are there stay.

        Raises:
            UsageError: If the file has results of that name from another set-up.
        """
        name = subject.name
        about = dict(config=subject.config, checkpoint=subject.checkpoint, setup=subject.setup)
        about = self._about.setdefault(name, dict(about, machine=describe_machine(device)))
        self._check(name, subject.setup, about["setup"])
        counts = self.counts.setdefault(name, {})
        for cell in cells:
            counts.setdefault(cell, (0, 0))

    def accuracy(self, name: str, attack: str, epsilon: float) -> float:
        """Top-1 accuracy of a model after an attack, in per cent."""
        images, right = self.counts[name][(attack, epsilon) if epsilon else ("none", 0.0)]
        return 100 * right / images

    def save(self, every: float = 0) -> None:
        """Write the file, if the last time is ``every`` seconds ago.

        Raises:
            UsageError: If it cannot be written.
        """
        if time.monotonic() - self._saved < every:
            return
        with one_at_a_time(os.path.dirname(os.path.abspath(self.path))):
            self._merge()
            models = {
                name: dict(
                    about,
                    cells=[
                        dict(attack=attack, epsilon=epsilon, images=images, right=right)
                        for (attack, epsilon), (images, right) in self.counts.get(name, {}).items()
                    ],
                )
                for name, about in self._about.items()
            }
            write_json(self.path, dict(models=models))
        self._saved = time.monotonic()


def measure(
    subject: Subject,
    results: Results,
    cells: Sequence[tuple[str, float]],
    device: str = "cpu",
    say: Callable[[str], None] = say,
) -> None:
    """Attack all images that the cells have not had yet.

    Args:
        subject: The classifier.
        results: Where to count, every few seconds on the disk.
        cells: Attacks and sizes.
        device: Where to compute.
        say: What to do with a line that says how far it is.
    """
    total, counts = len(subject.chosen), results.counts[subject.name]
    open_cells = [cell for cell in cells if counts[cell][0] < total]
    if not open_cells:
        say(f"{subject.name}: all {total} images are counted in {results.path}")
        return
    first = position = min(counts[cell][0] for cell in open_cells)
    model = foolbox.PyTorchModel(subject.classifier.to(device), bounds=(0, 1), device=device)
    begin, said = time.monotonic(), -math.inf
    try:
        for images, labels in _parts(subject.pictures(first), device):
            images, labels = images.to(device), labels.to(device)
            for cell in open_cells:
                done, right = counts[cell]
                new = slice(max(done - position, 0), None)
                if len(labels[new]):
                    right += int(is_right(model, images[new], labels[new], *cell).sum())
                    counts[cell] = (position + len(labels), right)
            position += len(labels)
            results.save(SAVE_EVERY)
            if time.monotonic() - said > SAVE_EVERY or position == total:
                said = time.monotonic()
                rate = (position - first) / (said - begin)
                left = (total - position) / rate
                say(
                    f"{subject.name}: {position} of {total} images, {rate:.2g} images/s, "
                    f"{left:.0f} s left"
                )
    finally:
        results.save()
        subject.classifier.cpu()


def _parts(batches: Iterable[tuple[Tensor, Tensor]], device: str) -> Iterator[tuple]:
    """Split batches for a CPU, where all attacks on hundreds of images take many minutes."""
    for images, labels in batches:
        size = CPU_BATCH if device == "cpu" else len(labels)
        yield from zip(images.split(size), labels.split(size), strict=True)


def rows(
    names: Sequence[str],
    results: Results,
    attacks: Sequence[str],
    epsilons: Sequence[float],
    with_paper: bool,
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: a model and an attack in each, sizes from left to right."""
    header = ["model", "attack", "images", *(f"ε = {epsilon:g}" for epsilon in epsilons)]
    body = []
    for name in names:
        for attack in attacks:
            images = max(images for images, _ in results.counts[name].values())
            found = [number(results.accuracy(name, attack, epsilon), 2) for epsilon in epsilons]
            body.append([name, title(attack), str(images), *found])
    for entry in paper.ROBUSTNESS if with_paper else ():
        values = dict(zip(paper.EPSILONS, entry.accuracies, strict=True))
        found = [number(values.get(epsilon), 1) for epsilon in epsilons]
        body.append([f"{entry.name} (paper)", "FGSM", "–", *found])
    return header, body


def title(attack: str) -> str:
    """What people call an attack."""
    name, _, steps = attack.partition("-")
    return f"{name.upper()}, {steps} steps" if steps else name.upper()


# Okabe and Ito's colours, which colour-blind readers tell apart, but for yellow and black.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def figure(
    names: Sequence[str],
    results: Results,
    attacks: Sequence[str],
    epsilons: Sequence[float],
    with_paper: bool,
) -> Figure:
    """Draw accuracy against size: a panel for each attack, a line for each model.

    The paper's own values, with FGSM, are dotted and named so.
    """
    fig = new_figure(5 * len(attacks), 4.4, dpi=110)
    axes = fig.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for ax, attack in zip(axes, attacks, strict=True):
        for i, name in enumerate(names):
            values = [results.accuracy(name, attack, epsilon) for epsilon in epsilons]
            ax.plot(epsilons, values, marker="o", color=_COLOURS[i % len(_COLOURS)], label=name)
        for i, entry in enumerate(paper.ROBUSTNESS if with_paper and attack == "fgsm" else ()):
            ax.plot(
                *(paper.EPSILONS, entry.accuracies, ":"),
                marker=".",
                color=_COLOURS[i % len(_COLOURS)],
                label=f"{entry.name} (the paper's, ImageNet)",
            )
        ax.set_title(title(attack), fontsize=10)
        ax.set_xlabel("ε, images in [0, 1]")
        ax.set_ylim(0, 102)
        ax.grid(color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(fontsize=7)
    axes[0].set_ylabel("top-1 accuracy (%)")
    return fig
