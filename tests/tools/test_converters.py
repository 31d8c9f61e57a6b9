"""The converters as a user starts them, and the tools on what they read and write."""

import datetime
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.configs import classifier
from helpers.official import classifier_shapes, detector_shapes, random_weights, zero_weights
from PIL import Image

from mmhcgnet.cli.converters import convert_file
from mmhcgnet.convert import official_to_mmpretrain
from mmhcgnet.errors import UsageError

ROOT = Path(__file__).parents[2]
CONVERTERS = ROOT / "tools" / "model_converters"
OFFICIAL = "HCGNet_A1_best.pth.tar"
SHIPPED = "mask-rcnn_hcgnet-small_fpn-light_scratch_8e_shapes"
CONVERTED = "checkpoints/hcgnet-a1_3rdparty_cifar10.pth"
TERMS = (
    "published at https://github.com/winycg/HCGNet, are for research only; converted copies stay"
)
CONFIG = f"""{classifier('dict(type="mmhcgnet.HCGNet", arch="A1")', 414, classes=10)}
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(
        type="CustomDataset",
        data_root="data",
        pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
train_dataloader = test_dataloader
test_evaluator = dict(type="Accuracy", topk=(1,))
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
"""


@pytest.fixture(scope="module")
def checkpoint():
    """As the authors save it; not to be changed."""
    weights = random_weights(classifier_shapes("A1", 10))
    net = {f"module.{name}": tensor for name, tensor in weights.items()}
    return dict(net=net, acc=np.float64(96.5), epoch=1269, optimizer=dict(state={}))


