"""The authors' classifiers here and back, against a reference that reads their layout."""

import functools

import pytest
import torch
from helpers.official import OfficialClassifier, classifier_shapes, random_weights, zero_weights
from helpers.reference import ARCHS
from mmpretrain.models import ImageClassifier
from torch import nn

from mmhcgnet.convert import LayoutError, mmpretrain_to_official, official_to_mmpretrain

CLASSES = {"A1": 10, "A2": 100, "A3": 100, "B": 1000, "C": 1000}


@functools.lru_cache(maxsize=1)
def official(arch: str) -> dict:
    """Weights as the authors' program saves them, without ``module.``; not to be changed."""
    return random_weights(classifier_shapes(arch, CLASSES[arch]))


def prefixed(weights: dict) -> dict:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


@functools.lru_cache(maxsize=1)
def expected_logits(arch: str) -> tuple:
    image = torch.randn(2, 3, 17, 20) if arch.startswith("A") else torch.randn(2, 3, 33, 48)
    with torch.no_grad():
        return image, OfficialClassifier(arch, official(arch))(image.double())


@functools.lru_cache(maxsize=1)
def classifier(arch: str) -> ImageClassifier:
    channels = classifier_shapes(arch, 1)["classifier.weight"][1]
    return ImageClassifier(
        backbone=dict(type="mmhcgnet.HCGNet", arch=arch),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=CLASSES[arch], in_channels=channels),
    ).eval()


def relative_error(arch: str, state_dict: dict) -> float:
    """Of MMPretrain's classifier with these weights, in fp32, against the authors' network."""
    model = classifier(arch)
    model.load_state_dict(state_dict, strict=True)
    image, expected = expected_logits(arch)
    with torch.no_grad():
        actual = model(image, mode="tensor")
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("arch", list(CLASSES)[::-1])  # A1, taken below too, stays cached
def test_logits_and_the_way_back(arch):
    weights = official(arch)
    checkpoint = dict(net=prefixed(weights), epoch=629, best_acc=78.5, optimizer={})
    converted = official_to_mmpretrain(checkpoint)
    assert (converted.arch, converted.num_classes) == (arch, CLASSES[arch])
    assert (converted.epoch, converted.accuracy) == (629, 78.5)
    assert relative_error(arch, converted.state_dict) <= 1e-5

    returned = mmpretrain_to_official(converted.checkpoint)
    key = "acc" if arch.startswith("A") else "best_acc"
    assert set(returned.checkpoint) == {"net", "epoch", key, "optimizer"}
    assert (returned.checkpoint["epoch"], returned.checkpoint[key]) == (629, 78.5)
    assert returned.checkpoint["net"] is returned.state_dict
    # As a list: the authors' dissection and detection programs load by position.
    assert list(returned.state_dict) == list(prefixed(weights))
    for tensor, before in zip(returned.state_dict.values(), weights.values(), strict=True):
        assert tensor.dtype == before.dtype and torch.equal(tensor, before)


# The layers of a module in the released files, in which ``conv1_1x1`` is norm and convolution.
RELEASED_ORDER = (
    *("conv1_1x1", "conv2_3x3", "conv_3x3", "conv_5x5"),
    *("global_context3x3", "global_context5x5", "fcall", "bn_attention", "fc3x3", "fc5x5"),
    *("global_forget_context", "bn_forget", "fc1", "fc2"),
)


