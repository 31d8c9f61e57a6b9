"""The model index says of every config what is true, and the toolboxes find and run them by it."""

import functools
import importlib
import json
import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from modelindex.load_model_index import load

import mmhcgnet
from mmhcgnet import model_index, paths
from mmhcgnet.analysis import paper
from mmhcgnet.analysis.complexity import counting as complexity
from mmhcgnet.engine.export.pipeline import describe_pipeline
from mmhcgnet.engine.models import build_model

ROOT = Path(__file__).parents[1]
CONFIGS = {
    path.stem: path
    for path in sorted((ROOT / "configs").rglob("*.py"))
    if "_base_" not in path.parts
}
INDEX = load(str(ROOT / "model-index.yml"))
MODELS = {model.name: model for model in INDEX.models}
CLASSIFIERS = [name for name in MODELS if name.startswith("hcgnet-")]
TRAINING_DATA = {
    "cifar10": "CIFAR-10",
    "cifar10-folders": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "in1k": "ImageNet-1k",
    "coco": "COCO",
    "shapes": "shapes",
    "ade20k-512x512": "ADE20K",
}
METHODS = sorted(path.parent.name for path in (ROOT / "configs").glob("*/metafile.yml"))


@functools.cache
def read(name):
    return Config.fromfile(CONFIGS[name])


# --- what it says --------------------------------------------------------------------------------


def test_every_config_has_an_entry_and_every_entry_a_config():
    assert sorted(model.name for model in INDEX.models) == sorted(CONFIGS)
    for name, model in MODELS.items():
        assert ROOT / model.config == CONFIGS[name]
    assert INDEX.check(silent=True) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_metafile_has_the_configs_of_its_folder(method):
    names = {model.name for model in load(str(ROOT / f"configs/{method}/metafile.yml")).models}
    flagship = {"mask-rcnn_hcgnet-b_fpn_1x_coco"} if method == "mask_rcnn" else set()
    own = {path.stem for path in (ROOT / "configs" / method).glob("*.py")}
    assert names == own | flagship


@pytest.mark.parametrize("method", METHODS)
def test_the_readme_of_a_method_lists_its_configs_with_the_numbers_of_the_index(method):
    """A config that is the released program's stands beside the paper's, by name alone."""
    lines = (ROOT / f"configs/{method}/README.md").read_text().splitlines()
    rows = [re.fullmatch(r"\| \[(\S+)\]\((\S+)\)[^|]*\|(.*)\|", line) for line in lines]
    rows = {row[1]: (row[2], row[3].split("|")) for row in rows if row}
    models = {
        model.name: model for model in load(str(ROOT / f"configs/{method}/metafile.yml")).models
    }
    assert set(rows) == {name for name in models if "-released" not in name}
    for name, (link, (_, params, multiply_adds, *results)) in rows.items():
        metadata = models[name].metadata
        assert (ROOT / "configs" / method / link).resolve() == CONFIGS[name].resolve()
        assert params.strip() == f"{metadata.parameters / 1e6:.2f} M"
        flops = "–" if metadata.flops is None else f"{metadata.flops / 1e9:.2f} G"
        assert multiply_adds.strip() == flops
        if method not in ("hcgnet", "mask_rcnn"):  # nobody has published results
            assert not results
            continue
        found = {}
        if metadata.data.get("Results From") == "paper":
            found = results_of(models[name])
        wanted = [found.get(key) for key in ("box AP", "mask AP")]
        if method == "hcgnet":
            accuracies = [found.get(f"Top {k} Accuracy") for k in (1, 5)]
            wanted = [None if accuracy is None else 100 - accuracy for accuracy in accuracies]
        stated = [None if text.strip() == "–" else float(text) for text in results]
        assert stated == pytest.approx(wanted)


@functools.cache
def count(text, shape):
    model = build_model(Config(json.loads(text)))
    return complexity.count(model, shape)[""]


def count_once(cfg):
    """Count a config's model; those that differ only in their training are counted once."""
    model = cfg.model.to_dict()
    model.pop("data_preprocessor", None)
    model["train_cfg"] = None
    for key in ("init_cfg", "frozen_stages", "norm_eval", "dropblock"):
        model["backbone"].pop(key, None)
    if model["type"] == "ImageClassifier":
        model["head"].pop("loss", None)
        model["neck"] = dict(type="GlobalAveragePooling")
    text = json.dumps(dict(default_scope=cfg.default_scope, model=model), sort_keys=True)
    return count(text, complexity.input_shape(cfg))


