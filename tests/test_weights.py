"""The networks that ship, and finding them and all other configs by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmpretrain import get_model
from modelindex.load_model_index import load
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmhcgnet import paths
from mmhcgnet.checkpoints import Checkpoint, read_checkpoint
from mmhcgnet.cli.deploy import deploy_file
from mmhcgnet.cli.export import export_file
from mmhcgnet.cli.publish import in_half, publish_file
from mmhcgnet.datasets import shapes
from mmhcgnet.engine.configs import load_config
from mmhcgnet.engine.export import export_model
from mmhcgnet.engine.export.checking import difference
from mmhcgnet.engine.inference import TorchPredictor
from mmhcgnet.engine.models import load_model
from mmhcgnet.errors import MissingFileError, UsageError
from mmhcgnet_runtime import Predictor, open_engine

ROOT = Path(__file__).parents[1]
CLASSIFIER = "hcgnet-a1_1xb128-sgdr-28e_cifar10-folders"
DETECTOR = "mask-rcnn_hcgnet-small_fpn-light_scratch_8e_shapes"
IMAGES = sorted((ROOT / "demo/cifar10/test").glob("*/*.png"))
SHIPPED = sorted(path.stem for path in (ROOT / "weights").glob("*.safetensors"))
INDEX = {model.name: model for model in load(str(ROOT / "model-index.yml")).models}


def test_weights_ship():
    assert SHIPPED == [CLASSIFIER, DETECTOR]
    stated = {name for name, model in INDEX.items() if model.weights}
    assert stated == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_those_of_the_config_of_their_name(name, monkeypatch, tmp_path):
    assert INDEX[name].weights == f"weights/{name}.safetensors"
    assert (ROOT / INDEX[name].weights).stat().st_size <= 10e6
    assert f"`{name}`" in (ROOT / "weights/README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # the name is enough
    opened = Checkpoint.open(name)
    halves = [t for t in opened.weights.values() if t.dtype == torch.float16]
    assert len(halves) > 0.9 * len([t for t in opened.weights.values() if t.is_floating_point()])
    model = load_model(load_config(name), name)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert opened.classes


def test_the_shipped_detector_finds_shapes_that_nobody_has_seen(tmp_path):
    """Its AP is on the first images of another seed, which are none of its training's."""
    shapes.write_detection(tmp_path, seed=7, images=1, val_images=40, size=128)
    init_default_scope("mmdet")
    predictor = TorchPredictor(load_config(DETECTOR), DETECTOR)
    truth = COCO(tmp_path / "annotations/instances_val.json")
    found = []
    for number, image in truth.imgs.items():
        result = predictor(str(tmp_path / "val" / image["file_name"]))
        for box, score, label in zip(
            result["boxes"], result["scores"], result["labels"], strict=True
        ):
            x1, y1, x2, y2 = map(float, box)
            box = [x1, y1, x2 - x1, y2 - y1]
            found.append(
                dict(image_id=number, category_id=int(label) + 1, bbox=box, score=float(score))
            )
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] > 0.7


@pytest.mark.parametrize("form", ["pytorch", "deployed", ".onnx", ".xml"])
def test_the_shipped_classifier_knows_what_it_has_not_seen(form, tmp_path):
    """The first ten test images of each class of CIFAR-10."""
    config, weights = load_config(CLASSIFIER), CLASSIFIER
    if form == "deployed":
        weights = str(tmp_path / "deployed.safetensors")
        deploy_file(CLASSIFIER, CLASSIFIER, weights)
        config = load_config(CLASSIFIER, ["model.backbone.deploy=True"])
    if form in ("pytorch", "deployed"):
        predictor = TorchPredictor(config, weights)
    else:
        path = tmp_path / f"a1{form}"
        pytest.importorskip("openvino" if form == ".xml" else "onnxruntime")
        export_file(CLASSIFIER, CLASSIFIER, str(path))
        predictor = Predictor(str(path))
    found = predictor([str(path) for path in IMAGES], batch_size=50)
    names = [predictor.classes[result["label"]] for result in found]
    right = [path.parent.name for path in IMAGES]
    assert len(right) == 100
    assert sum(a == b for a, b in zip(names, right, strict=True)) == 90


def test_the_shipped_classifier_is_mmpretrains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = get_model(CLASSIFIER, pretrained=True)
    expected = load_model(load_config(CLASSIFIER), CLASSIFIER)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_configs_and_weights_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = load_config("mask-rcnn_hcgnet-b_fpn_1x_coco")
    assert Path(cfg.filename).resolve() == ROOT / "configs/mask-rcnn_hcgnet-b_fpn_1x_coco.py"
    assert load_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py").model.type == "RetinaNet"
    with pytest.raises(UsageError, match="mask-rcnn_hcgnet-b_fpn_1x_coko is no config.*did you"):
        load_config("mask-rcnn_hcgnet-b_fpn_1x_coko")
    with pytest.raises(MissingFileError, match="mask-rcnn_hcgnet-b_fpn_1x_coko.py does not exist"):
        load_config("mask-rcnn_hcgnet-b_fpn_1x_coko.py")
    # A file of that name is nearer.
    torch.save(dict(state_dict=dict(a=torch.ones(1))), DETECTOR)
    assert Checkpoint.open(DETECTOR).weights.keys() == {"a"}
    os.unlink(DETECTOR)
    # A folder of that name is where it was trained: the default work directory, from work_dirs.
    os.mkdir(DETECTOR)
    assert Checkpoint.open(DETECTOR).path == str(paths.shipped_weights(DETECTOR))
    assert Path(load_config(DETECTOR).filename).stem == DETECTOR
    os.mkdir("folder")
    with pytest.raises(UsageError, match="folder must be a file that ends in .py"):
        load_config("folder")
    os.rmdir("folder")
    assert paths.shipped_weights(f"../weights/{DETECTOR}") is None
    with pytest.raises(MissingFileError):
        Checkpoint.open(f"folder/{DETECTOR}")


