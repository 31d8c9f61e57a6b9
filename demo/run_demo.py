"""Make the shapes data set, train Mask R-CNN with HCGNet-B on it, test it and show the results.

Everything runs through the scripts in ``tools/``, as a user would type them. A run that was
interrupted continues from its last epoch; a finished one is only tested and shown again.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from mmhcgnet.engine.configs import ops_lack_the_gpu

DATA = Path("data/shapes")
COLOURS = np.array(
    [(230, 60, 60), (60, 200, 60), (80, 120, 255), (240, 200, 40), (220, 80, 220)], dtype=np.uint8
)


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


def draw(image: np.ndarray, objects: list[dict], names: list[str], scale: int) -> np.ndarray:
    """Draw boxes, masks and names on an enlarged image.

    Args:
        image: RGB image of shape ``(H, W, 3)``.
        objects: Dicts with ``mask`` ``(H, W)``, ``bbox`` ``(x1, y1, x2, y2)`` in pixels,
            ``label`` and ``text``.
        names: Name of each label.
        scale: How many times the image is enlarged.

    Returns:
        RGB image of shape ``(scale * H, scale * W, 3)``.
    """
    size = (image.shape[1] * scale, image.shape[0] * scale)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for item in objects:
        colour = COLOURS[item["label"] % len(COLOURS)]
        mask = cv2.resize(item["mask"].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        canvas[mask] = (0.5 * canvas[mask] + 0.5 * colour).astype(np.uint8)
    for item in objects:
        colour = COLOURS[item["label"] % len(COLOURS)].tolist()
        x1, y1, x2, y2 = (round(scale * float(value)) for value in item["bbox"])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 2)
        text = f"{names[item['label']]}{item['text']}"
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        x1, y1 = min(x1, size[0] - width), max(y1, height + 4)
        cv2.rectangle(canvas, (x1, y1 - height - 4), (x1 + width, y1), colour, -1)
        cv2.putText(canvas, text, (x1, y1 - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
    return canvas


def save_pictures(results: Path, folder: Path, threshold: float, scale: int = 3) -> int:
    """Save ground truth (left) next to prediction (right) for every image of the validation set.

    Args:
        results: Pickled predictions of ``tools/test.py --out``.
        folder: Where the images go.
        threshold: Predictions below this score are not drawn.
        scale: How many times the images are enlarged.

    Returns:
        The number of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    coco = COCO(DATA / "annotations" / "instances_val.json")
    labels = {cat: i for i, cat in enumerate(coco.getCatIds())}
    names = [coco.cats[cat]["name"] for cat in labels]
    with open(results, "rb") as file:
        predictions = pickle.load(file)  # written by this demo a moment ago
    for prediction in predictions:
        info = coco.imgs[prediction["img_id"]]
        image = cv2.imread(str(DATA / "val" / info["file_name"]))[:, :, ::-1]
        truth = []
        for ann in coco.imgToAnns[info["id"]]:
            x, y, w, h = ann["bbox"]
            truth.append(
                dict(
                    mask=coco.annToMask(ann),
                    bbox=(x, y, x + w, y + h),
                    label=labels[ann["category_id"]],
                    text="",
                )
            )
        found = prediction["pred_instances"]
        drawn = [
            dict(
                mask=rle.decode(found["masks"][i]),
                bbox=found["bboxes"][i].tolist(),
                label=int(found["labels"][i]),
                text=f" {float(found['scores'][i]):.2f}",
            )
            for i in np.flatnonzero(np.asarray(found["scores"]) >= threshold)
        ]
        left, right = (draw(image, items, names, scale) for items in (truth, drawn))
        gap = np.full((left.shape[0], 6, 3), 255, np.uint8)
        pair = np.concatenate([left, gap, right], axis=1)
        cv2.imwrite(str(folder / f"{Path(info['file_name']).stem}.png"), pair[:, :, ::-1])
    return len(predictions)


def latest_log(work_dir: Path) -> Path:
    """Find the log of the last training in a work directory; its tests lie a folder deeper."""
    return max(work_dir.glob("*/*.log"), key=os.path.getmtime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", default="configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
    )
    parser.add_argument("--work-dir", default="work_dirs/demo", help="where the results go")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score that is drawn (default: 0.5)"
    )
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parent.parent)
    if ops_lack_the_gpu():
        print("MMCV's ops were compiled without CUDA: the demo runs on the CPU.")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    work_dir = Path(args.work_dir)

    run(
        "1/4 Data: 4,200 images to learn from, 200 to test on (about a minute)",
        "tools/dataset_converters/make_shapes.py", "--out", str(DATA),
    )  # fmt: skip
    run(
        "2/4 Training from scratch (8 to 10 minutes on two cores)",
        "tools/train.py", args.config, "--work-dir", str(work_dir), "--resume",
    )  # fmt: skip
    checkpoint = Path((work_dir / "last_checkpoint").read_text().strip())
    results = work_dir / "predictions.pkl"
    run(
        "3/4 Testing on images it has not seen (about half a minute)",
        "tools/test.py", args.config, str(checkpoint), "--work-dir", str(work_dir / "test"),
        "--out", str(results),
    )  # fmt: skip
    print("\n=== 4/4 Images", flush=True)
    pictures = work_dir / "pictures"
    count = save_pictures(results, pictures, args.threshold)

    print(
        f"""
Done.
  images      {pictures}/: {count} pairs, ground truth on the left, prediction on the right
  log         {latest_log(work_dir)}
  checkpoint  {checkpoint}
Try next, after `. .venv/bin/activate`:
  python demo/run_demo.py --config configs/mask_rcnn/mask-rcnn_r50_fpn-light_scratch_2e_shapes.py \\
      --work-dir work_dirs/demo-r50      the same with ResNet-50
  the README's sections on training on COCO and on your own data set"""
    )


if __name__ == "__main__":
    main()
