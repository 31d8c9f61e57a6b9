"""Smaller output strides: the same weights, dilated instead of strided."""

import copy

import pytest
import torch
from helpers.reference import NETWORKS, make_arch, random_state
from torch import nn

from mmhcgnet.models import HCGNet

SHAPES = {8: (4, 8, 8, 8), 16: (4, 8, 16, 16), 32: (4, 8, 16, 32)}
# What ResNet's users write for the same.
GEOMETRY = {
    8: dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    16: dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    32: dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1)),
}


def make(name: str = "tiny", **kwargs) -> HCGNet:
    """A network in fp64 with all outputs whose weights and statistics are not neutral."""
    network = HCGNet(make_arch(NETWORKS[name]), out_indices=(0, 1, 2, 3), **kwargs)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(random_state(shapes))
    return network.double()


def image(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize("output_stride", SHAPES)
def test_maps_have_the_strides_that_are_stated(output_stride):
    network = make(output_stride=output_stride)
    assert network.out_strides == SHAPES[output_stride]
    for size in ((64, 96), (61, 91)):
        maps = network(image(*size))
        for x, stride in zip(maps, network.out_strides, strict=True):
            assert x.shape[2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize("output_stride", SHAPES)
def test_strides_and_dilations_say_the_same_as_output_stride(output_stride):
    one, other = make(output_stride=output_stride), make(**GEOMETRY[output_stride])
    assert one.out_strides == other.out_strides
    geometry = [
        [(m.stride, m.dilation, m.padding) for m in net.modules() if isinstance(m, nn.Conv2d)]
        for net in (one, other)
    ]
    assert geometry[0] == geometry[1]


def test_weights_are_those_of_any_stride():
    states = [make(output_stride=stride).state_dict() for stride in (None, *SHAPES)]
    shapes = [{key: value.shape for key, value in state.items()} for state in states]
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]


@pytest.mark.parametrize("size", [(64, 32), (61, 45)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_deployed_form_is_equal(output_stride, size):
    network = make(output_stride=output_stride).eval()
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    loaded = HCGNet(
        make_arch(NETWORKS["tiny"]),
        out_indices=(0, 1, 2, 3),
        output_stride=output_stride,
        deploy=True,
    ).double()
    loaded.load_state_dict(deployed.state_dict())
    with torch.no_grad():
        x = image(*size)
        expected = network(x)
        for other in (deployed, loaded):
            assert other.form == "deployed"
            for out, target in zip(other(x), expected, strict=True):
                torch.testing.assert_close(out, target, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_memory_saving_form_is_equal(output_stride, with_cp):
    network = make(output_stride=output_stride, with_cp=with_cp).train()
    plain = copy.deepcopy(network)
    plain.plain = True
    assert (network.form, plain.form) == ("memory_saving", "plain")
    results = []
    for each in (network, plain):
        maps = each(image_of_seed())
        sum(x.square().mean() for x in maps).backward()
        results.append(([*maps, *each.buffers()], [p.grad for p in each.parameters()]))
    for out, target in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(out, target, rtol=1e-8, atol=1e-10)
    largest = max(grad.abs().max() for grad in results[1][1])
    for grad, target in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(grad, target, rtol=1e-8, atol=1e-12 * largest.item())


def image_of_seed() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 45, 32, generator=generator, dtype=torch.float64)


def test_an_empty_batch_in_the_memory_saving_form():
    network = make(output_stride=8, norm_eval=True).train()
    assert network.form == "memory_saving"
    assert [x.shape[2:] for x in network(image(batch=0))] == [(16, 24), (8, 12), (8, 12), (8, 12)]


def without_pooling(network: HCGNet) -> HCGNet:
    """Switch off what sees all positions of a map at once, the pooled vectors of the gates."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".branch" in name and name.endswith("conv.weight"):
                parameter.zero_()
            elif ".forget_gate.expand.weight" in name:
                parameter.zero_()
    return network


@pytest.mark.parametrize("size", [(64, 32), (61, 45)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_aligned_positions_are_those_of_stride_32(output_stride, size):
    """Convolutions read what they read at stride 32, at every position that it has, borders too."""
    networks = [
        without_pooling(make(output_stride=stride)).eval() for stride in (output_stride, 32)
    ]
    x = image(*size)
    with torch.no_grad():
        fine, coarse = (network(x) for network in networks)
    for out, target, stride in zip(fine, coarse, networks[0].out_strides, strict=True):
        step = round(-(-size[0] // stride) / target.shape[2])
        torch.testing.assert_close(out[:, :, ::step, ::step], target, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("output_stride", "index"), [(16, 2), (8, 1), (8, 2)])
def test_gates_and_branches_see_the_same_in_every_phase_of_a_map(output_stride, index):
    """Where all phases of a map are the same, so are all pooled vectors: nothing is switched off.

    A transition whose 3x3 squeeze reads its centre alone keeps the phases the same.
    """
    networks = [make(output_stride=stride).eval() for stride in (output_stride, 32)]
    for network in networks:
        weight = network.transitions[index].squeeze2.conv.weight.detach()
        weight[:, :, 0] = weight[:, :, 2] = weight[..., 0] = weight[..., 2] = 0

    def repeated(x: torch.Tensor, times: int) -> torch.Tensor:
        return x.repeat_interleave(times, 2).repeat_interleave(times, 3)

    before = networks[0].transitions[index].squeeze_dilation
    channels = networks[0].transitions[index].squeeze1.conv.in_channels
    coarse = repeated(torch.randn(2, channels, 6, 4, dtype=torch.float64), 2)
    fine = repeated(coarse, before)  # each phase of it is the coarse one
    with torch.no_grad():
        fine, coarse = (
            network.stages[index + 1](network.transitions[index](x))
            for network, x in zip(networks, (fine, coarse), strict=True)
        )
    phases = 2 * before
    assert coarse.shape[2:] == (6, 4) and fine.shape[2:] == (6 * phases, 4 * phases)
    for row in range(phases):
        for column in range(phases):
            phase = fine[:, :, row::phases, column::phases]
            torch.testing.assert_close(phase, coarse, rtol=1e-9, atol=1e-9)


def test_a_dilation_that_someone_changes_later_is_noticed():
    network = make(output_stride=8)
    network.stages[2][0].branch3.conv.dilation = (1, 1)
    assert network.train().form == "plain"
    with pytest.raises(ValueError, match="branch3.conv has another kernel, dilation or padding"):
        network.eval().switch_to_deploy()


def test_stages_that_are_not_built_need_no_stride():
    """As in C4 configs, which state three of them."""
    network = HCGNet("B", out_indices=(2,), strides=(1, 2, 2), dilations=(1, 1, 1))
    assert network.out_strides == (16,)


def test_cifar_networks_have_smaller_ones():
    arch = dict(depths=(1, 1, 1), growth_rates=(8, 8, 8), stem="cifar")
    network = HCGNet(arch, out_indices=(0, 1, 2), output_stride=2)
    assert network.out_strides == (1, 2, 2)


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (dict(output_stride=64), "output_stride must be one of 4, 8, 16, 32, got 64"),
        (dict(output_stride=True), "output_stride must be one of"),
        (dict(output_stride=8, strides=(1, 2, 1, 1)), "give it or them, not both"),
        (dict(strides=(2, 2, 2, 2)), "strides must begin with 1"),
        (dict(strides=(1, 2)), "strides must be integers above 0, one for each of the 4 stages"),
        (dict(strides=(1, 2, 2, 2, 2)), "one for each of the 4 stages"),
        (dict(dilations=(1, 1, 0, 1)), "dilations must be integers above 0"),
        (dict(dilations="1111"), "dilations must be integers above 0"),
    ],
    ids=str,
)
def test_geometry_that_is_refused(kwargs, reason):
    with pytest.raises(ValueError, match=reason):
        HCGNet(make_arch(NETWORKS["tiny"]), **kwargs)
