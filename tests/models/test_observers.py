"""Whoever looks at a network or changes it finds the same in every form.

Either a form gives the same result as the plain one, or the plain one runs in its place, or one
sentence says why not. The tables below list what is done to a network; test_forms.py has the rest.
"""

import copy
import pickle
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from helpers.reference import random_state
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from mmhcgnet.models import HCGNet, memory_saving
from mmhcgnet.models.layers import PreActConv

ARCH = dict(depths=(1, 2, 1), growth_rates=(8, 8, 8))
IMAGE = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(**kwargs) -> HCGNet:
    """A small network in fp64 whose weights and statistics are not neutral."""
    network = HCGNet(**(dict(arch=ARCH, out_indices=(0, 1, 2)) | kwargs))
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(random_state(shapes))
    return network.double()


@pytest.fixture(autouse=True)
def ran(monkeypatch):
    """The calls of the memory-saving form."""
    calls = []
    forward = memory_saving.forward
    monkeypatch.setattr(memory_saving, "forward", lambda *args: calls.append(1) or forward(*args))
    return calls


def loss_of(maps) -> Tensor:
    return sum((out.double() ** 2).mean() for out in maps)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    named = network.named_parameters()
    return {f"gradient of {key}": p.grad.clone() for key, p in named if p.grad is not None}


def everything(network: nn.Module, *maps: Tensor) -> dict[str, Tensor]:
    outs = {f"output {i}": out.detach() for i, out in enumerate(maps)}
    return outs | gradients(network) | {key: b.clone() for key, b in network.named_buffers()}


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-8):
    assert actual.keys() == expected.keys()
    sizes = [value.double().abs().max() for value in expected.values() if value.numel()]
    largest = max(sizes, default=0)
    for key, value in expected.items():
        assert actual[key].dtype is value.dtype and actual[key].shape == value.shape, key
        if value.numel():  # what softmax or BN cancels is noise around 0
            error = (actual[key].double() - value.double()).abs().max()
            limit = max(tolerance * value.double().abs().max(), 1e-4 * tolerance * largest)
            assert error <= limit, (key, error, limit)


def step(network: nn.Module, image: Tensor = IMAGE) -> dict[str, Tensor]:
    """A training step without the optimiser's part."""
    maps = network(image)
    loss_of(maps).backward()
    return everything(network, *maps)


def predict(network: nn.Module, image: Tensor = IMAGE) -> dict[str, Tensor]:
    with torch.no_grad():
        return {str(i): out for i, out in enumerate(network(image))}


# Changes: the plain form trains such a network, and there is no deployed form of it


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def with_lora(network: HCGNet) -> None:
    for module in network.stages[1]:
        for name in ("expand3", "expand5"):
            setattr(module.update_gate, name, LoRA(getattr(module.update_gate, name)).double())


def with_own_forward(network: HCGNet) -> None:
    conv = network.stages[1][0].branch5.conv
    conv.forward = lambda x: 2 * nn.Conv2d.forward(conv, x)


def with_own_module_forward(network: HCGNet) -> None:
    module = network.transitions[1]
    forward = module.forward
    module.forward = lambda *args, **kwargs: 2 * forward(*args, **kwargs)


def with_subclass(network: HCGNet) -> None:
    class Louder(PreActConv):
        def forward(self, x, tap=None):
            return 2 * super().forward(x, tap)

    network.stages[0][0].squeeze2.__class__ = Louder


def with_other(name: str, **values) -> partial:
    def change(network: HCGNet) -> None:
        for key, value in values.items():
            setattr(network.get_submodule(name), key, value)

    return change


def with_quantised_linears(network: HCGNet) -> None:
    torch.ao.quantization.quantize_dynamic(network.float(), {nn.Linear}, inplace=True)


def on(name: str, function, *args, **kwargs) -> partial:
    """Call a function with the layer of that name."""
    return lambda network: function(network.get_submodule(name), *args, **kwargs)


