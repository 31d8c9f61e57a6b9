"""Compare ResNet-50 with HCGNet's gates, and with SE, as plug-ins behind each block's last norm.

Parameters and multiply-adds are those of the whole network, 1000 classes at 224 x 224. The losses
are those of a quarter of its width on CIFAR-10, with a stem of one 3x3 convolution, after --steps
batches of 64 of one cosine from a learning rate of 0.05 to 0, the same images in the same order: of
the last 25 steps, and of 1,000 of the 50,000 training images that were held out.
A finished run is written to OUT and not repeated.
Usage: python benchmarks/plugins.py DATA OUT    (DATA/train/CLASS/NAME.png, 32 x 32 pixels)
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from mmdet.models.layers import SELayer
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import nn
from torch.nn import functional as F
from weight_init import augment, read_images

from mmhcgnet.analysis.complexity.counting import count
from mmhcgnet.engine import build_model

BATCH, HELD_OUT, LAST = 64, 1000, 25
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
VARIANTS = {
    "ResNet-50": None,
    "SE": "SEPlugin",
    "forget gate": "mmhcgnet.ForgetGatePlugin",
    "multi-scale excitation": "mmhcgnet.MultiScaleExcitationPlugin",
}


@MODELS.register_module()
class SEPlugin(SELayer):
    """MMDetection's squeeze and excitation in the contract of plug-ins."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, ratio=16)


def classifier(plugin: str | None, base_channels: int, classes: int) -> nn.Module:
    """Build MMPretrain's classifier on MMDetection's ResNet-50, which has plug-ins."""
    plugins = None if plugin is None else [dict(cfg=dict(type=plugin), position="after_conv3")]
    model = dict(
        type="ImageClassifier",
        backbone=dict(
            type="mmdet.ResNet",
            depth=50,
            base_channels=base_channels,
            out_indices=(3,),
            norm_eval=False,
            plugins=plugins,
        ),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=classes, in_channels=32 * base_channels),
    )
    return build_model(Config(dict(default_scope="mmpretrain", model=model)))


def run(images: np.ndarray, labels: np.ndarray, plugin: str | None, seed: int, steps: int) -> dict:
    """Train once; return the loss of every step and of the images held out."""
    torch.manual_seed(seed)
    model = classifier(plugin, 16, 10)
    model.init_weights()
    network = model.backbone
    network.conv1, network.maxpool = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Identity()
    network.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    truth = torch.from_numpy(labels)

    def lose(picked: np.ndarray, batch: np.ndarray) -> torch.Tensor:
        x = (torch.from_numpy(batch.copy()).permute(0, 3, 1, 2).float() - mean) / std
        (features,) = model.extract_feat(x.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(model.head.fc(features), truth[picked])

    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rng = np.random.default_rng(seed)
    order, losses = [], []
    model.train()
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(np.arange(HELD_OUT, len(images)))
        picked, order = order[:BATCH], order[BATCH:]
        loss = lose(picked, augment(images[picked], rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        parts = np.array_split(np.arange(HELD_OUT), -(-HELD_OUT // 250))
        held_out = sum(lose(part, images[part]).item() * len(part) for part in parts) / HELD_OUT
    return dict(losses=losses, held_out=held_out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel("ERROR")  # not a line for every weight
    images, labels = read_images(args.data / "train")
    args.out.mkdir(parents=True, exist_ok=True)
    print("| ResNet-50 with | parameters | multiply-adds | loss, last steps | loss, held out |")
    print("|---|---|---|---|---|")
    for name, plugin in VARIANTS.items():
        size = count(classifier(plugin, 64, 1000), (3, 224, 224))[""]
        results = []
        for seed in args.seeds:
            path = args.out / f"{name.replace(' ', '-')}_seed{seed}_{args.steps}steps.json"
            if not path.exists():
                path.write_text(json.dumps(run(images, labels, plugin, seed, args.steps)))
            results.append(json.loads(path.read_text()))
        last = " / ".join(f"{np.mean(result['losses'][-LAST:]):.3f}" for result in results)
        held_out = " / ".join(f"{result['held_out']:.3f}" for result in results)
        print(
            f"| {'nothing' if plugin is None else name} | {size.params / 1e6:.2f} M "
            f"| {size.multiply_adds / 1e9:.3f} G | {last} | {held_out} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
