"""The memory-saving form and the deployed form: when they run, and that they are what they replace.

That the memory-saving form computes what the paper says is in test_parity.py.
"""

import copy

import pytest
import torch
from helpers.reference import (
    NETWORKS,
    TINY,
    TINY_CIFAR,
    Reference,
    make_arch,
    random_state,
    state_shapes,
)
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch._subclasses import FakeTensorMode

from mmhcgnet.analysis.benchmark.measuring import count_calls, count_kept_bytes
from mmhcgnet.analysis.benchmark.workloads import Workload, build
from mmhcgnet.models import HCGNet, memory_saving


def make(name: str = "tiny", state: dict | None = None, **kwargs) -> HCGNet:
    """A network with all outputs whose weights and statistics are not neutral."""
    network = HCGNet(arch=make_arch(NETWORKS[name]), **(dict(out_indices=stages(name)) | kwargs))
    if state is None:
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        state = random_state(shapes)
    network.load_state_dict(state)
    return network


def stages(name: str) -> tuple[int, ...]:
    return tuple(range(len(NETWORKS[name][0])))


def image_for(name: str, batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    cifar = NETWORKS[name][2] == "cifar"
    size = (33, 40) if cifar else (49, 70)
    return torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64).to(dtype)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double()
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def gradients(network: HCGNet, image: torch.Tensor) -> dict[str, torch.Tensor | None]:
    network.zero_grad()
    sum((out**2).mean() for out in network(image)).backward()
    return {key: parameter.grad for key, parameter in network.named_parameters()}


@pytest.fixture
def saves_memory(monkeypatch):
    """Tell whether a call of a network runs in the memory-saving form."""

    def uses(network: HCGNet, image: torch.Tensor | None = None) -> bool:
        calls = []
        forward = memory_saving.forward
        with monkeypatch.context() as patch:
            patch.setattr(memory_saving, "forward", lambda *args: calls.append(1) or forward(*args))
            network(torch.randn(2, 3, 64, 64) if image is None else image)
        form = network.form
        assert bool(calls) is (form == "memory_saving")
        return bool(calls)

    return uses


# The choice of the form


def hooked(network: HCGNet) -> HCGNet:
    network.stages[0][0].update_gate.attention5.register_forward_hook(lambda *args: None)
    return network


def with_other_branch(network: HCGNet) -> HCGNet:
    class OtherConv(nn.Conv2d):
        pass

    conv = OtherConv(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
    network.stages[0][0].branch5.conv = conv
    return network


def without_statistics(network: HCGNet) -> HCGNet:
    return HCGNet(arch=make_arch(TINY), norm_cfg=dict(type="BN", track_running_stats=False))


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        with_other_branch,
        without_statistics,
        lambda network: setattr(network, "plain", True) or network,
        lambda network: HCGNet(arch=make_arch(TINY), norm_cfg=dict(type="GN", num_groups=1)),
        lambda network: HCGNet(arch=make_arch(TINY), norm_cfg=dict(type="BN", momentum=None)),
    ],
    ids=["a hook", "another convolution", "no running statistics", "plain", "GN", "no momentum"],
)
def test_what_takes_the_plain_form(change, saves_memory):
    network = make().train()
    assert saves_memory(network)
    assert not saves_memory(change(network).train())


@pytest.mark.parametrize("layer", ["transitions.1.squeeze2", "stages.3", "norm", "stem.0.act"])
def test_the_plain_form_is_left_when_the_hook_is_gone(layer, saves_memory):
    network = make().train()
    handle = network.get_submodule(layer).register_forward_pre_hook(lambda *args: None)
    assert not saves_memory(network)
    handle.remove()
    assert saves_memory(network)


def test_inference_and_traces_take_the_plain_form(saves_memory):
    network = make().train()
    assert saves_memory(network)
    with torch.no_grad():
        assert not saves_memory(network)
    assert not saves_memory(network.eval())  # with gradients, too
    image = torch.randn(1, 3, 64, 64)
    traced = torch.jit.trace(network, image)
    for out, target in zip(traced(image), network(image), strict=True):
        torch.testing.assert_close(out, target)
    assert "unfold" not in str(traced.graph)


@pytest.mark.parametrize("act_cfg", [dict(type="GELU"), dict(type="LeakyReLU")])
def test_any_activation_trains_in_the_memory_saving_form(act_cfg, saves_memory):
    network = make(act_cfg=act_cfg).double().train()
    assert saves_memory(network, torch.randn(2, 3, 64, 64, dtype=torch.float64))
    compare_training(network, image_for("tiny", 4, torch.float64))


# The memory-saving form