BRANCH5, EXPAND3 = "stages.1.0.branch5", "stages.1.0.update_gate.expand3"
CHANGES = {
    "LoRA": with_lora,
    "weight norm": on(EXPAND3, parametrizations.weight_norm),
    "weight norm of a convolution": on("stages.2.0.squeeze2.conv", parametrizations.weight_norm),
    "spectral norm": on(f"{BRANCH5}.conv", parametrizations.spectral_norm),
    "spectral norm by hook": on(f"{BRANCH5}.conv", nn.utils.spectral_norm),
    "orthogonal": on("transitions.0.forget_gate.expand", parametrizations.orthogonal),
    "pruning": on("stages.2.0.squeeze1.conv", prune.l1_unstructured, "weight", 0.3),
    "a forward of its own": with_own_forward,
    "a module's forward": with_own_module_forward,
    "a subclass": with_subclass,
    "dilation": with_other("stages.2.0.squeeze2.conv", dilation=(2, 2), padding=(2, 2)),
    "padding": with_other("stages.1.0.branch3.conv", padding_mode="reflect"),
    "no bias": with_other("stages.1.0.update_gate.attention5", bias=None),
    "identity for a norm": with_other("stages.1.0.squeeze2", norm=nn.Identity()),
    "statistics not tracked": with_other("stages.1.1.squeeze1.norm", track_running_stats=False),
    "dropout for an activation": with_other(BRANCH5, act=nn.Dropout(0.5)),
    "random activation": with_other(f"{BRANCH5}", act=nn.RReLU()),
    "no pooling": with_other("stem", **{"3": nn.AvgPool2d(2)}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_network_trains_in_the_plain_form(change, ran):
    results = []
    for plain in (True, False):
        network = make().train()
        step(network)
        network.zero_grad()
        torch.manual_seed(0)
        change(network)
        network.plain = plain
        ran.clear()
        assert network.form == "plain"
        results.append(step(network))
        assert not ran
    compare(*results)


@pytest.mark.parametrize(
    "change", [*CHANGES.values(), with_quantised_linears], ids=[*CHANGES, "quantised linears"]
)
def test_a_changed_network_is_not_deployed(change):
    network = make().eval()
    change(network)
    network.eval()
    image = IMAGE.to(next(network.parameters()).dtype)
    torch.manual_seed(0)
    before, keys = predict(network, image), list(network.state_dict())
    with pytest.raises(ValueError, match="deployed as it was built") as error:
        network.switch_to_deploy()
    assert "\n" not in str(error.value) and not network.deployed
    assert list(network.state_dict()) == keys
    compare(predict(network, image), before, 0)


def test_dynamic_quantisation():
    """It replaces the layers of the gates by others, in eval mode."""
    network = make().float().eval()
    expected = predict(network, IMAGE.float())
    with_quantised_linears(network)
    compare({str(i): out.detach() for i, out in enumerate(network(IMAGE.float()))}, expected, 0.05)


def test_a_class_with_another_forward(monkeypatch, ran):
    network = make().train()
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * forward(self, x))
    assert network.form == "plain"
    step(network)
    assert not ran


# Hooks


HOOKS = ("forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook")
HOOKED = (
    *("stem", "stem.0", "stem.0.norm", "stem.3", "stages.1", "stages.1.1", "norm"),
    *("stages.1.1.squeeze1", "stages.1.1.squeeze1.norm", "stages.1.1.squeeze1.conv"),
    *("stages.1.1.branch3", "stages.1.1.branch5.conv", "stages.1.1.branch5.act"),
    *("stages.1.1.update_gate", "stages.1.1.update_gate.norm", "stages.1.1.update_gate.expand5"),
    *(
        "stages.1.1.update_gate.attention5",
        "stages.1.1.forget_gate",
        "stages.1.1.forget_gate.reduce",
    ),
    *("transitions.1", "transitions.1.squeeze1", "transitions.1.squeeze1.norm"),
)


def watch(network: nn.Module, name: str, kind: str) -> tuple[list, object]:
    """Let a hook note the tensors that it gets, which it can also replace."""
    seen = []

    def note(module: nn.Module, *given):
        seen.extend(t.detach().clone() for t in flatten(given) if t is not None)

    return seen, getattr(network.get_submodule(name), f"register_{kind}")(note)


def flatten(values) -> Iterator[Tensor]:
    for value in values:
        yield from flatten(value) if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("name", HOOKED)
def test_a_hook_sees_what_it_sees_in_the_plain_form(name, kind, ran):
    results = []
    for plain in (True, False):
        network = make(act_cfg=dict(type="ReLU")).train()
        seen, handle = watch(network, name, kind)
        network.plain = plain
        result = step(network)
        assert seen and not ran
        results.append(result | {f"seen {i}": tensor for i, tensor in enumerate(seen)})
        handle.remove()
    compare(*results)
    assert network.form == "memory_saving"


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_all_modules(kind, ran):
    network = make(act_cfg=dict(type="ReLU")).train()
    seen = []
    register = getattr(nn.modules.module, f"register_module_{kind}")
    handle = register(lambda module, *_: seen.append(module) if seen.count(module) < 1 else None)
    try:
        step(network)
    finally:
        handle.remove()
    assert not ran
    # All but the lists, which are not called.
    called = [m for m in network.modules() if not isinstance(m, nn.ModuleList)]
    assert {id(module) for module in seen} == {id(module) for module in called}


@pytest.mark.parametrize("form", ["plain", "deployed"])
@pytest.mark.parametrize("name", ["stages.1", "stages.1.1", "transitions.1", "stem"])
def test_features_are_extracted_and_replaced_by_hooks(name, form):
    results = []
    for each in ("plain", form):
        network = make().eval()
        if each == "deployed":
            network.switch_to_deploy()
        seen = {}
        for path in {name, "transitions.1.squeeze1", "stages.1.1.squeeze1"}:
            note = partial(
                lambda path, seen, *given: seen.update({path: given[-1].clone()}), path, seen
            )
            network.get_submodule(path).register_forward_hook(note)
        network.get_submodule(name).register_forward_hook(lambda module, _, out: 2 * out)
        result = predict(network)
        assert len(seen) == 3
        results.append(result | {name: seen[name]})  # where norms are folded, squeezes are others
    compare(*results)


def test_a_hook_on_what_is_built_of_the_last_transition():
    network = make(out_indices=(0, 1)).train()
    seen, _ = watch(network, "transitions.1", "forward_hook")
    assert network.form == "plain"
    maps = network(IMAGE)
    assert torch.equal(seen[-1], maps[1])


def test_a_hooked_network_is_not_deployed():
    network = make().eval()
    watch(network, "stages.1.1.squeeze2", "forward_hook")
    with pytest.raises(ValueError, match=r"stages\.1\.1\.squeeze2 has a hook"):
        network.switch_to_deploy()


# Uses in training


def twice(network: HCGNet) -> dict[str, Tensor]:
    first, second = network(IMAGE), network(IMAGE.flip(3))
    loss = sum((a * b).mean() for a, b in zip(first, second, strict=True))
    loss.backward()
    return everything(network, *first, *second)


def accumulated(network: HCGNet) -> dict[str, Tensor]:
    step(network)
    return step(network, IMAGE.flip(2))


def double_backward(network: HCGNet) -> dict[str, Tensor]:
    image = IMAGE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(network(image)), image, create_graph=True)
    (slope**2).sum().backward()
    return everything(network, slope)