@pytest.mark.slow(reason="an interpreter that imports everything")
def test_mmengine_reads_safetensors_once_the_package_is_imported(tmp_path):
    """In a process of its own: here, others have replaced the whole loader."""
    code = (
        "import mmhcgnet, sys; from mmengine.runner import CheckpointLoader; "
        "print(len(CheckpointLoader.load_checkpoint(sys.argv[1])['state_dict']))"
    )
    path = ROOT / f"weights/{DETECTOR}.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, cwd=tmp_path
    )
    expected = len(read_checkpoint(str(path))["state_dict"])
    assert done.stdout.split()[-1] == str(expected), done.stderr


@pytest.mark.parametrize("path", ["s3://a/b.safetensors", "https://a/b.safetensors"])
def test_other_places_of_safetensors_keep_their_loaders(path):
    import mmhcgnet.checkpoints.sources as sources

    sources.read_safetensors()
    loader = CheckpointLoader._get_checkpoint_loader(path)
    assert loader.__name__ != "load_from_safetensors"
    local = CheckpointLoader._get_checkpoint_loader("folder/b.safetensors")
    assert local.__name__ == "load_from_safetensors"


@pytest.mark.parametrize(
    "values, half",
    [
        ([0.0, 1.0, -2.5, 1e-3, 65504], True),
        ([1e5], False),  # beyond fp16
        ([1e-8], True),  # a zero that makes no difference
        ([3], False),  # an integer
    ],
)
def test_half_is_for_values_that_it_holds(values, half):
    tensor = torch.tensor(values)
    assert (in_half(tensor).dtype == torch.float16) == half
    torch.testing.assert_close(in_half(tensor).to(tensor.dtype), tensor, rtol=5e-4, atol=3e-8)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_published_weights_are_those_of_the_training(suffix, tmp_path):
    weights = {"a.weight": torch.randn(3, 4), "a.var": torch.tensor([1e5]), "n": torch.tensor(7)}
    src, dst = tmp_path / "epoch_1.pth", tmp_path / f"a{suffix}"
    meta = dict(epoch=1, dataset_meta=dict(classes=["x"]), hook_msgs={}, cfg="type = 'x'")
    torch.save(dict(state_dict=weights, meta=meta, optimizer={}, message_hub={}), src)
    assert publish_file(str(src), str(dst), half=True) == str(dst)
    opened = Checkpoint.open(str(dst))
    assert set(opened.content) <= {"state_dict", "meta", "sha256"}
    assert opened.classes == ["x"] and opened.meta["epoch"] == 1
    assert {name: t.dtype for name, t in opened.weights.items()} == {
        "a.weight": torch.float16,
        "a.var": torch.float32,
        "n": torch.int64,
    }
    for name, tensor in opened.weights.items():
        torch.testing.assert_close(tensor.to(weights[name].dtype), weights[name], rtol=1e-3, atol=0)
    with pytest.raises(UsageError, match="already exists"):
        publish_file(str(src), str(dst))


@pytest.mark.parametrize(
    "content, sentence",
    [
        (dict(model=dict(a=torch.ones(1)), optimizer={}, epoch=3), "holds no weights by name"),
        (dict(state_dict={}, meta={}), "holds no weights by name"),
        (dict(model=dict(a=torch.ones(1)), step=torch.ones(1)), r"1 of another kind \(model\)"),
        (dict(state_dict=dict(a=torch.ones(1), epoch=3)), r"1 of another kind \(epoch\)"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_no_tensor_is_not_published(content, sentence, suffix, tmp_path):
    src, dst = tmp_path / "foreign.pth", tmp_path / f"new{suffix}"
    torch.save(content, src)
    with pytest.raises(UsageError, match=rf"foreign\.pth .*{sentence}"):
        publish_file(str(src), str(dst))
    assert not dst.exists()


@pytest.mark.parametrize("half", [False, True])
def test_the_extra_state_of_a_module_is_published(half, tmp_path):
    src, dst = tmp_path / "epoch_1.pth", tmp_path / "new.pth"
    extra = dict(scale=0.5)
    torch.save(dict(state_dict={"a.weight": torch.ones(1), "a._extra_state": extra}), src)
    publish_file(str(src), str(dst), half=half)
    assert Checkpoint.open(str(dst)).weights["a._extra_state"] == extra
    with pytest.raises(UsageError, match=r"1 of another kind \(a\._extra_state\); name a file"):
        publish_file(str(src), str(tmp_path / "new.safetensors"), half=half)


@pytest.fixture(scope="module")
def exported_detector(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("exported") / "detector.onnx")
    export_file(DETECTOR, DETECTOR, path)
    return export_model(load_model(load_config(DETECTOR), DETECTOR)), path


@pytest.mark.slow(reason="exports the detector that ships")
@pytest.mark.parametrize("output", [None, "boxes", "labels", "masks", "scores"])
def test_the_check_of_an_exported_detector_sees_all_of_its_objects(
    output, exported_detector, monkeypatch
):
    """With a trained network, whose scores are far enough apart."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    model, path = exported_detector

    def spoilt(path):
        engine = open_engine(path)

        def run(inputs):
            found = dict(engine(inputs))
            if output:
                found[output] = found[output] + 1
            return found

        return run

    monkeypatch.setattr("mmhcgnet.engine.export.checking.open_engine", spoilt)
    assert (difference(model, path) > 1e-3) == bool(output)