def compare_training(network: HCGNet, image: torch.Tensor) -> None:
    """Outputs, gradients and statistics of the memory-saving form are those of the plain one."""
    plain = copy.deepcopy(network)
    plain.plain = True
    for out, target in zip(network(image), plain(image), strict=True):
        assert relative_error(out, target) <= 1e-8
    expected, actual = gradients(plain, image), gradients(network, image)
    largest = max(grad.abs().max() for grad in expected.values() if grad is not None)
    for key, grad in expected.items():
        assert (grad is None) is (actual[key] is None), key
        if grad is not None:  # those that softmax or BN cancels are noise around 0
            error = (actual[key] - grad).abs().max()
            assert error <= max(1e-8 * grad.abs().max(), 1e-12 * largest), key
    for (key, buffer), target in zip(network.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, target, rtol=1e-8, atol=1e-12, msg=key)


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        dict(norm_eval=True),
        dict(frozen_stages=0),
        dict(frozen_stages=1),
        dict(frozen_stages=2, out_indices=(1, 2)),
        dict(frozen_stages=1, norm_eval=True),
        dict(norm_cfg=dict(type="BN", eps=1e-3, momentum=0.03, affine=False)),
        dict(norm_cfg=dict(type="SyncBN")),
        dict(norm_cfg=dict(type="BN", requires_grad=False)),
    ],
    ids=str,
)
def test_memory_saving_form(kwargs, with_cp, saves_memory):
    network = make(with_cp=with_cp, **kwargs).double().train()
    image = image_for("tiny", 4, torch.float64)
    assert saves_memory(network, image)
    compare_training(network, image)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (36, 61)])
def test_memory_saving_form_at_odd_sizes(size):
    network = make("tiny-cifar").double().train()
    compare_training(network, torch.randn(2, 3, *size, dtype=torch.float64))


def test_memory_saving_form_in_channels_last():
    network = make().double().train()
    image = image_for("tiny", 4, torch.float64)
    expected = gradients(copy.deepcopy(network), image)
    network.to(memory_format=torch.channels_last)
    actual = gradients(network, image.contiguous(memory_format=torch.channels_last))
    for key, grad in expected.items():
        torch.testing.assert_close(actual[key], grad, rtol=1e-8, atol=1e-10, msg=key)


def test_a_sync_bn_that_was_reverted_trains_in_the_memory_saving_form(saves_memory):
    """MMEngine's Runner does so where there is one process."""
    network = revert_sync_batchnorm(make(norm_cfg=dict(type="SyncBN"))).train()
    assert saves_memory(network)


def test_statistics_move_once_a_step():
    network = make().double().train()
    gradients(network, image_for("tiny", 4, torch.float64))
    counts = [b for key, b in network.named_buffers() if key.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 8 for count in counts)  # they start at 7


def test_gradients_in_bf16_autocast():
    """They are as good as those of the plain form."""
    network, image = make().train(), image_for("tiny", 8)
    expected = gradients(copy.deepcopy(network).double(), image.double())
    errors = []
    for plain in (False, True):
        network = make().train()
        network.plain = plain
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = network(image)
        sum((out.float() ** 2).mean() for out in maps).backward()
        grads = {key: p.grad.double() for key, p in network.named_parameters()}
        keys = [key for key in grads if key.endswith("conv.weight")]
        errors.append(
            [((grads[key] - expected[key]).norm() / expected[key].norm()).item() for key in keys]
        )
    (ours, theirs) = (sum(each) / len(each) for each in errors)
    assert 0 < ours <= 1.2 * theirs


# Compiling


