import pytest
from mmengine.config import Config
from mmengine.model import BaseModule

from mmhcgnet.engine import MissingFileError, drop_pretrained, set_resume


def config(work_dir, **kwargs):
    return Config(dict(work_dir=str(work_dir), **kwargs))


def test_without_a_checkpoint_the_run_starts_anew_from_its_load_from(tmp_path):
    (tmp_path / "start.pth").write_text("")
    cfg = config(tmp_path / "empty", load_from=f"{tmp_path}/start.pth")
    assert set_resume(cfg, "auto") is False
    assert cfg.resume is False and cfg.load_from == f"{tmp_path}/start.pth"


@pytest.mark.parametrize("resume, own", [("auto", False), (None, True)])
def test_the_latest_checkpoint_is_found(resume, own, tmp_path):
    (tmp_path / "epoch_3.pth").write_text("")
    (tmp_path / "last_checkpoint").write_text(f"{tmp_path}/epoch_3.pth")
    cfg = config(tmp_path, resume=own)
    assert set_resume(cfg, resume) is True
    assert cfg.resume is True and cfg.load_from == f"{tmp_path}/epoch_3.pth"


def test_a_named_checkpoint_must_exist(tmp_path):
    with pytest.raises(MissingFileError, match=r"epoch_3\.pth does not exist"):
        set_resume(config(tmp_path), f"{tmp_path}/epoch_3.pth")


def test_a_work_dir_that_was_moved_is_explained(tmp_path):
    (tmp_path / "last_checkpoint").write_text("elsewhere/epoch_3.pth")
    with pytest.raises(MissingFileError, match="last_checkpoint names elsewhere/epoch_3.pth"):
        set_resume(config(tmp_path), "auto")


def test_no_flag_leaves_load_from_and_checks_it(tmp_path):
    assert set_resume(config(tmp_path), None) is False
    with pytest.raises(MissingFileError, match=r"absent\.pth"):
        set_resume(config(tmp_path, load_from="absent.pth"), None)


def test_pretrained_is_dropped_at_any_depth_and_the_rest_kept():
    pretrained = dict(type="Pretrained", checkpoint="absent.pth")
    constant = dict(type="Constant", val=1.0, layer="Linear")
    model = BaseModule(init_cfg=constant)
    model.backbone = BaseModule(init_cfg=pretrained)
    model.backbone.stage = BaseModule(init_cfg=[constant, pretrained])
    drop_pretrained(model)
    assert model.init_cfg == constant
    assert model.backbone.init_cfg is None
    assert model.backbone.stage.init_cfg == [constant]
    model.init_weights()
