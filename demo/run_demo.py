"""Make the shapes data set, train Mask R-CNN with HCGNet-B on it, test it and show the results.

Everything runs through the scripts in ``tools/``, as a user would type them. A run that was
interrupted continues from its last epoch; a finished one is only tested and shown again.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import shlex
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmhcgnet.cli.images import DETECTOR
from mmhcgnet.datasets.png import write_png
from mmhcgnet.engine.configs import ops_lack_the_gpu
from mmhcgnet_runtime import draw

DATA = Path("data/shapes")


def run(title: str, *command: str) -> None:
    """Say what comes, show the command and run it."""
    print(f"\n=== {title}\n$ python {shlex.join(command)}", flush=True)
    start = time.monotonic()
    result = subprocess.run([sys.executable, *command], check=False)
    if result.returncode:
        sys.exit(
            f"This step ended with exit code {result.returncode}; run the demo again to continue."
        )
    print(f"=== done in {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def save_pictures(results: Path, folder: Path, threshold: float) -> int:
    """Save ground truth (left) next to prediction (right) for every image of the validation set.

    ``overview.png`` next to the folder shows four of them, which :func:`choose` has chosen.

    Args:
        results: Pickled predictions of ``tools/test.py --out``.
        folder: Where the images go.
        threshold: Predictions below this score are not drawn.

    Returns:
        The number of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    coco = COCO(DATA / "annotations" / "instances_val.json")
    labels = {cat: i for i, cat in enumerate(coco.getCatIds())}
    names = [coco.cats[cat]["name"] for cat in labels]
    with open(results, "rb") as file:
        predictions = pickle.load(file)  # written by this demo a moment ago
    with_objects = [p for p in predictions if coco.imgToAnns[p["img_id"]]]
    chosen = choose({p["img_id"]: image_ap(coco, p) for p in with_objects})
    overview = {}
    for prediction in predictions:
        info = coco.imgs[prediction["img_id"]]
        image = cv2.imread(str(DATA / "val" / info["file_name"]))[:, :, ::-1]
        anns = coco.imgToAnns[info["id"]]
        boxes = np.array([ann["bbox"] for ann in anns], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth = dict(
            boxes=boxes,
            labels=[labels[ann["category_id"]] for ann in anns],
            masks=[coco.annToMask(ann) for ann in anns],
        )
        found = prediction["pred_instances"]
        predicted = dict(
            boxes=found["bboxes"].numpy(),
            scores=found["scores"].numpy(),
            labels=found["labels"].numpy(),
            masks=[rle.decode(mask) for mask in found["masks"]],
        )
        pair = beside(*(draw(image, objects, names, threshold) for objects in (truth, predicted)))
        write_png(folder / f"{Path(info['file_name']).stem}.png", pair)
        if info["id"] in chosen:
            overview[info["id"]] = pair
    pairs = [overview[image] for image in chosen]
    rows = [beside(*pairs[i : i + 2], gap=24) for i in range(0, len(pairs) // 2 * 2, 2)]
    if rows:
        sheet = beside(*(row.transpose(1, 0, 2) for row in rows), gap=24).transpose(1, 0, 2)
        write_png(folder.parent / "overview.png", sheet)
    return len(predictions)


def beside(*images: np.ndarray, gap: int = 6) -> np.ndarray:
    """Put images next to each other, with white between them and below the lower ones."""
    height = max(image.shape[0] for image in images)
    parts = [np.full((height, gap, 3), 255, np.uint8)]
    for image in images:
        rest = ((0, height - image.shape[0]), (0, 0), (0, 0))
        parts += [np.pad(image, rest, constant_values=255), parts[0]]
    return np.concatenate(parts[1:-1], axis=1)


def image_ap(coco: COCO, prediction: dict[str, Any]) -> float:
    """Compute COCO's AP of boxes from one image with objects alone, from 0 to 1."""
    found = prediction["pred_instances"]
    boxes = found["bboxes"].numpy().astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    categories = coco.getCatIds()
    records = [
        dict(
            image_id=prediction["img_id"],
            category_id=categories[int(label)],
            bbox=box.tolist(),
            score=float(score),
        )
        for box, label, score in zip(boxes, found["labels"], found["scores"], strict=True)
    ]
    if not records:
        return 0.0
    with redirect_stdout(io.StringIO()):
        judge = COCOeval(coco, coco.loadRes(records), "bbox")
        judge.params.imgIds = [prediction["img_id"]]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]  # of objects of any size
    return float(precision[precision > -1].mean())


def choose(aps: dict[int, float], number: int = 4) -> list[int]:
    """Choose the images to show: those around the upper quartile of their own APs.

    So a quarter of the images went better and three quarters no better: what is shown is success,
    but not luck.

    Args:
        aps: AP of each image.
        number: How many to choose.

    Returns:
        The images, the best first; equal ones in the order of their numbers.
    """
    ranked = sorted(aps, key=lambda image: (-aps[image], image))
    first = max(0, len(ranked) // 4 - number // 2)
    return ranked[first : first + number]


def latest_log(work_dir: Path) -> Path:
    """Find the log of the last training in a work directory; its tests lie a folder deeper."""
    return max(work_dir.glob("*/*.log"), key=os.path.getmtime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", default="configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
    )
    parser.add_argument(
        "--shipped",
        action="store_true",
        help="train nothing: show the small network that ships with its weights",
    )
    parser.add_argument(
        "--work-dir", help="where the results go (default: work_dirs/demo in the checkout)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score that is drawn (default: 0.5)"
    )
    args = parser.parse_args()
    # What was given is meant from here; the defaults, names and what was made before, from there.
    if args.work_dir:
        args.work_dir = os.path.abspath(args.work_dir)
    if os.path.exists(args.config):
        args.config = os.path.abspath(args.config)
    os.chdir(Path(__file__).resolve().parent.parent)
    if ops_lack_the_gpu():
        print("MMCV's ops were compiled without CUDA: the demo runs on the CPU.")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    work_dir = Path(args.work_dir or "work_dirs/demo")

    run(
        "1/4 Data: 4,200 images to learn from, 200 to test on (about a minute)",
        "tools/dataset_converters/make_shapes.py", "--out", str(DATA),
    )  # fmt: skip
    if args.shipped:
        args.config = checkpoint = DETECTOR
    else:
        run(
            "2/4 Training from scratch (8 to 10 minutes on two cores)",
            "tools/train.py", args.config, "--work-dir", str(work_dir), "--resume",
        )  # fmt: skip
        checkpoint = (work_dir / "last_checkpoint").read_text().strip()
    results = work_dir / "predictions.pkl"
    run(
        "3/4 Testing on images it has not seen (about half a minute)",
        "tools/test.py", args.config, checkpoint, "--work-dir", str(work_dir / "test"),
        "--out", str(results),
    )  # fmt: skip
    print("\n=== 4/4 Images", flush=True)
    pictures = work_dir / "pictures"
    count = save_pictures(results, pictures, args.threshold)

    print(
        f"""
Done.
  images      {pictures}/: {count} pairs, ground truth on the left, prediction on the right
  overview    {work_dir / "overview.png"}: the four around the upper quartile of the images' own APs
  log         {latest_log(work_dir / "test" if args.shipped else work_dir)}
  checkpoint  {checkpoint}
Try next, after `. .venv/bin/activate`:
  python demo/image_demo.py YOUR_IMAGE.jpg {args.config} \\
      {checkpoint}      what it finds in an image of yours
  python demo/run_demo.py --config configs/mask_rcnn/mask-rcnn_r50_fpn-light_scratch_2e_shapes.py \\
      --work-dir work_dirs/demo-r50      the same with ResNet-50
  docs/own_data.md      15 minutes with your own data"""
    )


if __name__ == "__main__":
    main()