def eval_before_backward(network: HCGNet) -> dict[str, Tensor]:
    maps = network(IMAGE)
    network.eval()
    loss_of(maps).backward()
    return everything(network, *maps)


def thawed_before_backward(network: HCGNet) -> dict[str, Tensor]:
    for norm in (network.stages[1][1].squeeze1.norm, network.stages[2][0].branch5.norm):
        norm.eval()
    maps = network(IMAGE)
    network.train()
    loss_of(maps).backward()
    return everything(network, *maps)


def with_other_weights(network: HCGNet) -> dict[str, Tensor]:
    weights = {k: (1.5 * p.detach()).requires_grad_() for k, p in network.named_parameters()}
    maps = functional_call(network, weights, (IMAGE,))
    loss_of(maps).backward()
    return everything(network, *maps) | {key: value.grad for key, value in weights.items()}


def with_other_parameters(network: HCGNet) -> dict[str, Tensor]:
    weights = {k: nn.Parameter(1.5 * p.detach()) for k, p in network.named_parameters()}
    maps = functional_call(network, weights, (IMAGE,))
    loss_of(maps).backward()
    return everything(network, *maps) | {key: value.grad for key, value in weights.items()}


def changed_weights(network: HCGNet) -> dict[str, Tensor]:
    maps = network(IMAGE)
    with torch.no_grad():
        network.stages[1][1].squeeze1.norm.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss_of(maps).backward()
    return dict(enumerate(out.detach() for out in maps))


