"""The deployed form through the scripts, as a user meets it."""

import hashlib
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.official import classifier_shapes, random_weights
from mmengine.config import Config

from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.cli.deploy import deploy_file
from mmhcgnet.engine.models import build_model
from mmhcgnet.errors import UsageError

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
CONVERTER = TOOLS / "model_converters" / "deploy.py"
DEPLOY = "model.backbone.deploy=True"
EPOCH = "run/epoch_3.pth"
SHIPPED = "mask-rcnn_hcgnet-small_fpn-light_scratch_8e_shapes"
DEPLOYED = "run/epoch_3_deploy.pth"

# The stages have the channels 72, 44, 30 and 23.
BACKBONE = """_delete_=True,
        type="mmhcgnet.HCGNet",
        arch=dict(depths=[1] * 4, growth_rates=[8] * 4),
"""
CLASSIFIER = f"""
_base_ = "{ROOT}/configs/hcgnet/hcgnet-b_1xb32-cosine-4e_shapes.py"
model = dict(backbone=dict({BACKBONE}), head=dict(in_channels=23))
custom_hooks = [dict(type="EMAHook", momentum=1e-4), dict(type="mmhcgnet.ChannelsLastHook")]
"""
DETECTOR = f"""
_base_ = "{ROOT}/configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
model = dict(
    backbone=dict({BACKBONE}out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[72, 44, 30, 23]),
    test_cfg=dict(rpn=dict(max_per_img=40), rcnn=dict(max_per_img=10)),
)
"""


def randomise(model):
    """Make weights of which every part is seen in the predictions: no gate is neutral."""
    model.init_weights()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(std=0.3)
            elif name.endswith("running_var") or (".norm." in name and tensor.dim() == 1):
                tensor.uniform_(0.5, 2)
            elif re.search(r"(branch\d\.conv|attention\d?|expand\d?|head\.fc)\.weight$", name):
                tensor.normal_(std=0.3)
            elif name.endswith("cls.weight"):
                tensor.normal_(std=0.05)  # no score saturates


def save(config, path=EPOCH, seed=0):
    """Save what a training with MMEngine's EMAHook leaves, and return its ``state_dict``."""
    torch.manual_seed(seed)
    model = build_model(Config.fromfile(config))
    randomise(model)
    averaged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():  # buffers are not averaged
        torch.nn.init.normal_(parameter)
    latest = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    meta = dict(epoch=3, iter=12, cfg="model = dict()", dataset_meta=dict(classes=("a", "b")))
    torch.save(
        dict(
            meta=dict(meta, hook_msgs=dict(last_ckpt="run/epoch_2.pth")),
            state_dict=averaged,
            ema_state_dict=dict(latest, steps=torch.tensor(12)),
            optimizer=dict(state={}, param_groups=[]),
            param_schedulers=[],
            message_hub=dict(runtime_info=dict(iter=12)),
        ),
        path,
    )
    return averaged


def run_three_ways(warm, config):
    """Test as it is, with --deploy, and converted.

    Returns:
        The log, and for each way the predictions and the metrics.
    """
    ways = dict(
        plain=[EPOCH],
        switched=[EPOCH, "--deploy"],
        converted=[DEPLOYED, "--cfg-options", DEPLOY],
    )
    tests = [
        (TOOLS / "test.py", config, *arguments, "--work-dir", name, "--out", f"{name}.pkl")
        for name, arguments in ways.items()
    ]
    log = ""
    for command in ((CONVERTER, config, EPOCH), *tests):
        result = warm.run(*command, cwd=Path.cwd())
        log += result.out + result.err
        assert result.code == 0, log[-3000:]
    results = []
    for name in ways:
        (metrics,) = Path(name).glob("*/*.json")
        predictions = pickle.loads(Path(f"{name}.pkl").read_bytes())
        results.append((predictions, json.loads(metrics.read_text())))
    return log, *results


