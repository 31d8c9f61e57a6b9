"""Compare the backbone's two initialisations: HCGNet-A1 on CIFAR-10, same images in the same order.

Each run is one cosine from the recipe's learning rate to 0 over ``--steps`` batches of 128, without
mixup. 5,000 of the 50,000 training images, drawn by a fixed seed, are held out for the accuracy.
A finished run is written to OUT and not repeated.
Usage: python benchmarks/weight_init.py DATA OUT    (DATA/train/CLASS/NAME.png, 32 x 32 pixels)
"""

import argparse
import json
import random
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch.nn import functional as F

CONFIG = "configs/hcgnet/hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar10.py"
BATCH, HELD_OUT = 128, 5000


def read_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images, ``(N, 32, 32, 3)`` in RGB, and the labels; the held-out ones come first."""
    classes = sorted(path.name for path in folder.iterdir())
    paths = sorted(folder.glob("*/*.png"))
    random.Random(0).shuffle(paths)
    images = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
    return images, np.array([classes.index(path.parent.name) for path in paths])


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pad by 4, crop to 32 and flip half of them, each image by itself."""
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    corners, flips = rng.integers(0, 9, (len(images), 2)), rng.random(len(images)) < 0.5
    crops = [image[y : y + 32, x : x + 32] for image, (y, x) in zip(padded, corners, strict=True)]
    return np.stack([c[:, ::-1] if flip else c for c, flip in zip(crops, flips, strict=True)])


def run(images: np.ndarray, labels: np.ndarray, weight_init: str, seed: int, steps: int) -> dict:
    """Train and test once; return the loss of every step and the accuracy in per cent."""
    cfg = Config.fromfile(Path(__file__).parents[1] / CONFIG)
    cfg.model.backbone.weight_init = weight_init
    if weight_init == "pytorch":
        cfg.model.head.init_cfg = None  # the classifier, too
    init_default_scope("mmpretrain")
    torch.manual_seed(seed)
    cfg.model.train_cfg = None  # no mixup
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.backbone.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(cfg.data_preprocessor[k])[:, None, None] for k in ("mean", "std"))
    truth = torch.from_numpy(labels)

    def classify(batch: np.ndarray) -> torch.Tensor:
        x = (torch.from_numpy(batch.copy()).permute(0, 3, 1, 2).float() - mean) / std
        (features,) = model.extract_feat(x.contiguous(memory_format=torch.channels_last))
        return model.head.fc(features)

    settings = dict(cfg.optim_wrapper.optimizer)
    optimizer = getattr(torch.optim, settings.pop("type"))(model.parameters(), **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rng = np.random.default_rng(seed)
    order, losses, start = [], [], time.time()
    model.train()
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(np.arange(HELD_OUT, len(images)))
        picked, order = order[:BATCH], order[BATCH:]
        loss = F.cross_entropy(classify(augment(images[picked], rng)), truth[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 25 == 0:
            print(
                f"{weight_init}, seed {seed}, step {step + 1}: loss {np.mean(losses[-25:]):.3f}, "
                f"{(time.time() - start) / (step + 1):.2f} s a step",
                flush=True,
            )
    model.eval()
    right = 0
    with torch.no_grad():
        for batch in np.array_split(np.arange(HELD_OUT), -(-HELD_OUT // 250)):
            right += int((classify(images[batch]).argmax(1) == truth[batch]).sum())
    return dict(losses=losses, accuracy=100 * right / HELD_OUT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel("ERROR")  # not a line for every weight
    images, labels = read_images(args.data / "train")
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for weight_init in ("neutral", "pytorch"):
            path = args.out / f"{weight_init}_seed{seed}_{args.steps}steps.json"
            if not path.exists():
                path.write_text(json.dumps(run(images, labels, weight_init, seed, args.steps)))
            result = json.loads(path.read_text())
            print(
                f"{weight_init}, seed {seed}: loss of the last 50 steps "
                f"{np.mean(result['losses'][-50:]):.3f}, accuracy {result['accuracy']:.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