@pytest.fixture
def folder(tmp_path, checkpoint, monkeypatch):
    """The working directory, with an official checkpoint."""
    torch.save(checkpoint, tmp_path / OFFICIAL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def convert(start):
    return lambda name, *args: start(CONVERTERS / f"{name}.py", *args)


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def only_sentence(err):
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def test_there_and_back(folder, convert, checkpoint):
    code, out, err = convert("official_to_mmpretrain", OFFICIAL)
    assert (code, err) == (0, "")
    read, wrote, terms = out.splitlines()
    assert read == f"read {OFFICIAL}: HCGNet-A1 with 10 classes, epoch 1269, accuracy 96.5"
    tensors = len(checkpoint["net"])
    assert wrote == f"wrote {CONVERTED}: {tensors} tensors, SHA-256 {sha256(CONVERTED)}"
    assert TERMS in terms
    written = torch.load(CONVERTED, weights_only=True)
    assert set(written) == {"meta", "state_dict"}
    assert (written["meta"]["arch"], written["meta"]["epoch"]) == ("A1", 1269)
    assert "winycg/HCGNet" in written["meta"]["source"]
    assert os.listdir("checkpoints") == [Path(CONVERTED).name]

    code, out, err = convert("mmpretrain_to_official", CONVERTED, "back.pth.tar")
    assert (code, err) == (0, "") and TERMS in out
    back = torch.load("back.pth.tar", weights_only=True)
    assert (back["epoch"], back["acc"]) == (1269, 96.5) and "best_acc" not in back
    assert back["optimizer"]["param_groups"][0]["momentum"] == 0.9
    assert list(back["net"]) == list(checkpoint["net"])
    for name, tensor in checkpoint["net"].items():
        assert torch.equal(back["net"][name], tensor), name


def test_safetensors_there_and_back(folder, convert, checkpoint):
    assert convert("official_to_mmpretrain", OFFICIAL, "a1.safetensors")[0] == 0
    facts = "HCGNet-A1 with 10 classes, epoch 1269, accuracy 96.5\n"
    for source, target in (("a1.safetensors", "back.safetensors"), ("a1.safetensors", "b.pth.tar")):
        code, out, _ = convert("mmpretrain_to_official", source, target)
        assert code == 0 and facts in out
    back = torch.load("b.pth.tar", weights_only=True)["net"]
    for name, tensor in checkpoint["net"].items():
        assert torch.equal(back[name], tensor), name
    # In the authors' layout, too, what stands beside the tensors is kept.
    code, out, _ = convert("official_to_mmpretrain", "back.safetensors")
    assert code == 0 and facts in out
    there = torch.load(CONVERTED, weights_only=True)["state_dict"]
    assert torch.equal(there["head.fc.bias"], checkpoint["net"]["module.classifier.bias"])


def test_a_training_of_ours_back(folder, convert):
    """The best accuracy of the training is told as that."""
    assert convert("official_to_mmpretrain", OFFICIAL, "a1.pth")[0] == 0
    state_dict = torch.load("a1.pth", weights_only=True)["state_dict"]
    info = dict(best_score=95.25, best_ckpt="work_dirs/a1/best_accuracy_top1_epoch_7.pth")
    checkpoint = dict(meta=dict(epoch=10), state_dict=state_dict)
    torch.save(dict(checkpoint, message_hub=dict(runtime_info=info)), "epoch_10.pth")
    code, out, _ = convert("mmpretrain_to_official", "epoch_10.pth")
    assert code == 0
    assert "HCGNet-A1 with 10 classes, epoch 10, best accuracy so far 95.25\n" in out


def test_a_detector(folder, convert):
    weights = zero_weights(detector_shapes("B"))
    meta = dict(epoch=12, iter=1, mmdet_version="1.0", config="raise SystemExit")
    torch.save(dict(meta=meta, state_dict=weights, optimizer={}), "HCGNet_detection.pth")
    code, out, err = convert("official_to_mmdet", "HCGNet_detection.pth")
    assert (code, err) == (0, "") and TERMS in out
    facts = "HCGNet-B with 80 classes, epoch 12, accuracy not stated"
    assert out.startswith(f"read HCGNet_detection.pth: {facts}\n")
    written = torch.load("checkpoints/mask-rcnn_hcgnet-b_fpn_1x_coco_v1.pth", weights_only=True)
    assert len(written["state_dict"]) == len(weights)
    assert "config" not in written["meta"]


def test_a_name_to_publish(folder, convert):
    assert convert("official_to_mmpretrain", OFFICIAL, "a1.pth", "--publish")[0] == 0
    (path,) = folder.glob("a1*")
    today = f"{datetime.date.today():%Y%m%d}"
    assert re.fullmatch(rf"a1_{today}-{sha256(path)[:8]}\.pth", path.name)


def test_nothing_is_overwritten_without_being_asked(folder, convert):
    os.mkdir("checkpoints")
    Path(CONVERTED).write_text("old")
    code, out, err = convert("official_to_mmpretrain", OFFICIAL)
    assert code == 2 and Path(CONVERTED).read_text() == "old"
    assert f"{CONVERTED} already exists: name another file, or add --force" in only_sentence(err)
    assert "wrote" not in out
    before = sha256(OFFICIAL)
    code, _, err = convert("official_to_mmpretrain", OFFICIAL, OFFICIAL, "--force")
    assert code == 2 and "is the file that is read" in only_sentence(err)
    assert sha256(OFFICIAL) == before
    assert convert("official_to_mmpretrain", OFFICIAL, "--force")[0] == 0
    assert torch.load(CONVERTED, weights_only=True)["meta"]["arch"] == "A1"


@pytest.mark.parametrize("src", [SHIPPED, "~/a.pth"])
def test_a_checkpoint_by_its_name_or_in_the_home_is_found_again(folder, start, monkeypatch, src):
    monkeypatch.setenv("HOME", str(folder))
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), "a.pth")
    publish = CONVERTERS / "publish_model.py"
    start(publish, src, "new.pth", code=0)
    _, _, err = start(publish, src, "new.pth", code=2)
    assert "new.pth already exists" in only_sentence(err)
    start(publish, src, "new.pth", "--force", code=0)
    if src != SHIPPED:
        _, _, err = start(publish, src, "a.pth", "--force", code=2)
        assert "is the file that is read" in only_sentence(err)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def resave(path, change):
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path)


NO_GOOD = {
    "payload": (
        lambda path: resave(path, lambda c: c.update(epoch=Payload("mark"))),
        (),
        r"is refused and nothing in it was run: it asks for \w+\.mkdir",
    ),
    "arch": (
        lambda path: None,
        ("--arch", "b"),
        r"cannot be converted: by its shapes it is HCGNet-A1 and not HCGNet-B\.$",
    ),
    "truncated": (lambda path: cut(path, 0.7), (), "is damaged or cut short"),
    "text": (lambda path: path.write_text("<html>"), (), "is damaged or cut short, or not a check"),
    "missing": (lambda path: path.unlink(), (), f"The checkpoint {OFFICIAL} does not exist"),
    "incomplete": (
        lambda path: resave(path, lambda c: c["net"].pop("module.classifier.bias")),
        (),
        r"it has 1 missing \(classifier\.bias\)\.$",
    ),
    "classes": (
        lambda path: resave(
            path,
            lambda c: c["net"].update(
                {"module.classifier.weight": torch.ones(7, 414)},
                **{"module.classifier.bias": torch.ones(7)},
            ),
        ),
        (),
        "no usual name for HCGNet-A1 with 7 classes: name the file to write",
    ),
    "folder": (lambda path: None, ("/dev/null/a.pth",), "/dev/null/a.pth cannot be written: "),
}