@pytest.mark.slow(reason="torch.compile takes seconds for each graph")
@pytest.mark.parametrize("with_cp", [False, True])
def test_a_training_step_compiles_without_graph_break(with_cp):
    arch = dict(depths=(1, 1), growth_rates=(4, 8), stem="cifar")
    network = HCGNet(arch=arch, with_cp=with_cp).double().train()
    other = copy.deepcopy(network)
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    (expected,), (actual,) = network(image), compiled(image)
    expected.square().mean().backward()
    actual.square().mean().backward()
    torch.testing.assert_close(actual, expected)
    for (key, target), value in zip(network.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value.grad, target.grad, msg=key)
    for (key, target), value in zip(network.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(value, target, msg=key)


@pytest.mark.slow(reason="torch.compile takes seconds for each graph")
@pytest.mark.parametrize("deployed", [False, True])
def test_inference_compiles_and_exports_without_graph_break(deployed):
    arch = dict(depths=(1, 1), growth_rates=(4, 8), stem="cifar")
    network = HCGNet(arch=arch, deploy=deployed).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (expected,) = network(image)
        (actual,) = torch.compile(network, backend="aot_eager", fullgraph=True)(image)
        (exported,) = torch.export.export(network, (image,)).module()(image)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(exported, expected)


@pytest.mark.parametrize("kwargs", [{}, dict(with_cp=True), dict(deploy=True)])
def test_nothing_waits_for_the_numbers(kwargs):
    """A fake tensor has none and cannot be asked, as in a CUDA graph."""
    network = HCGNet(arch=make_arch(TINY_CIFAR), **kwargs)
    with FakeTensorMode(allow_non_fake_inputs=True):
        (out,) = network(torch.randn(2, 3, 32, 32))
        if out.requires_grad:
            out.sum().backward()
    assert out.requires_grad is not network.deployed
    assert out.shape == (2, network.out_channels[0], 8, 8)


# The deployed form


@pytest.mark.parametrize("name", NETWORKS)
def test_deployed_outputs(name):
    state = random_state(state_shapes(*NETWORKS[name]))
    network = make(name, state).eval()
    image = image_for(name)
    network.switch_to_deploy()
    with torch.no_grad():
        actual, expected = network(image), Reference(state)(image.double())
    for out, target in zip(actual, expected, strict=True):
        assert out.is_contiguous()
        assert relative_error(out, target) <= 1e-5


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_maps_without_groups_are_padded_to_whole_vectors(groups, channels_last):
    arch = dict(depths=(2, 2), growth_rates=(6, 10), stem="cifar", groups=groups)
    network = HCGNet(arch, out_indices=(0, 1)).double().eval()
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    if channels_last:
        network, image = (x.to(memory_format=torch.channels_last) for x in (network, image))
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    modules = [module for stage in deployed.stages for module in stage]
    assert [len(module.weight2) for module in modules] == (
        [16] * 4 if groups == 1 else [6, 6, 10, 10]
    )
    assert deployed.transitions[0].weight2.shape[:2] == (16, 32)  # of 12 and 18
    with torch.no_grad():
        for out, target in zip(deployed(image), network(image), strict=True):
            assert out.shape == target.shape and out.stride() == target.stride()
            assert relative_error(out, target) <= 1e-12


def hostile(state: dict) -> dict:
    """Norms with scales that are zero, negative or tiny, and statistics far from neutral."""
    for key, value in state.items():
        if ".norm.weight" in key or key == "norm.weight":
            value[::5] = 0
            value[1::5] *= -1
            value[2::5] = 1e-12
        elif key.endswith("running_mean"):
            value[::3] = 3
        elif key.endswith("running_var"):
            value[::4] = 1e-3
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["tiny", "tiny-cifar"])
def test_deployed_outputs_where_the_norms_are_not_tame(name, dtype):
    state = hostile(random_state(state_shapes(*NETWORKS[name])))
    network = make(name).to(dtype).eval()
    network.load_state_dict(state)
    image = image_for(name, dtype=dtype)
    network.switch_to_deploy()
    with torch.no_grad():
        actual, expected = network(image), Reference(state)(image.double())
    for out, target in zip(actual, expected, strict=True):
        assert relative_error(out, target) <= (1e-5 if dtype is torch.float32 else 1e-12)


@pytest.mark.parametrize("weight", [0.5, 1e-2, 1e-3, 1e-5, -1e-6, 1e-12, 1e-40, 0])
@pytest.mark.parametrize("bias", [-0.5, 0.5])
def test_deployed_in_half_precision_with_channels_that_are_nearly_constant(weight, bias):
    """Weight decay makes channels so that are always off; their bounds overflow in fp16."""
    torch.manual_seed(0)
    network = HCGNet(make_arch(TINY_CIFAR), norm_cfg=dict(type="BN", momentum=1.0)).train()
    images = torch.randn(8, 3, 24, 32)
    with torch.no_grad():
        network(images)  # statistics of its maps, as a trained network has
        for module in network.eval().modules():
            if isinstance(module, nn.BatchNorm2d):
                chosen = torch.rand(module.num_features) < 0.3
                module.weight[chosen], module.bias[chosen] = weight, bias
        (expected,) = copy.deepcopy(network).double()(images.double())
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()

    def error(network: HCGNet, dtype: torch.dtype, autocast: bool) -> float:
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=autocast):
            given = torch.float32 if autocast else dtype
            (out,) = copy.deepcopy(network).to(given)(images.to(given))
        assert out.dtype is dtype
        return ((out.double() - expected).norm() / expected.norm()).item()

    for dtype in (torch.float16, torch.bfloat16):
        for autocast in (False, True):
            assert error(deployed, dtype, autocast) <= 2.5 * error(network, dtype, autocast)