def wider_dino(cfg):
    """Parameters and multiply-adds that OneDL's DINO, the one stated, has more than the installed.

    Its decoder encodes each of the four numbers of a reference box in as many dimensions as a
    query has, upstream's in half as many: the first layer of an MLP takes twice as many values.
    """
    decoder = build_model(cfg).decoder
    width = decoder.embed_dims
    more = (4 * width - decoder.ref_point_head.layers[0].in_features) * width
    return more, more * cfg.model.num_queries * decoder.num_layers


slow = pytest.mark.slow(reason="counts what PyTorch cannot without computing, on a large image")
LARGE = ("panoptic", "deformable-detr", "dino", "mask2former")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=slow) if n.startswith(LARGE) else n for n in MODELS],
)
def test_the_numbers_are_those_of_the_config(name):
    cfg, metadata = read(name), MODELS[name].metadata
    if cfg.default_scope == "mmseg":
        pytest.importorskip("mmseg", reason="MMSegmentation is an optional extra")
    if name.startswith("simsiam"):  # which has no test, and so no image to count for
        params = sum(parameter.numel() for parameter in build_model(cfg).parameters())
        assert (metadata.parameters, metadata.flops) == (params, None)
    else:
        counted = count_once(cfg)
        params, flops = wider_dino(cfg) if name.startswith("dino") else (0, 0)
        assert metadata.parameters == counted.params + params
        assert metadata.flops == counted.multiply_adds + flops
    length = (metadata.epochs, metadata.data.get("Iterations"))
    assert length == (cfg.train_cfg.get("max_epochs"), cfg.train_cfg.get("max_iters"))
    assert metadata.batch_size == cfg.auto_scale_lr.base_batch_size
    data = next(data for data in TRAINING_DATA if name.removesuffix("_v1").endswith(f"_{data}"))
    assert metadata.training_data == TRAINING_DATA[data]


def test_an_exported_file_can_say_how_every_config_prepares_its_images():
    for name in CONFIGS:
        cfg = read(name)
        if cfg.default_scope != "mmseg" and cfg.get("test_dataloader"):
            assert describe_pipeline(cfg)["steps"] is not None, name


def test_what_only_matters_in_training_costs_nothing():
    """What ``count_once`` leaves out, in a variant that has most of it."""
    cfg = read("hcgnet-a1_1xb128-mixup-sgdr-1270e-released_cifar10")
    counted = complexity.count(build_model(cfg), complexity.input_shape(cfg))[""]
    assert counted == count_once(cfg)


@pytest.mark.parametrize(
    "arch, params, multiply_adds",
    [
        # Parameters as in the authors' networks, for 10 and 100 or for 1000 classes.
        ("a1", [1_065_301, 1_102_651], 0.1542),
        ("a2", [3_069_149, 3_133_679], 0.4886),
        ("a3", [11_239_897, 11_363_647], 1.9563),
        ("b", [12_845_501], 2.0028),
        ("c", [42_153_208], 6.9716),
    ],
)
def test_the_published_sizes(arch, params, multiply_adds):
    found = [
        (MODELS[name].metadata.parameters, MODELS[name].metadata.flops)
        for name in CLASSIFIERS
        if name.startswith(f"hcgnet-{arch}_") and not name.endswith("shapes")
    ]
    assert sorted({parameters for parameters, _ in found}) == params
    # With the fewest classes.
    assert round(min(flops for _, flops in found) / 1e9, 4) == multiply_adds


def results_of(model):
    return {key: value for result in model.results or [] for key, value in result.metrics.items()}


def paper_results():
    """Metrics of the configs that are the paper's recipes, from the paper's tables."""
    results = {}
    for entry in paper.CIFAR:
        for classes, error in ((10, entry.cifar10), (100, entry.cifar100)):
            if entry.config:
                name = Path(entry.config.format(classes)).stem
                results[name] = {"Top 1 Accuracy": 100 - error}
    for entry in paper.IMAGENET:
        if entry.ours:
            accuracies = {"Top 1 Accuracy": 100 - entry.top1, "Top 5 Accuracy": 100 - entry.top5}
            results[Path(entry.config).stem] = accuracies
    for entry in paper.COCO:
        if entry.ours:
            results[Path(entry.config).stem] = {
                f"{kind} {metric}": getattr(entry, f"{kind}_{metric.lower()}")
                for kind in ("box", "mask")
                for metric in ("AP", "AP50", "AP75")
            }
    return results


