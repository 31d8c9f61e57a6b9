import torch
from helpers.reference import TINY_CIFAR, make_arch
from mmengine.optim import build_optim_wrapper

from mmhcgnet.models import HCGNet


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = HCGNet(make_arch(TINY_CIFAR))
        self.dtype = None

    def forward(self, x):
        out = self.backbone(x)[-1]
        self.dtype = out.dtype
        return out.float().square().mean()


def step(kind):
    model = Classifier()
    optimizer = dict(type="SGD", lr=0.1, momentum=0.9)
    wrapper = build_optim_wrapper(model, dict(type=kind, optimizer=optimizer))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with wrapper.optim_context(model):
        loss = model(x)
    wrapper.update_params(loss)
    return model, wrapper, loss


def test_the_loss_is_computed_in_bfloat16_and_what_is_kept_is_single_precision():
    plain, plain_wrapper, plain_loss = step("OptimWrapper")
    half, half_wrapper, half_loss = step("mmhcgnet.BFloat16OptimWrapper")
    assert (plain.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert plain_loss != half_loss
    torch.testing.assert_close(half_loss, plain_loss, rtol=0.02, atol=0)
    for a, b in zip(half.state_dict().values(), plain.state_dict().values(), strict=True):
        assert a.dtype == b.dtype
    assert half_wrapper.state_dict().keys() == plain_wrapper.state_dict().keys()
    half_wrapper.load_state_dict(plain_wrapper.state_dict())