def checkpointed(network: HCGNet, use_reentrant: bool) -> dict[str, Tensor]:
    image = IMAGE.clone().requires_grad_()
    maps = checkpoint(network, image, use_reentrant=use_reentrant)
    loss_of(maps).backward()
    # Not compared: the plain form's running statistics move again in the recomputation, up to the
    # layer where it stops.
    return gradients(network) | {str(i): out for i, out in enumerate([image.grad, *maps])}


def replicated(network: nn.Module) -> nn.Module:
    """What DataParallel makes of a network, on one device."""
    modules = list(network.modules())
    replicas = {module: module._replicate_for_data_parallel() for module in modules}
    for module, replica in replicas.items():
        for key, child in module._modules.items():
            replica._modules[key] = None if child is None else replicas[child]
        for key, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[key] = None
            else:
                setattr(replica, key, parameter.view_as(parameter))
        replica._buffers = dict(module._buffers)
    return replicas[network]


def in_replicas(network: HCGNet) -> dict[str, Tensor]:
    maps = replicated(network)(IMAGE)
    loss_of(maps).backward()
    return everything(network, *maps)


def copied(network: HCGNet) -> dict[str, Tensor]:
    step(network)
    return step(copy.deepcopy(network))


def pickled(network: HCGNet) -> dict[str, Tensor]:
    step(network)
    return step(pickle.loads(pickle.dumps(network)))


def kept_elsewhere(network: HCGNet) -> dict[str, Tensor]:
    with torch.autograd.graph.save_on_cpu():
        return step(network)


def with_gradient_hooks(network: HCGNet) -> dict[str, Tensor]:
    seen = {}
    for key, parameter in network.named_parameters():
        parameter.register_hook(lambda gradient, key=key: seen.update({f"seen {key}": gradient}))
    return step(network) | seen


