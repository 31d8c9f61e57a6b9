"""Spoils data in every way we could think of, and trains and tests on it.

    python -m campaigns.data_faults [--share 0.2] [--seed 0] [--table FILE]

Each fault meets ``tools/train.py`` and ``tools/test.py``, with no and with two loading workers. The
run has to end within a minute, with exit code 2 and one sentence that names what is wrong, or, for
a fault that is listed as harmless, in peace.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from helpers.scripts import Result
from helpers.warm import Warm
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image

ROOT = Path(__file__).parents[1]
LIMIT = 60  # seconds
HARMLESS = None

DETECTION = f"""
_base_ = "{ROOT}/configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), growth_rates=(8, 8, 8, 8))),
    neck=dict(in_channels=[72, 44, 30, 23]),
)
"""
CLASSIFICATION = f"""
_base_ = "{ROOT}/configs/hcgnet/hcgnet-b_1xb32-cosine-4e_shapes.py"
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=(1, 1), growth_rates=(8, 8), stem="cifar")),
    head=dict(in_channels=20),
)
"""
COMMON = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
custom_imports = dict(imports=["campaigns.data_faults"])
train_dataloader = dict(batch_size=4, num_workers=0)
train_cfg = dict(max_epochs=1, val_interval=1)
"""


@TRANSFORMS.register_module()
class Misbehaving(LoadImageFromFile):
    """Fails on one image of each split.

    Args:
        how: ``"raise"``, ``"hang"`` or ``"die"``.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def transform(self, results: dict) -> dict:
        if "00001" in Path(results["img_path"]).name:
            if self.how == "raise":
                raise IndexError("index 7 is out of bounds")
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1000)
        return super().transform(results)


# A fault gets the folder of the data and the split, and returns options for the command.
Spoil = Callable[[Path, str], "list[str] | None"]


@dataclass
class Fault:
    """Something wrong with the data.

    Attributes:
        name: What it is.
        task: ``"detection"`` or ``"classification"``.
        spoil: Brings it about.
        expected: What the sentence has to hold, in training and in testing; ``HARMLESS`` if the
            run copes.
        workers: The numbers of workers that it needs.
    """

    name: str
    task: str
    spoil: Spoil
    expected: dict[str, str | None]
    workers: tuple[int, ...] = (0, 2)


FAULTS: list[Fault] = []


def fault(
    task: str, name: str, train: str | None, test: str | None | bool = False, **kwargs: object
) -> Callable[[Spoil], Spoil]:
    """Add a fault; what testing says is what training says unless ``test`` is given."""

    def add(spoil: Spoil) -> Spoil:
        expected = dict(train=train, test=train if test is False else test)
        FAULTS.append(Fault(name, task, spoil, expected, **kwargs))
        return spoil

    return add


# Images. The third of each split is spoilt.


def picture(data: Path, split: str) -> Path:
    """The image that is spoilt: of the split, or of its first class."""
    return sorted((data / split).rglob("*.png"))[2]


def write_image(path: Path, mode: str = "RGB", kind: str = "PNG", size: tuple = (), **kwargs):
    """Write a picture over an image, in its size unless another is given."""
    size = size or Image.open(path).size
    Image.effect_noise(size, 60).convert(mode).save(path, kind, **kwargs)


def on_image(change: Callable[[Path], object]) -> Spoil:
    def spoil(data: Path, split: str) -> None:
        change(picture(data, split))

    return spoil


def replace(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def cut_jpeg(path: Path, share: float) -> None:
    write_image(path, kind="JPEG", quality=95)
    cut(path, share)


def flip(path: Path, begin: int, end: int) -> None:
    content = bytearray(path.read_bytes())
    content[begin:end] = bytes(byte ^ 0xFF for byte in content[begin:end])
    path.write_bytes(content)


def write_16_bits(path: Path) -> None:
    height, width = np.asarray(Image.open(path)).shape[:2]
    array = np.random.default_rng(0).integers(0, 2**16, (height, width), dtype=np.uint16)
    Image.fromarray(array).save(path)


def write_jpeg_of_cmyk(path: Path) -> None:
    write_image(path, "CMYK", "JPEG")


IMAGE_FAULTS: list[tuple[str, Callable[[Path], object], str | None]] = [
    ("empty image", lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
    ("text for an image", lambda p: p.write_text("<html>404</html>"), "cannot be read as an image"),
    ("beginning of a PNG", lambda p: cut(p, 0.02), "cannot be read as an image"),
    ("half a PNG", lambda p: cut(p, 0.5), "cannot be read as an image"),
    ("PNG with a damaged header", lambda p: flip(p, 8, 30), "cannot be read as an image"),
    ("PNG with a flipped byte", lambda p: flip(p, -200, -199), "cannot be read as an image"),
    ("zeros for an image", lambda p: p.write_bytes(bytes(2000)), "cannot be read as an image"),
    ("beginning of a JPEG", lambda p: cut_jpeg(p, 0.05), "cannot be read as an image"),
    # Older versions of OpenCV leave the rest grey, which the full check finds.
    ("JPEG without its end", lambda p: cut_jpeg(p, 0.9), "cannot be read as an image"),
    ("image of 16 bits", write_16_bits, HARMLESS),
    ("CMYK", write_jpeg_of_cmyk, HARMLESS),
    ("grey image", lambda p: write_image(p, "L"), HARMLESS),
    ("image with transparency", lambda p: write_image(p, "RGBA"), HARMLESS),
    ("palette", lambda p: write_image(p, "P"), HARMLESS),
    ("GIF", lambda p: write_image(p, "P", "GIF"), HARMLESS),
]
for _task in ("detection", "classification"):
    for _name, _change, _expected in IMAGE_FAULTS:
        fault(_task, _name, _expected)(on_image(_change))
for _name, _make, _expected in (
    ("image that is not there", lambda p: None, "does not exist"),
    ("link to nothing", lambda p: p.symlink_to("gone.png"), "is a link to what does not exist"),
    ("folder for an image", lambda p: p.mkdir(), "is a folder, not an image"),
    ("pipe for an image", lambda p: os.mkfifo(p), "is a pipe or device, not an image"),
):
    fault("detection", _name, _expected)(on_image(replace(_make)))
    # Folders are listed: what is no file is no image of theirs.
    fault("classification", _name, HARMLESS)(on_image(replace(_make)))
fault("detection", "image of another size", "is 90 wide and 40 high, but its annotations say")(
    on_image(lambda p: write_image(p, size=(90, 40)))
)


# COCO annotations


def on_json(change: Callable[[dict], object]) -> Spoil:
    """Change the content of the annotation file in place, or replace it by what is returned."""

    def spoil(data: Path, split: str) -> None:
        path = data / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        changed = change(content)
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            path.write_text(json.dumps(content if changed is None else changed))

    return spoil


def put(part: str, key: str, value: object, every: bool = False) -> Spoil:
    """Set a key of the third image, annotation or category, or of all."""

    def change(content: dict) -> None:
        for entry in content[part] if every else content[part][2:3]:
            entry[key] = value

    return on_json(change)


def drop(part: str, key: str) -> Spoil:
    """Take a key from the third image, annotation or category."""

    def change(content: dict) -> None:
        del content[part][2][key]

    return on_json(change)


def twice(part: str, key: str) -> Spoil:
    """Give the third entry the value of the second."""

    def change(content: dict) -> None:
        content[part][2][key] = content[part][1][key]

    return on_json(change)


def without(key: str) -> Spoil:
    return on_json(lambda content: [content.pop(key), None][1])


def emptied(key: str) -> Spoil:
    return on_json(lambda content: content.update({key: []}))


def text_of(content: dict) -> bytes:
    return json.dumps(content).encode()


NAN, INF = float("nan"), float("inf")
for _name, _spoil, *_expected in (
    ("empty file", on_json(lambda c: b""), "is empty"),
    ("half a file", on_json(lambda c: text_of(c)[: len(text_of(c)) // 2]), "is not JSON"),
    ("no JSON", on_json(lambda c: b"cross 1 2 3 4"), "is not JSON"),
    ("bytes", on_json(lambda c: b"\xff\xfe\x00\x80" * 100), "is not JSON"),
    ("a list", on_json(lambda c: [1, 2]), "is a JSON list"),
    ("no categories", without("categories"), "has no 'categories'"),
    ("no images", without("images"), "has no 'images'"),
    ("no annotations", without("annotations"), "holds no annotation", HARMLESS),
    ("images that are none", on_json(lambda c: c.update(images=[1, 2])), "not a list of objects"),
    ("empty images", emptied("images"), "names no image"),
    ("empty annotations", emptied("annotations"), "holds no annotation", HARMLESS),
    ("empty categories", emptied("categories"), "has no category 'cross'"),
    ("misspelt category", put("categories", "name", "rectangel"), "did you mean 'rectangel'"),
    ("categories in another order", on_json(lambda c: c["categories"].reverse()), "another order"),
    ("category without a name", drop("categories", "name"), "without 'name'"),
    ("duplicate category id", twice("categories", "id"), "gives the category id"),
    ("duplicate category name", twice("categories", "name"), "two categories named"),
    ("duplicate image id", twice("images", "id"), "gives the image id"),
    ("duplicate annotation id", twice("annotations", "id"), "gives the annotation id"),
    ("image without a file name", drop("images", "file_name"), "without 'file_name'"),
    ("file name that is a number", put("images", "file_name", 7), "file_name is 7"),
    ("file name of another file", put("images", "file_name", "no.png"), "no.png does not exist"),
    ("image without a width", drop("images", "width"), "without 'width'"),
    ("image of height 0", put("images", "height", 0), "height 0"),
    ("image of width null", put("images", "width", None), "width None"),
    ("annotation without an id", drop("annotations", "id"), "without 'id'"),
    ("annotation without a box", drop("annotations", "bbox"), "without 'bbox'"),
    ("annotation without an area", drop("annotations", "area"), "without 'area'"),
    ("annotation without iscrowd", drop("annotations", "iscrowd"), HARMLESS, "without 'iscrowd'"),
    ("annotation without a category", drop("annotations", "category_id"), "without 'category_id'"),
    ("unknown category", put("annotations", "category_id", 99), "of the category 99"),
    ("category that is a list", put("annotations", "category_id", [1]), "of the category [1]"),
    ("unknown image", put("annotations", "image_id", 9999), HARMLESS),
    ("NaN in a box", put("annotations", "bbox", [1, NAN, 5, 5]), "not of finite numbers"),
    ("inf in a box", put("annotations", "bbox", [1, 1, INF, 5]), "not of finite numbers"),
    ("box of three numbers", put("annotations", "bbox", [1, 1, 5]), "not of finite numbers"),
    ("box of texts", put("annotations", "bbox", ["1", "1", "5", "5"]), "not of finite numbers"),
    ("box that is null", put("annotations", "bbox", None), "not of finite numbers"),
    ("area that is null", put("annotations", "area", None), "not of finite numbers"),
    ("box of no width", put("annotations", "bbox", [5, 5, 0, 9]), HARMLESS),
    ("box of negative width", put("annotations", "bbox", [5, 5, -4, 9]), HARMLESS),
    ("box outside the image", put("annotations", "bbox", [900, 900, 9, 9]), HARMLESS),
    ("all boxes of no width", put("annotations", "bbox", [5, 5, 0, 9], True), "no annotation that"),
    ("file with a byte order mark", on_json(lambda c: b"\xef\xbb\xbf" + text_of(c)), "plain UTF-8"),
    ("file in UTF-16", on_json(lambda c: json.dumps(c).encode("utf-16")), "plain UTF-8"),
    ("iscrowd that is a string", put("annotations", "iscrowd", "0"), "whose iscrowd is '0'"),
    ("ignore that is a string", put("annotations", "ignore", "no"), "ignore 'no'", HARMLESS),
    ("iscrowd that is null", put("annotations", "iscrowd", None), HARMLESS, "iscrowd is None"),
    ("a crowd", put("annotations", "iscrowd", 1), HARMLESS),
    ("nothing but crowds", put("annotations", "iscrowd", 1, True), "no annotation that"),
    ("all to be ignored", put("annotations", "ignore", 1, True), "no annotation that", HARMLESS),
    ("areas of 0", put("annotations", "area", 0, True), "no annotation that", HARMLESS),
    ("annotation id 0", put("annotations", "id", 0), HARMLESS),
    ("annotation id that is a string", put("annotations", "id", "a"), HARMLESS),
    ("image id of another type", put("annotations", "image_id", "1"), "image_id is '1'"),
    ("category id of another type", put("annotations", "category_id", "1"), "category_id is '1'"),
    ("name that is a number", put("categories", "name", 7), "has no category 'rectangle'"),
    ("file under two ids", twice("images", "file_name"), None),
    (
        "RLE that is cut off",
        put("annotations", "segmentation", dict(size=[64, 64], counts="o0")),
        "a compressed RLE",
    ),
    (
        "polygon in fractions",
        put("annotations", "segmentation", [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]),
        "lie between 0 and 1",
    ),
    ("missing mask", drop("annotations", "segmentation"), "without a mask"),
    ("mask that is a text", put("annotations", "segmentation", "abc"), "whose mask is neither"),
    (
        "mask of two points",
        put("annotations", "segmentation", [[1, 1, 2, 2]]),
        HARMLESS,
        "than three points",
    ),
    ("NaN in a mask", put("annotations", "segmentation", [[1, 1, 5, NAN, 5, 5]]), "neither"),
    (
        "RLE of another size",
        put("annotations", "segmentation", dict(size=[5, 5], counts=[25])),
        "whose mask is neither",
    ),
):
    fault("detection", _name, *_expected)(_spoil)


def options(*texts: str) -> Spoil:
    """Leave the files as they are and add options, with ``{phase}`` for train or test."""

    def spoil(data: Path, split: str) -> list[str]:
        return [text.format(phase="train" if split == "train" else "test") for text in texts]

    return spoil


for _name, _spoil, _expected in (
    ("too few classes in a head", options("model.roi_head.bbox_head.num_classes=4"), "num_classes"),
    (
        "class that no file has",
        options("{phase}_dataloader.dataset.metainfo.classes=('cross','ellipse','rectangle',"
                "'star','circle')"),
        "has no category 'circle'",
    ),
    (
        "classes that are a text",
        options("{phase}_dataloader.dataset.metainfo.classes=cross"),
        "is the string 'cross'",
    ),
    ("folder that is not there", options("{phase}_dataloader.dataset.data_root=gone"), "gone"),
    (
        "file that is not there",
        options("{phase}_dataloader.dataset.ann_file=annotations/no.json"),
        "annotations/no.json",
    ),
):  # fmt: skip
    fault("detection", _name, _expected)(_spoil)

# Transforms

for _task in ("detection", "classification"):
    _first = "{phase}_dataloader.dataset.pipeline.0"
    for _how, _expected, _kwargs in (
        ("raise", "Misbehaving raised IndexError: index 7 is out of bounds", {}),
        ("die", "worker has ended", dict(workers=(2,))),
        ("hang", "sent nothing for 2", dict(workers=(2,))),
    ):
        fault(_task, f"transform that would {_how}", _expected, **_kwargs)(
            options(
                f"{_first}.type=Misbehaving",
                f"{_first}.how={_how}",
                f"{{phase}}_dataloader.timeout={2 if _how == 'hang' else 5}",
            )
        )


# Classification


def class_folder(data: Path, split: str, name: str = "star") -> Path:
    return data / split / name


@fault("classification", "class folder that is not there", "4 classes", "4 classes")
def _(data: Path, split: str) -> None:
    shutil.rmtree(class_folder(data, split))


@fault("classification", "one more class folder", "6 classes")
def _(data: Path, split: str) -> None:
    shutil.copytree(class_folder(data, split), data / split / "zebra")


@fault("classification", "hidden folder", "hidden folder '.ipynb_checkpoints'")
def _(data: Path, split: str) -> None:
    shutil.copytree(class_folder(data, split), data / split / ".ipynb_checkpoints")


@fault("classification", "misspelt class folder", "has other classes than")
def _(data: Path, split: str) -> None:
    class_folder(data, split).rename(data / split / "satr")


@fault("classification", "empty class folder", HARMLESS)
def _(data: Path, split: str) -> None:
    for path in class_folder(data, split).iterdir():
        path.unlink()


@fault("classification", "no images", "holds no images")
def _(data: Path, split: str) -> None:
    for path in (data / split).rglob("*.png"):
        path.unlink()


@fault("classification", "no folders", "holds no folders of classes")
def _(data: Path, split: str) -> None:
    shutil.rmtree(data / split)
    (data / split).mkdir()


@fault("classification", "images of another suffix", HARMLESS)
def _(data: Path, split: str) -> None:
    picture(data, split).rename(picture(data, split).with_suffix(".webp"))


fault("classification", "too few classes in the head", "num_classes")(
    options("model.head.num_classes=4")
)
fault("classification", "too many classes in the head", "num_classes")(
    options("model.head.num_classes=6")
)
fault("classification", "classes in another order", "in alphabetical order")(
    options("{phase}_dataloader.dataset.classes=['star','cross','ellipse','rectangle','triangle']")
)


def on_list(change: Callable[[list[str]], None]) -> Spoil:
    """List the images of the folders with their labels, and change the lines."""

    def spoil(data: Path, split: str) -> list[str]:
        folders = sorted(path.name for path in (data / split).iterdir())
        lines = [
            f"{path.relative_to(data / split)} {folders.index(path.parent.name)}"
            for path in sorted((data / split).rglob("*.png"))
        ]
        change(lines)
        (data / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
        phase = "train" if split == "train" else "test"
        return [f"{phase}_dataloader.dataset.ann_file={split}.txt"]

    return spoil


def set_line(text: str) -> Spoil:
    return on_list(lambda lines: lines.__setitem__(2, text))


for _name, _spoil, _expected in (
    ("good list", on_list(lambda lines: None), HARMLESS),
    ("line without a label", set_line("cross/00000.png"), "in line 3"),
    ("label that is a name", set_line("cross/00000.png cross"), "in line 3"),
    ("label that is too large", set_line("cross/00000.png 5"), "the label 5"),
    ("negative label", set_line("cross/00000.png -1"), "the label -1"),
    ("listed image that is not there", set_line("cross/gone.png 0"), "gone.png does not exist"),
    ("blank line", set_line(""), "in line 3"),
    (
        "byte order mark",
        on_list(lambda lines: lines.__setitem__(0, "\ufeff" + lines[0])),
        "byte order mark",
    ),
    ("empty list", on_list(lambda lines: lines.clear()), "names no image"),
):
    fault("classification", _name, _expected)(_spoil)


# Running


@dataclass
class Report:
    """How a fault ended in one phase, for all numbers of workers."""

    fault: Fault
    phase: str
    workers: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sentence: str = ""
    failures: list[str] = field(default_factory=list)


class Campaign:
    """Good data, configs and checkpoints in a folder, and a process to run the tools."""

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm, self.folder = warm, folder
        script = ROOT / "tools/dataset_converters/make_shapes.py"
        sizes = ("--images", 16, "--val-images", 6, "--size", 64)
        for task, extra in dict(detection=(), classification=("--classification",)).items():
            place = folder / task
            place.mkdir()
            self._succeed(script, *sizes, *extra, cwd=place)
            model = DETECTION if task == "detection" else CLASSIFICATION
            (place / "config.py").write_text(model + COMMON)
            self._succeed(ROOT / "tools/train.py", "config.py", "--work-dir", "good", cwd=place)

    def _succeed(self, *args: object, cwd: Path) -> None:
        result = self.warm.run(*args, cwd=cwd)
        assert result.code == 0, result.out[-2000:] + result.err[-4000:]

    def run(self, fault: Fault, phase: str, workers: tuple[int, ...] = (0, 2)) -> Report:
        """Let a fault meet a tool."""
        report = Report(fault, phase)
        place = self.folder / "run"
        shutil.copytree(self.folder / fault.task / "data", place / "data")
        data = place / "data/shapes"
        data = data / "classification" if fault.task == "classification" else data
        extra = fault.spoil(data, "train" if phase == "train" else "val") or []
        config, checkpoint = (
            self.folder / fault.task / name for name in ("config.py", "good/epoch_1.pth")
        )
        checkpoints = [checkpoint] if phase == "test" else []
        for count in workers:
            if count not in fault.workers:
                continue
            run = self.warm.start(
                ROOT / f"tools/{phase}.py", config, *checkpoints, "--work-dir", f"work{count}",
                "--cfg-options", f"{phase}_dataloader.num_workers={count}", *extra, cwd=place,
            )  # fmt: skip
            report.workers.append(count)
            start = time.monotonic()
            try:
                result = run.wait(LIMIT)
            except TimeoutError as error:
                report.failures.append(f"{count} workers: {error}")
            else:
                report.seconds.append(time.monotonic() - start)
                report.failures += [
                    f"{count} workers: {failure}"
                    for failure in judge(result, fault.expected[phase])
                ]
                lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
                report.sentence = lines[-1].removeprefix("error: ") if lines else ""
        shutil.rmtree(place)
        return report


def judge(result: Result, expected: str | None) -> Iterator[str]:
    """What is not as it should be: nothing if all is well."""
    tail = f"\n{result.out[-1500:]}\n{result.err[-3000:]}"
    if expected is HARMLESS:
        if result.code != 0:
            yield f"exit code {result.code}, though it should be harmless{tail}"
        return
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    if result.code != 2 or len(errors) != 1:
        yield f"exit code {result.code} and {len(errors)} sentences{tail}"
    elif expected not in errors[0]:
        yield f"no {expected!r} in: {errors[0]}"
    if "Traceback" in result.out + result.err:
        yield f"a traceback{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1, help="of the faults, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose names hold this text")
    parser.add_argument("--table", help="write what each fault led to as a Markdown table")
    args = parser.parse_args()
    faults = [fault for fault in FAULTS if args.only in fault.name]
    count = max(1, round(args.share * len(faults)))
    faults = random.Random(args.seed).sample(faults, count) if args.share < 1 else faults
    reports = []
    with Warm() as warm, tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(warm, Path(folder))
        for i, fault in enumerate(faults):
            for phase in ("train", "test"):
                report = campaign.run(fault, phase)
                reports.append(report)
                for failure in report.failures:
                    print(f"FAILED {fault.task}, {fault.name}, {phase}, {failure}", file=sys.stderr)
            print(f"{i + 1}/{len(faults)} {fault.task}: {fault.name}", file=sys.stderr, flush=True)
    if args.table:
        Path(args.table).write_text(table(reports))
    runs = sum(len(report.workers) for report in reports)
    failed = sum(len(report.failures) for report in reports)
    slowest = max((seconds for report in reports for seconds in report.seconds), default=0)
    harmless = sum(set(fault.expected.values()) == {HARMLESS} for fault in faults)
    print(
        f"data faults: {len(faults)} ({harmless} of them harmless), {runs} runs, {failed} not as "
        f"they should be, the slowest {slowest:.1f} s"
    )
    sys.exit(failed > 0)


def table(reports: list[Report]) -> str:
    """A Markdown table of what the runs said."""
    buffer = io.StringIO()
    buffer.write("| data | fault | tool | workers | what it says |\n|---|---|---|---|---|\n")
    for report in reports:
        said = report.sentence.replace("|", r"\|") or "(runs to its end)"
        workers = ", ".join(map(str, report.workers))
        cells = (report.fault.task, report.fault.name, report.phase, workers, said)
        buffer.write(f"| {' | '.join(cells)} |\n")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