@pytest.mark.parametrize("case", NO_GOOD)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_written(folder, convert, case):
    damage, args, sentence = NO_GOOD[case]
    damage(folder / OFFICIAL)
    code, out, err = convert("official_to_mmpretrain", OFFICIAL, *args)
    assert code == 2 and "wrote" not in out
    assert re.search(sentence, only_sentence(err))
    assert set(os.listdir(folder)) <= {OFFICIAL}


@pytest.mark.parametrize("name", ["mmpretrain_to_official", "official_to_mmdet"])
def test_the_wrong_converter(folder, convert, name):
    code, _, err = convert(name, OFFICIAL)
    assert code == 2
    reason = "in the authors' layout already" if "to_official" in name else "official_to_mmpretrain"
    assert reason in only_sentence(err)
    assert os.listdir(folder) == [OFFICIAL]


# The tools


@pytest.fixture
def config(folder):
    rng = np.random.default_rng(0)
    for name in range(10):
        os.makedirs(f"data/{name}")
        image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(image).save(f"data/{name}/a.png")
    Path("a1.py").write_text(CONFIG)
    return "a1.py"


COMMANDS = {
    "test": ("test.py", OFFICIAL),
    "load-from": ("train.py", "--cfg-options", f"load_from={OFFICIAL}"),
    "resume": ("train.py", "--resume", OFFICIAL),
    "pretrained": (
        *("train.py", "--cfg-options", "model.backbone.init_cfg.type=Pretrained"),
        f"model.backbone.init_cfg.checkpoint={OFFICIAL}",
    ),
    "pretrained-model": (
        *("train.py", "--cfg-options", "model.init_cfg.type=Pretrained"),
        f"model.init_cfg.checkpoint={OFFICIAL}",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_official_file_is_told_and_never_used(config, start, command):
    script, *args = COMMANDS[command]
    code, out, err = start(ROOT / "tools" / script, config, *args)
    assert code == 2 and "accuracy" not in out
    sentence = only_sentence(err)
    assert "is in the layout of the authors' classification program" in sentence
    assert f"`python tools/model_converters/official_to_mmpretrain.py {OFFICIAL}`" in sentence


def test_a_converted_file_is_tested(config, convert, warm, folder):
    assert convert("official_to_mmpretrain", OFFICIAL, "a1.safetensors")[0] == 0
    result = warm.run(ROOT / "tools/test.py", config, "a1.safetensors", cwd=folder)
    log = result.out + result.err
    assert result.code == 0, log[-3000:]
    assert "Load checkpoint from a1.safetensors" in log and "accuracy/top1" in log
    assert "do not match exactly" not in log


@pytest.mark.parametrize(
    "name", ["official_to_mmpretrain", "mmpretrain_to_official", "official_to_mmdet"]
)
def test_help_names_terms_and_defaults(convert, name):
    code, out, _ = convert(name, "--help")
    out = " ".join(out.split())
    assert code == 0 and TERMS in out and "default: checkpoints/" in out and "--publish" in out


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("classifier.bias", torch.nan, torch.float32),
        ("features.norm5.weight", torch.inf, torch.float16),
        ("features.norm5.running_var", -1.0, torch.float32),
        ("classifier.weight", 1e300, torch.float64),
    ],
)
def test_what_no_network_computes_with_is_not_written(tmp_path, checkpoint, name, value, dtype):
    net = dict(checkpoint["net"])
    net[f"module.{name}"] = torch.full_like(net[f"module.{name}"], value, dtype=dtype)
    torch.save(dict(checkpoint, net=net), tmp_path / "a.pth")
    with pytest.raises(
        UsageError, match=r"b\.pth cannot be written: .* it would have 1 (not|below)"
    ):
        convert_file(official_to_mmpretrain, str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    assert not (tmp_path / "b.pth").exists()