def frozen(network: HCGNet) -> HCGNet:
    """With its norms in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return network


def transformed(network: HCGNet) -> dict[str, Tensor]:
    frozen(network)
    return dict(slope=grad(lambda image: loss_of(network(image)))(IMAGE))


def with_tangents(network: HCGNet) -> dict[str, Tensor]:
    frozen(network)
    with forward_ad.dual_level():
        maps = network(forward_ad.make_dual(IMAGE, IMAGE.flip(3)))
        pairs = [forward_ad.unpack_dual(out) for out in maps]
        return {str(i): pair.tangent.detach() for i, pair in enumerate(pairs)}


def empty(network: HCGNet) -> dict[str, Tensor]:
    return step(frozen(network), IMAGE[:0])


def single(network: HCGNet) -> dict[str, Tensor]:
    return step(frozen(network), IMAGE[:1])


def in_autocast(network: HCGNet, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.autocast("cpu", dtype=dtype):
        maps = frozen(network).float()(IMAGE.float())
    loss_of(maps).backward()
    return {str(i): out.detach() for i, out in enumerate(maps)}


def cast(network: HCGNet, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        str(i): out.detach() for i, out in enumerate(frozen(network).to(dtype)(IMAGE.to(dtype)))
    }


def compiled(network: HCGNet) -> dict[str, Tensor]:
    network.compile(backend="aot_eager", fullgraph=True)
    return step(network)


# What is done, the form that runs, and how far apart the results may be.
SAVING, PLAIN = "memory_saving", "plain"
USES = {
    "a step": (step, SAVING, 1e-8),
    "siamese": (twice, SAVING, 1e-8),
    "accumulation": (accumulated, SAVING, 1e-8),
    "double backward": (double_backward, SAVING, 1e-7),
    "eval mode before backward": (eval_before_backward, SAVING, 1e-8),
    "train mode of frozen norms before backward": (thawed_before_backward, SAVING, 1e-8),
    "functional_call with tensors": (with_other_weights, PLAIN, 1e-8),
    "functional_call with parameters": (with_other_parameters, SAVING, 1e-8),
    "weights changed before backward": (changed_weights, SAVING, 1e-8),
    "checkpointed, reentrant": (partial(checkpointed, use_reentrant=True), SAVING, 1e-8),
    "checkpointed": (partial(checkpointed, use_reentrant=False), SAVING, 1e-8),
    "DataParallel": (in_replicas, SAVING, 1e-8),
    "deepcopy": (copied, SAVING, 1e-8),
    "pickle": (pickled, SAVING, 1e-8),
    "maps kept elsewhere": (kept_elsewhere, SAVING, 1e-8),
    "hooks on gradients": (with_gradient_hooks, SAVING, 1e-8),
    "torch.func.grad": (transformed, PLAIN, 1e-8),
    "forward AD": (with_tangents, PLAIN, 1e-8),
    "batch 0": (empty, SAVING, 1e-8),
    "batch 1": (single, SAVING, 1e-8),
    "autocast bf16": (partial(in_autocast, dtype=torch.bfloat16), SAVING, 0.1),
    "autocast fp16": (partial(in_autocast, dtype=torch.float16), SAVING, 0.02),
    "bf16": (partial(cast, dtype=torch.bfloat16), SAVING, 0.1),
    "half": (partial(cast, dtype=torch.float16), SAVING, 0.02),
}


@pytest.mark.parametrize("with_cp", [False, True], ids=["", "with_cp"])
@pytest.mark.parametrize(("use", "form", "tolerance"), USES.values(), ids=USES)
def test_uses_in_training(use, form, tolerance, with_cp, ran):
    results = []
    for plain in (True, False):
        network = make(with_cp=with_cp and not plain).train()
        network.plain = plain
        results.append(use(network))
        assert bool(ran) is (form == SAVING and not plain)
    compare(*results[::-1], tolerance)


# What of it with_cp changes in the plain form, which other norms take
@pytest.mark.parametrize("use", [use for use, _, tolerance in USES.values() if tolerance < 1e-6])
def test_uses_of_the_plain_form_with_cp(use, ran):
    results = []
    for with_cp in (False, True):
        network = make(with_cp=with_cp).train()
        network.plain = True
        results.append(use(network))
    assert not ran
    compare(*results)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("with_cp", [False, True])
def test_gradients_with_a_random_activation(plain, with_cp):
    """The numbers that are drawn in the forward pass are those of the backward pass."""
    results = []
    for network in (make(act_cfg=dict(type="RReLU")), make(act_cfg=dict(type="RReLU"))):
        network.train().plain = True
        if results:
            network.plain = plain
            for module in network.modules():
                if hasattr(module, "with_cp"):
                    module.with_cp = with_cp
        torch.manual_seed(0)
        results.append(step(network))
    compare(*results)


@pytest.mark.slow(reason="torch.compile takes seconds for each graph")
def test_a_compiled_network_is_looked_at_when_it_is_compiled():
    """Also where it was never called before."""
    results = []
    for compiles in (False, True):
        network = make(arch=dict(depths=(1, 1), growth_rates=(4, 8), stem="cifar"), out_indices=-1)
        network.train()
        torch.manual_seed(0)
        with_lora(network)
        if compiles:
            torch._dynamo.reset()
            network.compile(backend="aot_eager", fullgraph=True)
        results.append(step(network))
    compare(*results)


# Uses in eval mode: of a network with its gradients on, which is plain, and of a deployed one


def slopes(network: HCGNet) -> dict[str, Tensor]:
    image = IMAGE.clone().requires_grad_()
    loss_of(network(image)).backward()
    return dict(slope=image.grad)


def slopes_by_func(network: HCGNet) -> dict[str, Tensor]:
    value, pull = vjp(lambda image: loss_of(network(image)), IMAGE)
    return dict(
        slope=grad(lambda image: loss_of(network(image)))(IMAGE),
        pulled=pull(torch.ones_like(value))[0],
    )


def push(network: HCGNet) -> dict[str, Tensor]:
    _, tangents = jvp(lambda image: network(image), (IMAGE,), (IMAGE.flip(3),))
    return {str(i): tangent.detach() for i, tangent in enumerate(tangents)}


def each_alone(network: HCGNet) -> dict[str, Tensor]:
    maps = vmap(lambda image: network(image[None]))(IMAGE)
    return {str(i): out.detach() for i, out in enumerate(maps)}


def slopes_of_each(network: HCGNet) -> dict[str, Tensor]:
    return dict(slopes=vmap(grad(lambda image: loss_of(network(image[None]))))(IMAGE))


def traced(network: HCGNet) -> dict[str, Tensor]:
    with torch.no_grad():
        return predict(torch.jit.trace(network, IMAGE))


def trained_first(network: HCGNet) -> dict[str, Tensor]:
    image = IMAGE.clone().requires_grad_()
    maps = network(image)
    network.train()
    loss_of(maps).backward()
    return dict(slope=image.grad)


def autocast_maps(network: HCGNet, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.autocast("cpu", dtype=dtype):
        return predict(network.float(), IMAGE.float())


EVAL_USES = {
    "predictions": (predict, 1e-8),
    "predictions of an empty batch": (partial(predict, image=IMAGE[:0]), 1e-8),
    "predictions of one image": (partial(predict, image=IMAGE[:1]), 1e-8),
    "gradients of images": (slopes, 1e-8),
    "torch.func.grad and vjp": (slopes_by_func, 1e-8),
    "torch.func.jvp": (push, 1e-8),
    "forward AD": (with_tangents, 1e-8),
    "vmap": (each_alone, 1e-8),
    "gradients of each image": (slopes_of_each, 1e-8),
    "jit.trace": (traced, 1e-8),
    "train mode before backward": (trained_first, 1e-8),
    "DataParallel": (lambda network: predict(replicated(network)), 1e-8),
    "deepcopy": (lambda network: predict(copy.deepcopy(network)), 1e-8),
    "pickle": (lambda network: predict(pickle.loads(pickle.dumps(network))), 1e-8),
    "train mode": (lambda network: predict(network.train().eval()), 1e-8),
    "autocast bf16": (partial(autocast_maps, dtype=torch.bfloat16), 0.1),
    "autocast fp16": (partial(autocast_maps, dtype=torch.float16), 0.02),
    "bf16": (partial(cast, dtype=torch.bfloat16), 0.1),
    "half": (partial(cast, dtype=torch.float16), 0.02),
}


@pytest.mark.parametrize("form", ["plain", "with_cp", "deployed"])
@pytest.mark.parametrize(("use", "tolerance"), EVAL_USES.values(), ids=EVAL_USES)
def test_uses_in_eval_mode(use, tolerance, form, ran):
    expected = use(make().eval())
    network = make(with_cp=form == "with_cp").eval()
    if form == "deployed":
        network.switch_to_deploy()
    assert network.form == ("deployed" if form == "deployed" else "plain")
    compare(use(network), expected, tolerance)
    assert not ran


def test_a_deployed_network_stays_in_eval_mode():
    network = make(dropblock=dict(block_size=2)).eval()
    expected = predict(network)
    network.switch_to_deploy()
    compare(predict(network.train()), expected)


def test_torch_fx_traces_it():
    network = make().eval()
    compare(predict(torch.fx.symbolic_trace(network)), predict(network), 1e-12)
    torch.fx.symbolic_trace(network.train())