def test_a_deployed_network_has_no_norm_and_nothing_to_train():
    network = make().eval()
    network.switch_to_deploy()
    names = {type(module).__name__ for module in network.modules()}
    assert not [name for name in names if "Norm" in name]
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0, 2), -1])
def test_deployed_weights_load_into_a_network_built_for_them(out_indices):
    network = make(out_indices=out_indices).eval()
    network.switch_to_deploy()
    other = HCGNet(arch=make_arch(TINY), out_indices=out_indices, deploy=True)
    assert other.deployed
    other.load_state_dict(network.state_dict())
    image = image_for("tiny")
    for out, target in zip(other(image), network(image), strict=True):
        torch.testing.assert_close(out, target, rtol=0, atol=0)


def test_deploying_twice_is_deploying_once():
    network = make().eval()
    network.switch_to_deploy()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.switch_to_deploy()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_deployed_in_channels_last_and_half_the_precision():
    network = make().eval()
    image = image_for("tiny")
    with torch.no_grad():
        expected = network(image)
        network.switch_to_deploy()
        network.to(memory_format=torch.channels_last)
        actual = network(image.contiguous(memory_format=torch.channels_last))
        halved = network.bfloat16()(image.bfloat16())
    for out, half, target in zip(actual, halved, expected, strict=True):
        torch.testing.assert_close(out, target, rtol=1e-4, atol=1e-5)
        assert (half.float() - target).norm() <= 0.05 * target.norm()


def test_images_keep_their_gradients_in_a_deployed_network():
    """As an attack wants them."""
    network = make().double().eval()
    deployed = copy.deepcopy(network)
    deployed.switch_to_deploy()
    results = []
    for each in (network, deployed):
        image = image_for("tiny", dtype=torch.float64).requires_grad_()
        sum((out**2).mean() for out in each(image)).backward()
        results.append(image.grad)
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(norm_cfg=dict(type="GN", num_groups=1)), "GroupNorm"),
        (dict(act_cfg=dict(type="GELU")), "GELU"),
        (dict(norm_cfg=dict(type="BN", track_running_stats=False)), "running statistics"),
    ],
)
def test_what_cannot_be_deployed(kwargs, named):
    network = HCGNet(arch=make_arch(TINY_CIFAR), **kwargs).eval()
    before = set(network.state_dict())
    with pytest.raises(ValueError, match=named) as error:
        network.switch_to_deploy()
    assert "\n" not in str(error.value)
    assert set(network.state_dict()) == before
    assert not network.deployed


def test_deploying_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"eval\(\)"):
        make().train().switch_to_deploy()


# What they cost: counts, which no machine changes


@pytest.fixture(scope="module")
def costs() -> dict[str, tuple[int, int]]:
    """Operator calls, and bytes kept for the backward pass of an image, of HCGNet-B."""
    costs = {}
    for name in ("hcgnet-b:plain", "hcgnet-b", "hcgnet-b:with_cp"):
        workload = Workload(name, build(name), "train", 2, (224, 224))
        costs[name] = count_calls(workload).total(), count_kept_bytes(workload) / 2
    name = "hcgnet-b:deploy"
    costs[name] = count_calls(Workload(name, build(name), "forward", 2, (64, 64))).total(), 0
    return costs


@pytest.mark.slow(reason="counts the operators of all networks")
def test_operator_calls(costs):
    # PyTorch 2.10 needs 3,692 calls for the plain form; 2.4 needs more for either.
    assert costs["hcgnet-b"][0] - costs["hcgnet-b:plain"][0] <= 3970 - 3692
    assert costs["hcgnet-b:deploy"][0] <= 850


def test_bytes_kept_for_the_backward_pass(costs):
    assert costs["hcgnet-b:plain"][1] > 90e6
    assert costs["hcgnet-b"][1] <= 75e6
    assert costs["hcgnet-b:with_cp"][1] <= 36e6


def test_bytes_grow_with_the_depth_and_not_with_its_square():
    def kept(form: str, depth: int) -> int:
        network = HCGNet(arch=dict(depths=(depth,), growth_rates=(8,), stem="cifar"))
        network.plain = form == "plain"
        return count_kept_bytes(Workload("", network, "train", 2, (32, 32)))

    growth = {}
    for form in ("plain", "training"):
        first, second, third = (kept(form, depth) for depth in (8, 16, 32))
        growth[form] = (third - second) / (second - first)
    assert growth["training"] == pytest.approx(2, rel=0.02)
    assert growth["plain"] > 2.4