def test_results_are_the_papers_where_the_recipe_is_and_ours_of_weights_that_ship():
    expected = paper_results()
    assert set(expected) <= set(MODELS)
    for name, model in MODELS.items():
        found, source = results_of(model), model.metadata.data.get("Results From")
        if model.weights:
            assert name not in expected and source == "weights/README.md" and found
            card = (ROOT / source).read_text(encoding="utf-8").split(f"## `{name}`")[1]
            stated = set(re.findall(r"[0-9.]+", card.split("\n## ")[0]))
            assert {str(value) for value in found.values()} <= stated
        else:
            assert found == pytest.approx(expected.get(name, {}))
            assert source == ("paper" if name in expected else None)


def test_the_table_of_the_readme_has_the_numbers_of_the_index():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## The networks\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    rows = {re.sub(r"\[(.*)\]\(.*\)", r"\1", row[0]): row[2:] for row in rows if len(row) == 5}
    classifier, detector = (name for name, model in MODELS.items() if model.weights)
    published = sorted(paper_results())
    configs = {
        f"HCGNet-{arch}": [name for name in published if name.startswith(f"hcgnet-{arch.lower()}_")]
        for arch in ("A1", "A2", "A3", "B", "C")
    }
    configs |= {
        "Mask R-CNN, HCGNet-B": [name for name in published if name.startswith("mask-rcnn")],
        "the classifier that ships, A1": [classifier],
        "the detector that ships": [detector],
    }
    assert set(rows) == {"network", "---", *configs}
    for row, names in configs.items():
        params, multiply_adds, result = rows[row]
        first = MODELS[names[0]].metadata
        for stated, counted in (
            (params, first.parameters / 1e6),
            (multiply_adds, first.flops / 1e9),
        ):
            number = stated.split()[0]
            assert float(number) == round(counted, len(number.partition(".")[2])), row
        found = [results_of(MODELS[name]) for name in names]
        if "Top 1 Accuracy" in found[0]:
            wanted = [100 - values["Top 1 Accuracy"] for values in found]
        else:
            wanted = [found[0]["box AP"], found[0]["mask AP"]]
        assert list(map(float, re.findall(r"\d+\.\d+", result))) == pytest.approx(wanted), row


# --- MMPretrain ----------------------------------------------------------------------------------


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_mmpretrain_lists_the_classifiers_and_no_detector():
    from mmpretrain import list_models

    assert list_models("*hcgnet") == sorted(CLASSIFIERS)
    assert list_models("hcgnet-a", task="Image Classification") == [
        name for name in sorted(CLASSIFIERS) if name.startswith("hcgnet-a")
    ]


def test_mmpretrain_builds_a_classifier_by_its_name():
    from mmpretrain import get_model

    model = get_model("hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar100")
    assert isinstance(model.backbone, mmhcgnet.HCGNet)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


def test_a_reloaded_package_is_no_conflict(silent):
    from mmpretrain import list_models

    before = list_models()
    model_index.register_classifiers()
    assert list_models() == before


def test_a_type_with_our_prefix_is_enough(warm, tmp_path):
    """In a process that has not imported the package before."""
    script = tmp_path / "script.py"
    script.write_text("""
import sys
from mmpretrain import list_models
from mmpretrain.registry import MODELS
assert not list_models("hcgnet") and "mmhcgnet" not in sys.modules
MODELS.build(dict(type="mmhcgnet.HCGNet", arch="A1"))
print(len(list_models("hcgnet")))
""")
    process = warm.run(script, cwd=tmp_path)
    assert process.code == 0, process.err[-2000:]
    assert process.out == f"{len(CLASSIFIERS)}\n"


def test_without_mmpretrain_there_is_nothing_to_do(monkeypatch, silent):
    """The package's import ends with this call."""
    monkeypatch.setitem(sys.modules, "mmpretrain", None)
    model_index.register_classifiers()


@pytest.mark.parametrize(
    "failure",
    [
        "assert False, 'MMCV does not fit'",
        "import an_absent_module",
        "raise OSError('cannot open shared object file')",
        "raise ValueError('numpy.dtype size changed,\\n may indicate binary incompatibility')",
        "sys",
    ],
)
def test_an_mmpretrain_that_does_not_fit_is_a_warning(failure, monkeypatch, tmp_path):
    (tmp_path / "mmpretrain").mkdir()
    (tmp_path / "mmpretrain/__init__.py").write_text(failure)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "mmpretrain"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(Exception) as info:
        importlib.import_module("mmpretrain")
    with pytest.warns(UserWarning, match=rf"classifiers of mmhcgnet.*{info.typename}: ") as caught:
        model_index.register_classifiers()
    assert "\n" not in str(caught[0].message)


