"""The authors' classifiers (``features.*``, ``classifier.*``) and MMPretrain's."""

from __future__ import annotations

from functools import cache

import torch

from mmhcgnet.models import ARCHITECTURES
from mmhcgnet.weights import find_weights, official_layout, strip_module

from .layouts import CIFAR, IMAGENET, Pair, backbone_pairs, build_network, official_place
from .matching import (
    Converted,
    LayoutError,
    best_accuracy,
    check_layout,
    check_match,
    compact,
    count_rows,
    make_meta,
    number,
    recognise,
    stated_meta,
)

# (stem, classes) -> the data set in the names of configs and checkpoints.
_DATA_SETS = {("imagenet", 1000): "in1k", ("cifar", 10): "cifar10", ("cifar", 100): "cifar100"}


def official_to_mmpretrain(checkpoint: dict, arch: str | None = None) -> Converted:
    """Convert a checkpoint of the authors' classification program, wrapped or not.

    Args:
        checkpoint: ``{'net': weights, 'epoch', 'best_acc' or 'acc', …}`` or the weights alone,
            with or without ``module.`` in the names.
        arch: Name of the network, to be checked; by default the shapes show it.

    Raises:
        LayoutError: If the file holds anything else than exactly the tensors of a classifier.
    """
    weights, twice = strip_module(find_weights(checkpoint))
    check_layout(weights, "classification")
    num_classes = count_rows(weights, "classifier")
    candidates = {
        name: {pair.official: pair.official_shape for pair in classifier_pairs(name, num_classes)}
        for name in ARCHITECTURES
    }
    arch = recognise(weights, candidates, arch)
    check_match(weights, candidates[arch], twice, f"the authors' HCGNet-{arch}")
    state_dict = {
        pair.ours: compact(weights[pair.official], pair.shape)
        for pair in classifier_pairs(arch, num_classes)
    }
    epoch = number(checkpoint.get("epoch"))
    accuracy = number(checkpoint.get("best_acc", checkpoint.get("acc")))
    meta = make_meta(arch, epoch, accuracy)
    return Converted(
        arch=arch,
        num_classes=num_classes,
        epoch=epoch,
        accuracy=accuracy,
        state_dict=state_dict,
        checkpoint=dict(meta=meta, state_dict=state_dict),
        file_name=_file_name(arch, num_classes, "3rdparty"),
    )


def mmpretrain_to_official(checkpoint: dict, arch: str | None = None) -> Converted:
    """Convert an MMPretrain checkpoint of a classifier with HCGNet to the authors' layout.

    The tensors have the order of the authors' files, and next to them stands all that the authors'
    programs read: the epoch and the accuracy, 0 where the checkpoint states none, and the state of
    an optimiser that has made no step.

    Args:
        checkpoint: ``{'state_dict': weights, 'meta', …}`` or the weights alone.
        arch: Name of the network, to be checked; by default the shapes show it.

    Raises:
        LayoutError: If the file holds anything else than exactly the tensors of a classifier.
    """
    weights, twice = strip_module(find_weights(checkpoint))
    if official_layout(weights):
        raise LayoutError("it is in the authors' layout already")
    num_classes = count_rows(weights, "head.fc")
    candidates = {
        name: {pair.ours: pair.shape for pair in classifier_pairs(name, num_classes)}
        for name in ARCHITECTURES
    }
    arch = recognise(weights, candidates, arch)
    check_match(weights, candidates[arch], twice, f"our classifier with HCGNet-{arch}")
    # As the authors save it: wrapped for several GPUs.
    state_dict = {
        f"module.{pair.official}": compact(weights[pair.ours], pair.official_shape)
        for pair in sorted(classifier_pairs(arch, num_classes), key=official_place)
    }
    meta = stated_meta(checkpoint)
    epoch, accuracy = number(meta.get("epoch")), number(meta.get("accuracy"))
    best = best_accuracy(checkpoint) if accuracy is None else None
    if best is not None:
        accuracy = best
    cifar = ARCHITECTURES[arch].stem == "cifar"
    # What the authors' programs read: all of it, or they end with a KeyError.
    stated = {"acc" if cifar else "best_acc": accuracy or 0.0, "epoch": epoch or 0}
    return Converted(
        arch=arch,
        num_classes=num_classes,
        epoch=epoch,
        accuracy=accuracy,
        state_dict=state_dict,
        checkpoint=dict(net=state_dict, **stated, optimizer=_fresh_optimizer(arch, cifar)),
        file_name=_file_name(arch, num_classes, "official"),
        best_so_far=best is not None,
    )


@cache
def classifier_pairs(arch: str, num_classes: int) -> tuple[Pair, ...]:
    """Pair the tensors of a classifier: the backbone's and those of ``head.fc``."""
    layout = CIFAR if ARCHITECTURES[arch].stem == "cifar" else IMAGENET
    weight, bias = (num_classes, build_network(arch).out_channels[-1]), (num_classes,)
    return (
        *backbone_pairs(arch, layout),
        Pair("head.fc.weight", weight, "classifier.weight", weight),
        Pair("head.fc.bias", bias, "classifier.bias", bias),
    )


def _fresh_optimizer(arch: str, cifar: bool) -> dict:
    """The state of the released programs' SGD before its first step."""
    count = len(list(build_network(arch).parameters())) + 2  # with the classifier's
    return torch.optim.SGD(
        [torch.empty(0) for _ in range(count)],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4 if cifar else 4e-5,
    ).state_dict()


def _file_name(arch: str, num_classes: int, origin: str) -> str | None:
    data = _DATA_SETS.get((ARCHITECTURES[arch].stem, num_classes))
    return f"hcgnet-{arch.lower()}_{origin}_{data}.pth" if data else None
