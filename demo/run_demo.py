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
        left, right = (draw(image, objects, names, threshold) for objects in (truth, predicted))
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
  python demo/image_demo.py YOUR_IMAGE.jpg {args.config} \\
      {checkpoint}      what it finds in an image of yours
  python demo/run_demo.py --config configs/mask_rcnn/mask-rcnn_r50_fpn-light_scratch_2e_shapes.py \\
      --work-dir work_dirs/demo-r50      the same with ResNet-50
  the README's sections on training on COCO and on your own data set"""
    )


if __name__ == "__main__":
    main()