@pytest.mark.parametrize(("arch", "entries"), [("A1", 1308), ("B", 1625)])
def test_the_keys_have_the_order_of_the_released_files(arch, entries):
    """Written down once more, from the places in the network instead of a table of shapes."""
    state_dict = mmpretrain_to_official(
        official_to_mmpretrain(official(arch)).checkpoint
    ).state_dict
    assert len(state_dict) == entries
    layers = []  # each once, in the order of its first tensor
    for name in state_dict:
        layer = name.removeprefix("module.").rpartition(".")[0]
        if layer not in layers[-1:]:
            layers.append(layer)
    block, transition = ("hybridblock", "transition")
    stem = ["conv0", "norm0", "conv1", "norm1", "conv2", "norm2"]
    if arch == "A1":
        block, transition, stem = "HybridBlock", "Transition", ["conv0"]
    depths = ARCHS[arch][0]
    expected = [f"features.{layer}" for layer in stem]
    for b, depth in enumerate(depths, start=1):
        modules = [f"features.{block}{b}.SMG{m}" for m in range(1, depth + 1)]
        modules += [f"features.{transition}{b}"] if b < len(depths) else []
        for module in modules:
            for layer in RELEASED_ORDER:
                cell = layer.startswith("conv")
                expected += (
                    [f"{module}.{layer}.{p}" for p in ("norm", "conv")]
                    if cell
                    else [f"{module}.{layer}"]
                )
    assert layers == [*expected, "features.norm5", "classifier"]


@pytest.mark.parametrize("arch", ["A1", "B"])
def test_a_program_that_loads_by_position_gets_the_same_network(arch):
    """As the authors' dissection and detection programs do: values alone, in their order."""
    back = mmpretrain_to_official(official_to_mmpretrain(official(arch)).checkpoint)
    names = classifier_shapes(arch, CLASSES[arch])
    loaded = dict(zip(names, back.checkpoint["net"].values(), strict=True))
    image, expected = expected_logits(arch)
    with torch.no_grad():
        logits = OfficialClassifier(arch, loaded)(image.double())
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(("arch", "decay"), [("A1", 1e-4), ("B", 4e-5)])
def test_the_optimiser_is_a_fresh_one_of_the_released_programs(arch, decay):
    back = mmpretrain_to_official(official_to_mmpretrain(official(arch)).checkpoint)
    state = back.checkpoint["optimizer"]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [
        nn.Parameter(value) for name, value in back.state_dict.items() if not name.endswith(buffers)
    ]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    optimizer.load_state_dict(state)  # as many parameters, or it raises
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)
    assert group["weight_decay"] == decay and not state["state"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_kept(dtype):
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in official("A1").items()
    }
    converted = official_to_mmpretrain(weights)
    returned = mmpretrain_to_official(converted.checkpoint).state_dict
    for name, tensor in prefixed(weights).items():
        assert returned[name].dtype == tensor.dtype and torch.equal(returned[name], tensor), name
    # … and load into a network in fp32.
    state = classifier("A1").load_state_dict(converted.state_dict, strict=True)
    assert not state.missing_keys


def trained(arch, **runtime_info):
    """What MMEngine saves of a training, with these entries about its best checkpoint."""
    state_dict = official_to_mmpretrain(official(arch)).state_dict
    hub = dict(runtime_info=dict(epoch=9, iter=99, **runtime_info))
    return dict(meta=dict(epoch=10), state_dict=state_dict, message_hub=hub)


@pytest.mark.parametrize("score", [96.5, torch.tensor(96.5)], ids=["float", "tensor"])
def test_the_way_back_states_the_best_accuracy_of_our_training(score):
    best_ckpt = "work_dirs/a1/best_accuracy_top1_epoch_7.pth"
    back = mmpretrain_to_official(trained("A1", best_score=score, best_ckpt=best_ckpt))
    assert (back.epoch, back.accuracy, back.best_so_far) == (10, 96.5, True)
    assert (back.checkpoint["epoch"], back.checkpoint["acc"]) == (10, 96.5)
    assert "best_acc" not in back.checkpoint
    assert official_to_mmpretrain(back.checkpoint).accuracy == 96.5


@pytest.mark.parametrize(
    "runtime_info",
    [{}, dict(best_score=0.3, best_ckpt="best_loss_epoch_7.pth"), dict(best_score=0.3)],
    ids=["none", "another-metric", "no-name"],
)
def test_no_other_score_passes_for_the_accuracy(runtime_info):
    back = mmpretrain_to_official(trained("A1", **runtime_info))
    assert (back.epoch, back.accuracy, back.best_so_far) == (10, None, False)
    assert back.checkpoint["acc"] == 0  # the authors' program wants a number


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        prefixed,
        lambda weights: dict(net=weights),
        lambda weights: dict(net=prefixed(weights), acc=torch.tensor([96.85]), epoch=3),
        lambda weights: dict(state_dict=prefixed(weights)),
    ],
    ids=["bare", "module", "net", "net-module", "state-dict-module"],
)
def test_wrapped_or_not(wrap):
    weights = official("A1")
    converted = official_to_mmpretrain(wrap(weights))
    assert converted.arch == "A1"
    assert torch.equal(converted.state_dict["head.fc.bias"], weights["classifier.bias"])