def test_an_mmpretrain_that_is_not_what_is_expected_is_a_warning(monkeypatch):
    """A stand-in, as those who build documentation have, has no import data."""
    stub = types.ModuleType("mmpretrain")
    stub.__spec__ = None
    monkeypatch.setitem(sys.modules, "mmpretrain", stub)
    with pytest.warns(UserWarning, match="ValueError: mmpretrain.__spec__ is None"):
        model_index.register_classifiers()


def test_shipped_files_are_found_where_installed_and_in_a_checkout(monkeypatch, tmp_path):
    package = tmp_path / "mmhcgnet"
    monkeypatch.setattr(paths, "__file__", str(package / "paths.py"))
    assert paths.shipped_path("configs/a.py") == tmp_path / "configs/a.py"
    (package / ".mim/configs").mkdir(parents=True)
    (package / ".mim/configs/a.py").touch()
    assert paths.shipped_path("configs/a.py") == package / ".mim/configs/a.py"


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "name, meta, classes",
    [
        ("hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar10", {}, ["airplane", "automobile", "bird"]),
        ("hcgnet-b_1xb32-cosine-4e_shapes", {"classes": list("vwxyz")}, ["v", "w", "x"]),
    ],
)
def test_inference_model_of_mmpretrain(name, meta, classes, tmp_path):
    """Class names are those of the checkpoint, as training leaves them, else the data set's."""
    from mmpretrain import get_model, inference_model

    trained = get_model(name)
    for norm in (m for m in trained.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
    path = tmp_path / "trained.pth"
    checkpoint = dict(state_dict=trained.state_dict())
    torch.save(checkpoint | (dict(meta=dict(dataset_meta=meta)) if meta else {}), path)

    # Whatever the default scope of another test was: MMPretrain looks its transforms up there.
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        result = inference_model(name, image(32, 32), pretrained=str(path))
        model = get_model(name, pretrained=str(path))
        assert inference_model(model, image(32, 32))["pred_label"] == result["pred_label"]
    assert list(model._dataset_meta["classes"][:3]) == classes
    assert result["pred_class"] == model._dataset_meta["classes"][result["pred_label"]]

    pixels = torch.from_numpy(image(32, 32)).permute(2, 0, 1)[None].float()
    preprocessor = read(name).data_preprocessor
    if preprocessor.to_rgb:
        pixels = pixels.flip(1)
    if name.endswith("shapes"):
        return  # resized on the way
    mean, std = (torch.tensor(preprocessor[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = trained((pixels - mean) / std).softmax(1)[0]
    torch.testing.assert_close(torch.from_numpy(result["pred_scores"]), expected)


# --- MMDetection ---------------------------------------------------------------------------------


def test_inferencer_of_mmdetection(tmp_path):
    """Class names are those of the checkpoint; without any, MMDetection takes COCO's."""
    from mmdet.apis import DetInferencer
    from mmdet.evaluation import get_classes

    name = "mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes"
    cfg = read(name)
    trained = build_model(cfg)
    path = tmp_path / "trained.pth"
    meta = dict(dataset_meta=dict(CLASSES=cfg.metainfo.classes))
    torch.save(dict(state_dict=trained.state_dict(), meta=meta), path)
    inferencer = DetInferencer(str(CONFIGS[name]), str(path), device="cpu", show_progress=False)
    assert inferencer.model.dataset_meta["classes"] == cfg.metainfo.classes
    result = inferencer(image(60, 96), return_vis=True, pred_score_thr=0)
    (prediction,), (picture,) = result["predictions"], result["visualization"]
    assert picture.shape == (60, 96, 3)
    assert prediction["labels"] and set(prediction["labels"]) <= set(range(5))
    number = len(prediction["labels"])
    assert [len(prediction[key]) for key in ("scores", "bboxes", "masks")] == [number] * 3
    assert np.all(np.asarray(prediction["bboxes"]) <= (96, 60, 96, 60))
    assert prediction["masks"][0]["size"] == [60, 96]

    torch.save(dict(state_dict=trained.state_dict()), path)
    with pytest.warns(UserWarning, match="COCO classes"):
        bare = DetInferencer(str(CONFIGS[name]), str(path), device="cpu", show_progress=False)
    assert bare.model.dataset_meta["classes"] == get_classes("coco")
