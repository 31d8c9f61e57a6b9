import pytest
import torch
from helpers.reference import TINY, make_arch
from torchvision.ops import drop_block2d

from mmhcgnet.models import DropBlock, HCGNet

ARCH = make_arch(TINY)


def squares(dropped, size):
    """Whether a boolean map ``(H, W)`` is a union of squares of that size."""
    left = dropped.clone()
    for y in range(dropped.shape[0] - size + 1):
        for x in range(dropped.shape[1] - size + 1):
            if dropped[y : y + size, x : x + size].all():
                left[y : y + size, x : x + size] = False
    return not left.any()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_drops_whole_squares_and_keeps_the_mean(size):
    x = torch.ones(4, 8, 16, 12)
    out = DropBlock(size, drop_prob=0.1)(x)
    dropped = out == 0
    assert all(squares(mask, size) for mask in dropped.flatten(0, 1))
    # What is left has one value, and the mean stays.
    assert out[~dropped].unique().numel() == 1
    torch.testing.assert_close(out.mean(), torch.tensor(1.0))
    # Others in every image and channel.
    assert dropped.flatten(0, 1).unique(dim=0).shape[0] > 24


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_drops_the_asked_share(size):
    out = DropBlock(size, drop_prob=0.1)(torch.ones(64, 64, 16, 16))
    # The squares overlap seldom: a little less than asked.
    assert 0.09 < (out == 0).float().mean() < 0.102


@pytest.mark.parametrize("size", [1, 3, 5])
def test_odd_sizes_are_those_of_torchvision(size):
    x = torch.ones(64, 64, 14, 17)
    ours = DropBlock(size, drop_prob=0.2)(x)
    theirs = drop_block2d(x, 0.2, size)
    share, expected = ((out == 0).float().mean(dim=(0, 1)) for out in (ours, theirs))
    # Per position, as fewer squares cover the border; 4096 draws each.
    torch.testing.assert_close(share, expected, rtol=0, atol=0.05)
    torch.testing.assert_close(share.mean(), expected.mean(), rtol=0, atol=0.003)


@pytest.mark.parametrize(("side", "share"), [(8, 0.0849), (16, 0.0905)])
def test_the_released_style_drops_the_released_share(side, share):
    out = DropBlock(2, drop_prob=0.1, style="released")(torch.ones(40_000, 1, side, side))
    dropped = out == 0
    assert dropped.float().mean() == pytest.approx(share, abs=0.001)
    # Four squares cover a position, two one of the first row and column, one the first corner.
    rates = dropped.float().mean(dim=(0, 1))
    for rate, squares in ((rates[1:, 1:], 4), (rates[0, 1:], 2), (rates[1:, 0], 2)):
        assert rate.mean() == pytest.approx(1 - (1 - 0.025) ** squares, abs=0.002)
    assert rates[0, 0] == pytest.approx(0.025, abs=0.005)
    assert out[~dropped].unique().numel() == 1
    torch.testing.assert_close(out.mean(), torch.tensor(1.0))


def test_the_released_style_leaves_small_maps_whole_as_often_as_the_released_program():
    dropped = DropBlock(2, drop_prob=0.05, style="released")(torch.ones(20_000, 1, 8, 8)) == 0
    untouched = ~dropped.flatten(1).any(dim=1)
    assert untouched.float().mean() == pytest.approx(0.447, abs=0.015)


def test_the_released_style_has_one_mask_for_all_channels():
    dropped = DropBlock(2, drop_prob=0.2, style="released")(torch.ones(640, 5, 9, 12)) == 0
    assert (dropped == dropped[:, :1]).all()
    assert dropped[:, 0].unique(dim=0).shape[0] > 600  # others in every image
    # A square that is seeded in the last row and column is one position.
    corners = dropped[:, 0, -1, -1] & ~dropped[:, 0, -2, -1] & ~dropped[:, 0, -1, -2]
    assert corners.any()


def test_strength_scales_the_probability():
    layer = DropBlock(2, drop_prob=0.2)
    layer.strength = 0.25
    x = torch.ones(64, 64, 16, 16)
    assert 0.045 < (layer(x) == 0).float().mean() < 0.051
    layer.strength = 0.0
    assert layer(x) is x
    layer.strength = 1.0
    assert layer.eval()(x) is x


def test_a_map_smaller_than_the_square():
    dropped = DropBlock(8, drop_prob=0.3)(torch.ones(16, 16, 3, 2)) == 0
    assert dropped.any() and all(squares(mask, 2) for mask in dropped.flatten(0, 1))


def test_half_precision():
    # 64 * 64 * 32 * 32 positions are more than fp16 can count.
    out = DropBlock(2, drop_prob=0.1)(torch.ones(64, 64, 32, 32, dtype=torch.half))
    assert out.dtype == torch.half
    assert out.float().mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [dict(block_size=0), dict(block_size=2, drop_prob=1.0), dict(block_size=2, style="theirs")],
)
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=list(arguments)[-1]):
        DropBlock(**arguments)


def test_acts_on_the_outputs_of_the_transitions_in_training():
    network = HCGNet(ARCH, out_indices=(0, 1, 2, 3), dropblock=dict(block_size=2, drop_prob=0.5))
    assert network.state_dict().keys() == HCGNet(ARCH, out_indices=(0, 1, 2, 3)).state_dict().keys()
    met = []
    network.dropblock.register_forward_hook(lambda module, inputs, out: met.append((*inputs, out)))
    fed = []
    for stage in network.stages[1:]:
        stage.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0]))
    x = torch.randn(2, 3, 128, 96)
    network.train()(x)
    assert len(met) == 3
    for transition, (before, after), features in zip(network.transitions, met, fed, strict=True):
        assert before.shape[1] == transition.out_channels
        assert not torch.equal(before, after) and features is after

    network.eval()
    torch.testing.assert_close(network(x), network(x), rtol=0, atol=0)


def test_drops_nothing_that_a_frozen_transition_hands_on():
    network = HCGNet(
        ARCH, out_indices=(0, 1, 2, 3), dropblock=dict(block_size=2), frozen_stages=2
    ).train()
    calls = []
    network.dropblock.register_forward_hook(lambda *args: calls.append(args))
    network(torch.randn(2, 3, 64, 64))
    # The transition behind stage 1 feeds the frozen stage 2; two more are trained.
    assert len(calls) == 2


def test_recomputing_keeps_what_was_dropped():
    """``with_cp`` must not draw anew in the backward pass."""
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        network = HCGNet(ARCH, dropblock=dict(block_size=2, drop_prob=0.5), with_cp=with_cp)
        network.init_weights()
        torch.manual_seed(1)
        network.train()(torch.randn(2, 3, 64, 64))[0].square().sum().backward()
        gradients.append(network.stem[0].conv.weight.grad)
    torch.testing.assert_close(*gradients)
