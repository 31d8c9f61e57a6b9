"""List CIFAR-10's training images for CustomDataset, with 5,000 of them held out.

The images are JPEG files in one folder a class: ``ROOT/train/CLASS/NAME.jpg``.
Usage: python benchmarks/cifar10_folder/split.py ROOT
"""

import random
import sys
from pathlib import Path

root = Path(sys.argv[1])
classes = sorted(folder.name for folder in (root / "train").iterdir())
images = sorted((root / "train").glob("*/*.jpg"))
random.Random(0).shuffle(images)
for name, part in (("held_out", images[:5000]), ("rest", images[5000:])):
    lines = [
        f"{path.relative_to(root / 'train')} {classes.index(path.parent.name)}" for path in part
    ]
    (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} images: {root / f'{name}.txt'}")