def test_file_names_are_those_of_our_configs():
    names = {
        ("A1", 10): "hcgnet-a1_3rdparty_cifar10.pth",
        ("A3", 100): "hcgnet-a3_3rdparty_cifar100.pth",
        ("B", 1000): "hcgnet-b_3rdparty_in1k.pth",
        ("B", 10): None,
        ("A1", 1000): None,
    }
    for (arch, classes), name in names.items():
        weights = zero_weights(classifier_shapes(arch, classes), device="meta")
        assert official_to_mmpretrain(weights).file_name == name


# One thing broken at a time: refused …


def change(name, tensor):
    return lambda weights: weights | {name: tensor}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda w: {k: v for k, v in w.items() if k != "features.norm5.running_var"},
            r"1 missing \(features\.norm5\.running_var\)$",
        ),
        (
            lambda w: {k: v for k, v in w.items() if "SMG1." not in k},
            r"\d+ missing \(features\.HybridBlock1\.SMG1.*, … \d+ more\)$",
        ),
        (
            lambda w: {k: v for k, v in w.items() if k != "features.norm5.num_batches_tracked"},
            r"1 missing \(features\.norm5\.num_batches_tracked\)$",
        ),
        (
            lambda w: {k: v for k, v in w.items() if not k.startswith("classifier.")},
            r"2 missing \(classifier\.weight, classifier\.bias\)$",
        ),
        (change("features.extra.weight", torch.ones(3)), r"1 unknown \(features\.extra\.weight\)$"),
        (change("bad\nname", torch.ones(3)), r"1 unknown \(bad\\nname\)$"),
        (
            change("features.Transition1.fcall.weight", torch.ones(24, 60)),
            r"1 of another shape \(features\.Transition1\.fcall\.weight \(24, 60\) instead of "
            r"\(\d+, \d+, 1, 1\)\)$",
        ),
        (
            change("classifier.bias", torch.ones(11)),
            r"1 of another shape \(classifier\.bias \(11,\) instead of \(10,\)\)$",
        ),
        (
            change("classifier.bias", "payload"),
            r"1 .* \(classifier\.bias str instead of \(10,\)\)$",
        ),
        (
            change("classifier.bias", torch.ones(10).to_sparse()),
            r"1 .* \(classifier\.bias a sparse tensor instead of \(10,\)\)$",
        ),
        (
            change("classifier.bias", torch.ones(10, dtype=torch.int64)),
            r"1 of another type \(classifier\.bias int64 instead of a floating-point type\)$",
        ),
        (
            change("classifier.bias", torch.ones(10, dtype=torch.complex64)),
            r"1 of another type \(classifier\.bias complex64 instead of a floating-point type\)$",
        ),
        (
            change("features.norm5.num_batches_tracked", torch.ones(())),
            r"1 .* \(features\.norm5\.num_batches_tracked float32 instead of int64\)$",
        ),
        (
            change("module.features.conv0.weight", torch.ones(24, 3, 3, 3)),
            r"1 twice, with and without 'module\.' \(features\.conv0\.weight\)$",
        ),
    ],
    ids=[
        *("missing", "no-module", "one-count", "no-classifier", "unknown", "unprintable", "shape"),
        *("classes", "no-tensor", "sparse", "integers", "complex", "count", "duplicate"),
    ],
)
def test_what_does_not_match_is_listed(damage, sentence):
    with pytest.raises(LayoutError, match="the authors' HCGNet-A1 it has " + sentence):
        official_to_mmpretrain(dict(net=damage(official("A1"))))


