"""The authors' classifiers (``features.*``, ``classifier.*``) and MMPretrain's."""

from __future__ import annotations

from functools import cache

from mmhcgnet.models import ARCHITECTURES
from mmhcgnet.weights import find_weights, official_layout, strip_module

from .layouts import CIFAR, IMAGENET, Pair, backbone_pairs, build_network
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
        arch: Name of the network, to be checked; by default the shapes tell it.

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

    Args:
        checkpoint: ``{'state_dict': weights, 'meta', …}`` or the weights alone.
        arch: Name of the network, to be checked; by default the shapes tell it.

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
        for pair in classifier_pairs(arch, num_classes)
    }
    meta = stated_meta(checkpoint)
    epoch, accuracy = number(meta.get("epoch")), number(meta.get("accuracy"))
    best = best_accuracy(checkpoint) if accuracy is None else None
    if best is not None:
        accuracy = best
    # The authors' CIFAR program names it otherwise; the best so far keeps the name that says so.
    key = "acc" if ARCHITECTURES[arch].stem == "cifar" and best is None else "best_acc"
    stated = {"epoch": epoch, key: accuracy}
    stated = {name: value for name, value in stated.items() if value is not None}
    return Converted(
        arch=arch,
        num_classes=num_classes,
        epoch=epoch,
        accuracy=accuracy,
        state_dict=state_dict,
        checkpoint=dict(net=state_dict, **stated),
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


def _file_name(arch: str, num_classes: int, origin: str) -> str | None:
    data = _DATA_SETS.get((ARCHITECTURES[arch].stem, num_classes))
    return f"hcgnet-{arch.lower()}_{origin}_{data}.pth" if data else None
