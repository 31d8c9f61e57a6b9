"""Standard operators in the place of MMCV's: the same on anything that boxes can be."""

import pytest
import torch
from helpers.exported import ENGINES, run, writes_onnx
from mmcv.ops import RoIAlign as RoIAlignOfMMCV
from mmcv.ops import batched_nms
from torch import nn

from mmhcgnet.engine.export.boxes import Suppression, best
from mmhcgnet.engine.export.files import OPSET, _to_onnx
from mmhcgnet.engine.export.models import Exported
from mmhcgnet.engine.export.operators import align

SIDE = 40.0


class Wrapped(Exported):
    """A function of tensors, to be written."""

    def __init__(self, function, *inputs):
        names = tuple(f"input{i}" for i in range(len(inputs)))
        model = nn.Module()
        model.forward = function
        super().__init__(model, "test", names, {"output0": {0: "n"}}, {})
        self.inputs_to_trace = inputs

    def example(self):
        return self.inputs_to_trace


def write(path, function, *inputs):
    writes_onnx()
    model = _to_onnx(Wrapped(function, *inputs))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    path.write_bytes(model.SerializeToString())
    return str(path), {node.op_type for node in model.graph.node}


def boxes(number, kind, seed=0):
    """Boxes ``(number, 4)`` in and around a square of 40 pixels."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * SIDE * 1.4 - SIDE * 0.2
    sides = torch.rand(number, 2, generator=generator) * SIDE
    if kind == "points":
        sides *= 0
    elif kind == "lines":
        sides[:, 0] = 0
    elif kind == "whole":
        corners, sides = torch.zeros(number, 2), torch.full((number, 2), SIDE)
    return torch.cat([corners, corners + sides], dim=1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ratio, aligned", [(0, True), (2, True), (0, False)])
def test_roi_align(engine, ratio, aligned, tmp_path):
    x = torch.randn(2, 3, 10, 12, generator=torch.Generator().manual_seed(0))

    def pool(x, rois):
        return align(x, rois, (7, 5), 0.25, ratio, aligned)

    def rois(number, kind):
        image = (torch.arange(number) % 2)[:, None].float()
        return torch.cat([image, boxes(number, kind)], dim=1)

    path, kinds = write(tmp_path / "pool.onnx", pool, x, rois(4, "any"))
    assert "RoiAlign" in kinds
    module = RoIAlignOfMMCV((7, 5), 0.25, ratio, "avg", aligned)
    for number, kind in ((20, "any"), (5, "points"), (5, "lines"), (2, "whole"), (0, "any")):
        (pooled,) = run(engine, path, x, rois(number, kind))
        wanted = module(x, rois(number, kind))
        assert torch.equal(pool(x, rois(number, kind)), wanted)
        torch.testing.assert_close(torch.from_numpy(pooled), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("engine", ["pytorch", *ENGINES])
def test_nms(engine, tmp_path):
    cfg, most = dict(type="nms", iou_threshold=0.5), 9
    suppress = Suppression(cfg, most, "The head")
    path = None
    for seed, kind in enumerate(("any", "any", "points", "lines", "whole", "none")):
        generator = torch.Generator().manual_seed(seed)
        each = torch.stack([boxes(30, kind, seed), boxes(30, "any", seed + 9)]).clamp(0, SIDE)
        scores = torch.rand(2, 30, generator=generator)
        scores[1, ::3] = -1  # not there
        if kind == "none":
            scores[0] = -1
        groups = torch.randint(0, 3, (2, 30), generator=generator)
        if engine == "pytorch":
            found, index = suppress(each, scores, groups)
        else:

            def both(*inputs):
                found, index = suppress(*inputs)
                return torch.stack([found, index.to(found)])

            if path is None:
                path, kinds = write(tmp_path / "nms.onnx", both, each, scores, groups)
                assert "NonMaxSuppression" in kinds
            (result,) = run(engine, path, each, scores, groups)
            found, index = torch.from_numpy(result[0]), torch.from_numpy(result[1]).long()
        for i in range(2):
            there = scores[i] >= 0
            number = 0
            if there.any():  # MMCV takes no empty set
                kept, order = batched_nms(each[i][there], scores[i][there], groups[i][there], cfg)
                number = min(len(order), most)
                assert torch.equal(found[i, :number], kept[:number, 4])
                assert torch.equal(index[i, :number], there.nonzero()[:, 0][order[:number]])
            assert (found[i, number:] == -1).all()


@pytest.mark.parametrize(
    "cfg, most, words",
    [
        (dict(type="soft_nms", iou_threshold=0.5), 5, "soft_nms"),
        (dict(type="nms"), 5, "iou_threshold"),
        (dict(type="nms", iou_threshold=0.5, score_threshold=0.1), 5, "score_threshold"),
        (dict(type="nms", iou_threshold=0.5), -1, "max_per_img"),
    ],
)
def test_another_nms_is_refused(cfg, most, words):
    with pytest.raises(ValueError, match=words):
        Suppression(cfg, most, "The head")


def test_fewer_candidates_than_asked_for():
    scores, index = best(torch.tensor([[0.2, -1.0, 0.7]]), 5)
    assert scores.tolist() == [[pytest.approx(0.7), pytest.approx(0.2), -1, -1, -1]]
    assert index.tolist() == [[2, 0, 0, 0, 0]]
