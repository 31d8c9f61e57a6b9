import torch

from mmhcgnet import DropoutNeck


def test_drops_in_training_alone():
    neck = DropoutNeck(p=0.25)
    maps = (torch.ones(100, 100), torch.ones(100, 30))
    outs = neck.train()(maps)
    assert isinstance(outs, tuple) and [out.shape for out in outs] == [x.shape for x in maps]
    assert 0.2 < (outs[0] == 0).float().mean() < 0.3
    for before, after in zip(maps, neck.eval()(maps), strict=True):
        assert torch.equal(before, after)
