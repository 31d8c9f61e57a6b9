"""tools/misc/adapt_config.py, and that what it writes trains."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmhcgnet import adapt_config
from mmhcgnet.datasets.shapes import write_detection

ROOT = Path(__file__).parents[2]
TOOL = "misc/adapt_config.py"
LIGHT = ROOT / "configs/mask_rcnn/mask-rcnn_r50_fpn-light_scratch_2e_shapes.py"


def without_scope(node: object) -> object:
    """A config as it is read through ``PACKAGE::``, without MMEngine's own marks."""
    if isinstance(node, dict):
        return {key: without_scope(value) for key, value in node.items() if key != "_scope_"}
    return [without_scope(each) for each in node] if isinstance(node, list) else node


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
        "mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
        "mmdet::rpn/rpn_r50-caffe-c4_1x_coco.py",
        "mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
        "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        "mmpretrain::arcface/resnet50-arcface_8xb32_inshop.py",
    ],
)
def test_the_config_is_thin_and_means_the_same(start, tmp_path, name):
    package, _, path = name.partition("::")
    module = pytest.importorskip(package)
    out = tmp_path / "my_config.py"
    printed = start(TOOL, name, "-o", out, code=0).out
    text = out.read_text()
    assert text.startswith(f'_base_ = "{name}"\n\nmodel = dict(\n')
    assert len(text.splitlines()) < 30 and max(map(len, text.splitlines())) <= 100
    adapted, report = adapt_config(
        Config.fromfile(Path(module.__file__).parent / ".mim/configs" / path)
    )
    assert printed.startswith(str(report))
    assert without_scope(Config.fromfile(out).to_dict()) == without_scope(adapted.to_dict())


def test_a_folder_with_a_dot_is_inherited_from_by_its_path(start, tmp_path):
    """MMEngine takes what is behind the dot for a suffix."""
    out = tmp_path / "my_config.py"
    start(TOOL, "mmdet::legacy_1.x/retinanet_r50_fpn_1x_coco_v1.py", "-o", out, code=0)
    assert 'mmdet/.mim/configs/legacy_1.x/retinanet_r50_fpn_1x_coco_v1.py"' in out.read_text()
    assert Config.fromfile(out).model.backbone.type == "mmhcgnet.HCGNet"


def test_an_adapted_config_trains(start, warm, tmp_path):
    """From a path, relative to the new file."""
    write_detection(tmp_path / "data/shapes", seed=0, images=16, val_images=6, size=64)
    out = tmp_path / "configs/my_config.py"
    start(TOOL, LIGHT, "-o", out, "--backbone", "norm_eval=False", "with_cp=True", code=0)
    assert '_base_ = "../' in out.read_text() and "with_cp=True" in out.read_text()
    result = warm.run(
        ROOT / "tools/train.py", out, "--work-dir", "run", "--no-validate", "--cfg-options",
        "train_dataloader.batch_size=7", "train_cfg.max_epochs=1",
        "train_dataloader.num_workers=0", "default_hooks.logger.interval=1",
        cwd=tmp_path, timeout=240,
    )  # fmt: skip
    log = result.out + result.err
    assert result.code == 0, log[-3000:]
    assert "Epoch(train) [1][2/2]" in log
    assert "mmhcgnet.HCGNet" in (tmp_path / "run/my_config.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["mmdet::no/such.py"], "such.py does not exist"),
        (["nothing::a.py"], "needs the package nothing, which is not installed"),
        (["mmdet::yolox/yolox_s_8xb8-300e_coco.py"], "has none of ResNet"),
        (["mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "--backbone", "x"], "form key=value"),
        (["mmdet::x.py", "-o", "my_config"], "ends in .py, not my_config"),
    ],
    ids=["no config", "no package", "no ResNet", "no option", "no suffix"],
)
def test_mistakes_are_one_sentence(start, tmp_path, arguments, reason):
    out = tmp_path / "my_config.py"
    result = start(TOOL, *arguments[:1], "-o", out, *arguments[1:], code=2)
    assert reason in result.err and "Traceback" not in result.err
    assert not out.exists()


def test_a_config_is_not_written_over(start, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(LIGHT.read_text().replace("../", f"{LIGHT.parents[1]}/"))
    result = start(TOOL, config, "-o", config, code=2)
    assert "is a file that the config reads" in result.err
    out = tmp_path / "mine.py"
    out.write_text("mine")
    assert "mine.py already exists" in start(TOOL, config, "-o", out, code=2).err
    assert out.read_text() == "mine"
    start(TOOL, config, "-o", out, "--force", code=0)
    start(TOOL, config, "-o", out, code=0)  # the same once more