def test_all_that_does_not_match_is_in_one_error():
    weights = dict(official("A1"), more=torch.ones(1), **{"classifier.bias": torch.ones(3)})
    del weights["features.conv0.weight"]
    with pytest.raises(LayoutError, match="1 missing .*, 1 unknown .*, 1 of another shape"):
        official_to_mmpretrain(weights)


def test_shifted_transitions_are_refused():
    weights = {
        name.replace("Transition1.", "Transition0.").replace("Transition2.", "Transition1."): value
        for name, value in official("A1").items()
    }
    with pytest.raises(LayoutError, match="missing .*unknown .*of another shape"):
        official_to_mmpretrain(weights)


def test_another_network_than_the_user_says():
    with pytest.raises(LayoutError, match="by its shapes it is HCGNet-A1 and not HCGNet-B$"):
        official_to_mmpretrain(official("A1"), arch="b")
    assert official_to_mmpretrain(official("A1"), arch="a1").arch == "A1"


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({}, "it holds no HCGNet in the authors' layout"),
        ({"layer1.0.conv1.weight": torch.ones(1)}, "it holds no HCGNet in the authors' layout"),
        ({"backbone.stages.0.0.norm.weight": torch.ones(1)}, "it is in our layout already"),
        (
            {"backbone.hybridblock1.0.conv1_1x1.bn1.weight": torch.ones(64)},
            "authors' detection program, which tools/model_converters/official_to_mmdet.py",
        ),
        ({"a.conv1_1x1.b": torch.ones(1)}, "it holds no tensor of an HCGNet"),
    ],
    ids=["empty", "resnet", "ours", "detector", "nothing-known"],
)
def test_other_files_are_told_apart(weights, sentence):
    with pytest.raises(LayoutError, match=sentence):
        official_to_mmpretrain(weights)


def test_the_way_back_refuses_what_is_not_ours():
    with pytest.raises(LayoutError, match="in the authors' layout already"):
        mmpretrain_to_official(official("A1"))
    ours = official_to_mmpretrain(official("A1")).state_dict
    ours.pop("backbone.norm.bias")
    ours["neck.weight"] = torch.ones(1)
    with pytest.raises(LayoutError, match=r"1 missing \(backbone.norm.bias\), 1 unknown \(neck"):
        mmpretrain_to_official(dict(state_dict=ours))


# … or seen by the comparison above, which a wrong map would fail.


def swap(state, one, other):
    """Exchange two names wherever they are part of a key."""
    swapped = {}
    for name, tensor in state.items():
        name = name.replace(one, "\0").replace(other, one).replace("\0", other)
        swapped[name] = tensor
    return swapped


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("branch3", "branch5"),
        ("attention3", "attention5"),
        ("expand3", "expand5"),
        ("branch3.norm.running_mean", "branch5.norm.running_mean"),
        ("squeeze2.norm.running_mean", "squeeze2.norm.bias"),
    ],
)
def test_the_comparison_sees_what_is_swapped(one, other):
    state = swap(official_to_mmpretrain(official("A1")).state_dict, one, other)
    assert relative_error("A1", state) > 1e-3


def test_converted_tensors_have_memory_of_their_own():
    """A view would be written with the whole of the memory that it looks into."""
    weights = dict(official("A1"))
    weights["classifier.bias"] = torch.ones(1000)[:10]
    bias = official_to_mmpretrain(weights).state_dict["head.fc.bias"]
    assert bias.untyped_storage().nbytes() == 40


@pytest.mark.parametrize("arch", ["A1", "A2"])
@pytest.mark.parametrize("wrap", [lambda w: w, prefixed])
def test_a_file_without_counters_of_batches_is_complete(arch, wrap):
    weights = official(arch)
    old = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(weights)
    converted = official_to_mmpretrain(dict(net=wrap(old))).state_dict
    expected = official_to_mmpretrain(dict(net=weights)).state_dict
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            assert converted[name] == 0 and converted[name].dtype == torch.int64
        else:
            assert torch.equal(converted[name], tensor)