@pytest.fixture(scope="module")
def data(warm, tmp_path_factory):
    """A folder with ``data/shapes`` for both tasks."""
    folder = tmp_path_factory.mktemp("deploy")
    script = TOOLS / "dataset_converters" / "make_shapes.py"
    flags = ("--images", 5, "--val-images", 6, "--size", 64)
    for kind in ((), ("--classification",)):
        assert warm.run(script, *kind, *flags, cwd=folder).code == 0
    return folder / "data"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the configs."""
    monkeypatch.chdir(tmp_path)
    Path("classifier.py").write_text(CLASSIFIER)
    Path("detector.py").write_text(DETECTOR)
    return tmp_path


def check_log(log):
    assert "do not match" not in log and "missing keys" not in log
    assert log.count("Deployed: backbone") == 1
    line = f"test it with: python tools/test.py {{}} {DEPLOYED} --cfg-options {DEPLOY}"
    assert any(line.format(name) in log for name in ("classifier.py", "detector.py"))


@pytest.mark.slow(reason="four runs of scripts")
def test_a_classifier_tests_the_same_in_three_ways(warm, data, folder):
    """With --deploy, the averaged weights of EMAHook are tested as without."""
    os.symlink(data, "data")
    save("classifier.py")
    log, plain, *deployed = run_three_ways(warm, "classifier.py")
    check_log(log)
    scores = torch.stack([p["pred_score"] for p in plain[0]])
    assert scores.shape == (6, 5) and scores.std(0).max() > 1e-2
    for predictions, metrics in deployed:
        torch.testing.assert_close(
            torch.stack([p["pred_score"] for p in predictions]), scores, rtol=1e-3, atol=1e-5
        )
        assert metrics["accuracy/top1"] == plain[1]["accuracy/top1"]


@pytest.mark.slow(reason="four runs of scripts")
def test_a_detector_tests_the_same_in_three_ways(warm, data, folder):
    os.symlink(data, "data")
    save("detector.py")
    log, plain, *deployed = run_three_ways(warm, "detector.py")
    check_log(log)
    found = [p["pred_instances"] for p in plain[0]]
    assert [len(f["scores"]) for f in found] == [10] * 6
    assert all(f["scores"].std() > 1e-3 for f in found)
    for predictions, metrics in deployed:
        for old, new in zip(found, predictions, strict=True):
            for name in ("labels", "scores", "bboxes"):
                torch.testing.assert_close(
                    new["pred_instances"][name], old[name], rtol=1e-3, atol=1e-3
                )
        assert metrics.keys() == plain[1].keys() and "coco/segm_mAP" in metrics
        for name, value in plain[1].items():
            if name.startswith("coco/"):
                assert metrics[name] == pytest.approx(value, abs=2e-3)


# The converter


def build(config, **backbone):
    cfg = Config.fromfile(config)
    cfg.model.backbone.update(backbone)
    return build_model(cfg).eval()


@pytest.mark.parametrize("target", [None, "b.safetensors"], ids=["pth", "safetensors"])
def test_what_is_written_gives_the_same_output(folder, start, target):
    config = "classifier.py"
    weights = save(config)
    code, out, err = start(CONVERTER, config, EPOCH, *filter(None, [target]))
    path = target or DEPLOYED
    assert (code, err) == (0, "")
    read, wrote, line = out.splitlines()
    assert read == f"read {EPOCH}: ImageClassifier, epoch 3, averaged weights"
    assert wrote.endswith(f"SHA-256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()}")
    assert line == f"test it with: python tools/test.py {config} {path} --cfg-options {DEPLOY}"

    written = read_checkpoint(path)
    assert set(written) == {"meta", "state_dict"}
    plain, deployed = build(config), build(config, deploy=True)
    plain.load_state_dict(weights)
    deployed.load_state_dict(written["state_dict"])
    assert len(written["state_dict"]) < len(weights)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(deployed(images), plain(images), rtol=1e-4, atol=1e-4)

    meta = written["meta"]
    assert (meta["epoch"], meta["iter"], "hook_msgs" in meta) == (3, 12, False)
    assert tuple(meta["dataset_meta"]["classes"]) == ("a", "b")
    # The config that it carries is that of the deployed model.
    assert Config.fromstring(meta["cfg"], ".py").model.backbone.deploy is True


def test_without_a_name_it_is_written_next_to_the_checkpoint(folder, start, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    save("classifier.py")
    start(CONVERTER, "classifier.py", f"~/{EPOCH}", code=0)
    assert sorted(os.listdir("run")) == ["epoch_3.pth", "epoch_3_deploy.pth"]
    sentence = f"{DEPLOYED} already exists"
    capture_only_sentence(start(CONVERTER, "classifier.py", f"~/{EPOCH}"), f"{folder}/{sentence}")
    start(CONVERTER, SHIPPED, SHIPPED, code=0)
    assert Path(f"{SHIPPED}_deploy.safetensors").is_file()
    err = start(CONVERTER, SHIPPED, SHIPPED, code=2).err
    assert f"{SHIPPED}_deploy.safetensors already exists" in err


def test_an_inferencer_needs_no_other_config(folder):
    mmdet = pytest.importorskip("mmdet.apis")
    save("detector.py")
    deploy_file("detector.py", EPOCH)
    inferencer = mmdet.DetInferencer(weights=DEPLOYED, device="cpu", show_progress=False)
    assert inferencer.model.backbone.deployed
    (result,) = inferencer(np.zeros((64, 64, 3), np.uint8))["predictions"]
    assert len(result["scores"]) > 0


def test_terms_of_the_authors_weights_are_told_again(folder, start):
    save("classifier.py")
    checkpoint = read_checkpoint(EPOCH)
    checkpoint["meta"]["source"] = "theirs"
    torch.save(checkpoint, EPOCH)
    out = start(CONVERTER, "classifier.py", EPOCH)[1]
    assert "are for research only; converted copies stay" in out.splitlines()[-1]
    assert read_checkpoint(DEPLOYED)["meta"]["source"] == "theirs"


def test_the_text_of_a_foreign_config_is_not_handed_on(folder):
    save("classifier.py")
    checkpoint = read_checkpoint(EPOCH)
    checkpoint["meta"].update(config="import foreign", cfg="import foreign")
    torch.save(checkpoint, EPOCH)
    deploy_file("classifier.py", EPOCH)
    meta = read_checkpoint(DEPLOYED)["meta"]
    assert "config" not in meta and "foreign" not in meta["cfg"]


def official():
    weights = random_weights(classifier_shapes("A1", 10))
    torch.save(dict(net=weights, epoch=1), EPOCH)


def change(**changes):
    checkpoint = read_checkpoint(EPOCH)
    checkpoint["state_dict"].update(changes)
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if v is not None}
    torch.save(checkpoint, EPOCH)


def deployed():
    os.replace(deploy_file("classifier.py", EPOCH), EPOCH)


NO_GOOD = {
    "deployed": (deployed, (), rf"{EPOCH} is deployed already"),
    "official": (official, (), "convert it with `python .*/official_to_mmpretrain.py"),
    "nan": (
        lambda: change(**{"head.fc.bias": torch.full((5,), torch.nan)}),
        (),
        r"cannot be deployed: it has 1 not finite \(head\.fc\.bias\)",
    ),
    "beyond fp32": (
        lambda: change(**{"head.fc.bias": torch.full((5,), 1e300, dtype=torch.float64)}),
        (),
        r"cannot be deployed: it has 1 not finite \(head\.fc\.bias\)",
    ),
    "missing": (
        lambda: change(**{"head.fc.bias": None}),
        (),
        r"compared with the model of classifier\.py it has 1 missing \(head\.fc\.bias\)\.$",
    ),
    "unknown": (lambda: change(more=torch.ones(1)), (), r"it has 1 unknown \(more\)\.$"),
    "shape": (
        lambda: change(**{"head.fc.bias": torch.ones(7)}),
        (),
        r"1 of another shape \(head\.fc\.bias \(7,\) instead of \(5,\)\)\.$",
    ),
    "absent": (lambda: os.unlink(EPOCH), (), f"checkpoint {EPOCH} does not exist"),
    "damaged": (lambda: Path(EPOCH).write_text("<html>"), (), "is damaged or cut short"),
    "same": (lambda: None, (EPOCH, "--force"), "is the file that is read"),
    "there": (lambda: Path(DEPLOYED).write_text("old"), (), "already exists: .* --force"),
    "folder": (lambda: None, ("/dev/null/a.pth",), "/dev/null/a.pth cannot be written"),
}


@pytest.mark.parametrize("case", NO_GOOD)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_written(folder, start, case):
    damage, args, sentence = NO_GOOD[case]
    save("classifier.py")
    damage()
    before = contents("run")
    capture_only_sentence(start(CONVERTER, "classifier.py", EPOCH, *args), sentence)
    assert contents("run") == before


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def capture_only_sentence(result, sentence):
    code, out, err = result
    (line,) = err.splitlines()
    assert code == 2 and "wrote" not in out and "accuracy" not in out
    assert re.match(f"error: .*{sentence}", line), line


@pytest.mark.parametrize(
    "backbone, sentence",
    [
        ('norm_cfg=dict(type="GN", num_groups=1)', "GroupNorm: use it as it is"),
        ("deploy=True", "deploy=True"),
    ],
)
def test_a_config_that_has_nothing_to_deploy(folder, backbone, sentence):
    text = f'_base_ = "classifier.py"\nmodel = dict(backbone=dict({backbone}))\n'
    Path("other.py").write_text(text)
    save("other.py" if "GN" in backbone else "classifier.py")
    with pytest.raises(UsageError, match=sentence):
        deploy_file("other.py", EPOCH)
    assert os.listdir("run") == [Path(EPOCH).name]


# The tools on what does not go together


@pytest.fixture
def both(folder, data):
    """An ordinary and a deployed checkpoint."""
    os.symlink(data, "data")
    save("classifier.py")
    deploy_file("classifier.py", EPOCH)


COMMANDS = {
    "test-deployed": (f"test.py classifier.py {DEPLOYED}", rf"set {DEPLOY}"),
    "test-plain": (f"test.py classifier.py {EPOCH} --cfg-options {DEPLOY}", "remove deploy=True"),
    "train": (f"train.py classifier.py --cfg-options {DEPLOY}", "cannot be trained: leave"),
    "tune": (f"train.py classifier.py --cfg-options load_from={DEPLOYED}", "it was converted from"),
    "resume": (f"train.py classifier.py --resume {DEPLOYED}", "it was converted from"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_does_not_go_together_is_told(both, start, command):
    arguments, sentence = COMMANDS[command]
    script, *arguments = arguments.split()
    capture_only_sentence(start(TOOLS / script, *arguments), sentence)
