"""The sweep, small: two models; and how it counts and resumes."""

import json

import pytest
from mmengine.config import Config

from campaigns import sweep

C4 = "faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py"
RAN = ["build", "loss", "backward", "predict"]
ONE = """
import json, sys
root, toolbox, name = sys.argv[1:]
sys.path.append(root)
from campaigns import sweep
sweep.SIZE = (64, 96)
print(json.dumps(sweep.isolated(toolbox, sweep.find_configs(toolbox)[name], False)))
"""


def result(done=RAN, resnet=None, strides=None, error="", **kwargs):
    row = dict(
        done=done,
        error=error,
        strides=dict(backbone=strides or [4, 8, 16, 32]),
        no_gradient=[],
        seconds=0,
    )
    return row | (dict(resnet=dict(done=resnet, error="that, too")) if resnet is not None else {})


@pytest.mark.parametrize(
    ("toolbox", "name", "stride"),
    [
        pytest.param("mmdet", C4, 16, marks=pytest.mark.slow(reason="ResNet's stage for each RoI")),
        ("mmdet", "rpn/rpn_r50-caffe-c4_1x_coco.py", 16),
        ("mmpretrain", "mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py", 32),
    ],
)
def test_a_config_runs_with_hcgnet(toolbox, name, stride, warm, tmp_path):
    pytest.importorskip(toolbox)
    (tmp_path / "one.py").write_text(ONE)  # a fork of a process that has trained could not
    printed = warm.run("one.py", sweep.ROOT, toolbox, name, cwd=tmp_path).out
    found = json.loads(printed.splitlines()[-1])
    path = sweep.find_configs(toolbox)[name]
    assert (found["done"], found["error"], found["no_gradient"]) == (RAN, "", [])
    assert found["strides"]["backbone"] == [stride]
    assert sweep.meant_strides(sweep.load(path)) == [stride]


def test_a_process_that_dies_is_a_result(monkeypatch):
    monkeypatch.setattr(sweep, "run_one", lambda *_: sweep.os._exit(1))
    assert sweep.isolated("mmdet", "x", False)["error"] == "the process died"
    monkeypatch.setattr(sweep, "run_one", lambda *_: sweep.time.sleep(60))
    monkeypatch.setattr(sweep, "LIMIT", 0.2)
    assert "took more than" in sweep.isolated("mmdet", "x", False)["error"]


def test_what_fails_because_of_hcgnet_is_told_from_what_fails_anyway():
    assert sweep.verdict(result()) == "build, loss, backward, predict"
    assert sweep.verdict(result(RAN[:1], RAN)) == "FAILS"
    assert sweep.verdict(result([], error="the process died")) == "FAILS"
    assert sweep.verdict(result([], RAN, error="refused: no")) == "refused"
    assert sweep.verdict(result(RAN[:3], RAN[:3])) == "predict fails with ResNet-50, too"
    row = result(strides=[4, 8, 8, 8]) | dict(meant=[4, 8])
    assert sweep.at_stride(row)
    assert not sweep.at_stride(row | dict(meant=[4, 8, 16, 32]))


def resnet_config(**backbone):
    model = dict(type="X", backbone=dict(type="ResNet", depth=50, **backbone))
    return Config(dict(default_scope="mmdet", model=model))


def test_equal_models_run_once_and_no_model_runs_again(tmp_path, monkeypatch):
    cfgs = [resnet_config(), resnet_config(style="caffe"), resnet_config(out_indices=(3,))]
    found = [("mmdet", f"{i}.py", tmp_path / f"{i}.py", cfg) for i, cfg in enumerate(cfgs)]
    monkeypatch.setattr(sweep, "survey", lambda *_: iter(found))
    runs = []
    monkeypatch.setattr(sweep, "isolated", lambda *args: runs.append(args) or result())
    log = tmp_path / "log.jsonl"
    rows = sweep.run(["mmdet"], log)
    assert [path.name for _, path, _ in runs] == ["0.py", "2.py"]
    assert [row["name"] for row in rows] == ["0.py", "1.py", "2.py"]
    assert sweep.run(["mmdet"], log) == rows and len(runs) == 2
    assert len([json.loads(line) for line in log.read_text().splitlines()]) == 2
    text = sweep.table(rows)
    assert "| mmdet | build, loss, backward, predict | 3 | 2 | 2 |" in text
    assert len(sweep.run(["mmdet"], tmp_path / "other.jsonl", every=2)) == 2


def test_the_table_names_reasons(tmp_path):
    row = result(RAN[:1], RAN[:1], error="RuntimeError: no kernel") | dict(
        model="m", config="mmdet::a.py", toolbox="mmdet", name="a.py", meant=[4]
    )
    assert "| mmdet::a.py | 1 | RuntimeError: no kernel | that, too |" in sweep.table([row])
