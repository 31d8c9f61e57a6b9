"""The memory-saving form of HCGNet: a training step of the same network with fewer kept maps.

Weights, outputs, gradients and running statistics are those of the plain form, up to rounding.
Two things differ.

*Recompute what is elementwise.* Concatenation, norm and activation in front of a 1x1 convolution
run again in the backward pass: kept are the features alone, so that memory grows with the depth of
a block and not with its square. ``with_cp`` does the same in front of every other convolution and
to the maps of the gates.

*Pool the dilated branch without writing it.* The branch, a depthwise 3x3 convolution of
``a = ReLU(norm(X'))``, leaves the module only as the vector ``z`` (eq. 5 and 6). With ``w_c(q)``
for its weight at the tap ``q``, ``alpha_c`` for the weight of the attention and ``S`` for the
softmax, ::

    logits(p) = sum_c alpha_c sum_q w_c(q) a_c(p + q) = sum_q [sum_c alpha_c w_c(q) a_c](p + q)
    z_c = sum_p S(p) sum_q w_c(q) a_c(p + q) = sum_q w_c(q) [sum_r a_c(r) S(r - q)]

Both brackets are products of ``a`` with matrices of nine rows, and neither the convolution nor its
gradients are needed, which PyTorch computes slowly where a depthwise convolution is dilated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all
from torch.nn.modules._functions import SyncBatchNorm as sync_batch_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .blocks import SMG, HybridBlock
from .changes import ACTIVATIONS, find_change, fingerprint
from .gates import attention_pool, pooling_dtype, without_autocast
from .layers import PreActConv, PreActivation, concatenate, is_transformed

_HOOKS_OF_ALL = (
    hooks_of_all._global_forward_hooks,
    hooks_of_all._global_forward_pre_hooks,
    hooks_of_all._global_backward_hooks,
    hooks_of_all._global_backward_pre_hooks,
)
# Of networks, what they are made of: their children, all modules and the fingerprint.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[dict, list[nn.Module], list]] = WeakKeyDictionary()


def is_exact(network: nn.Module) -> bool:
    """Whether this form is the same as the plain one for all that can observe or change a network.

    It is with BN or SyncBN, in a network in which nothing was replaced and no hook wants to see
    a layer, outside of the transforms of ``torch.func`` and of forward-mode AD.
    """
    return not (is_transformed() or any(_HOOKS_OF_ALL)) and _is_known(network)


def _is_known(network: nn.Module) -> bool:
    """Whether nothing was changed; what took long to find out is kept until something is."""
    known = _KNOWN.get(network)
    if known is not None and known[0] == network._modules and known[2] == fingerprint(known[1]):
        return True
    modules = list(network.modules())[1:]  # hooks on the network itself see every form
    momenta = {module.momentum for module in modules if isinstance(module, _BatchNorm)}
    if len(momenta) > 1 or None in momenta or find_change(network, ACTIVATIONS) is not None:
        return False
    _KNOWN[network] = (dict(network._modules), modules, fingerprint(modules))
    return True


def forward(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Compute the activated maps of all stages, as the plain form does.

    Args:
        network: An HCGNet for which :func:`is_exact`.
        x: Images of shape ``(N, in_channels, H, W)``.

    Returns:
        One map of shape ``(N, C_i, H_i, W_i)`` for each stage.
    """
    statistics = _RunningStatistics()
    x = _stem(network.stem, x, statistics, network.with_cp)
    maps = []
    for i, block in enumerate(network.stages):
        x = _block(block, network.reader(i), x, statistics)
        maps.append(x)
        if i < len(network.stages) - 1:
            module = network.transitions[i]
            x = network.drop(i, _excite(module, module.squeeze1.conv(x), statistics))
    statistics.update()
    return maps


def _stem(stem: nn.Sequential, x: Tensor, statistics: _RunningStatistics, again: bool) -> Tensor:
    *cells, last = stem
    if not cells:
        return last(x)
    x = cells[0].conv(x)
    for cell, after in zip(cells, [*(_conv(c.conv) for c in cells[1:]), _Bound(last)], strict=True):
        step = _then(_activation(cell, statistics), after)
        x = _recomputed(step, x) if again else step(x)
    return x


def _block(
    block: HybridBlock, reader: PreActivation, x: Tensor, statistics: _RunningStatistics
) -> Tensor:
    """Map the input of a hybrid block to what ``reader`` reads of its output."""
    features = [x]
    for module in block:
        squeezed = _recomputed(_cell(module.squeeze1, statistics), *features)
        features.append(_excite(module, squeezed, statistics))
    read = _activation(reader, statistics)
    return _recomputed(read, *features) if module.with_cp else read(*features)


def _excite(module: SMG, x: Tensor, statistics: _RunningStatistics) -> Tensor:
    """Do all that follows the 1x1 convolution of a module."""
    squeeze = _cell(module.squeeze2, statistics)
    x = _recomputed(squeeze, x) if module.with_cp else squeeze(x)
    z3, z5, z = _pool(module, x, statistics)
    gate = module.update_gate
    h = gate.hidden(torch.cat([z3, z5], dim=1), _norm(gate.norm, statistics))
    # The softmax over two logits (eq. 9) is the sigmoid of their difference, and u5 = 1 - u3.
    weight, bias = (getattr(gate.expand3, n) - getattr(gate.expand5, n) for n in ("weight", "bias"))
    v = torch.lerp(z5, z3, F.linear(h, weight, bias).sigmoid())
    gate = module.forget_gate
    f = gate.expand(gate.hidden(z, _norm(gate.norm, statistics))).sigmoid()
    return f[:, :, None, None] * x + v[:, :, None, None]


def _pool(module: SMG, x: Tensor, statistics: _RunningStatistics) -> tuple[Tensor, Tensor, Tensor]:
    """Pool both branches and the squeezed map ``(N, C, H, W)`` itself, each to ``(N, C)``."""
    update, forget = module.update_gate, module.forget_gate
    branch3, attention3 = _cell(module.branch3, statistics), _conv(update.attention3)
    activate5, pool5 = _activation(module.branch5, statistics), _branch_pool(module)

    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        x3 = branch3(x)
        return attention_pool(x3, attention3(x3)), pool5(activate5(x))

    tensors = (*branch3.tensors, *attention3.tensors, *activate5.tensors, *pool5.tensors)
    z3, z5 = _recomputed(_Bound(pool, tensors), x) if module.with_cp else pool(x)
    return z3, z5, attention_pool(x, forget.attention(x))  # keeps no map besides x


def _branch_pool(module: SMG) -> _Bound:
    """Return what pools the dilated branch of an activated map ``(N, C, H, W)`` to ``(N, C)``."""
    attention = module.update_gate.attention5
    tensors = (module.branch5.conv.weight, attention.weight, attention.bias)
    return _Bound(partial(_pool_branch, 2 * module.dilation, *tensors), tensors)


def _pool_branch(
    dilation: int, branch: Tensor, attention: Tensor, bias: Tensor, a: Tensor
) -> Tensor:
    """Pool the dilated branch with its spatial attention, without computing the branch.

    Args:
        dilation: Dilation of the depthwise convolution.
        branch: Weight of the depthwise convolution, ``(C, 1, 3, 3)``.
        attention: Weight of the attention, ``(1, C, 1, 1)``.
        bias: Bias of the attention, ``(1,)``.
        a: Activated map of shape ``(N, C, H, W)``.

    Returns:
        Pooled vector of shape ``(N, C)`` in the type of ``a``.
    """
    if a.shape[0] == 0:  # which fold does not know
        x = F.conv2d(a, branch, padding=dilation, dilation=dilation, groups=a.shape[1])
        return attention_pool(x, F.conv2d(x, attention, bias))
    window = dict(kernel_size=3, padding=dilation, dilation=dilation)
    dtype = pooling_dtype(a)
    with without_autocast(a):
        columns = a.flatten(2).to(dtype)  # (N, C, H*W)
        # Flipped: fold and unfold move by -q what the convolution moves by q.
        taps = branch.flatten(1).t().flip(0).to(dtype)  # (9, C)
        products = (taps * attention.flatten(1)).expand(a.shape[0], -1, -1).bmm(columns)
        # The batch as channels of one image: both would go through its images one by one.
        logits = F.fold(products.view(1, -1, columns.shape[2]), a.shape[2:], **window)
        logits = logits + bias  # (1, N, H, W)
        weights = logits.flatten(2).softmax(dim=2).view_as(logits)
        sums = F.unfold(weights, **window).view_as(products).bmm(columns.transpose(1, 2))
        z = torch.einsum("qc,nqc->nc", taps, sums)
    return z.to(a.dtype)


class _Bound:
    """A function with the tensors that it reads, as they are now.

    Args:
        function: The function.
        tensors: What it reads besides its arguments; ``None`` does not count.
    """

    def __init__(self, function: Callable[..., Any], tensors: Sequence[Tensor | None] = ()) -> None:
        self.function = function
        self.tensors = tuple(tensor for tensor in tensors if tensor is not None)

    def __call__(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def _activation(cell: PreActivation, statistics: _RunningStatistics) -> _Bound:
    """Norm and activation of the concatenated inputs."""
    norm, act = _norm(cell.norm, statistics), cell.act
    return _Bound(lambda *features: act(norm(concatenate(features))), norm.tensors)


def _cell(cell: PreActConv, statistics: _RunningStatistics) -> _Bound:
    return _then(_activation(cell, statistics), _conv(cell.conv))


def _then(first: _Bound, second: _Bound) -> _Bound:
    return _Bound(lambda *inputs: second(first(*inputs)), (*first.tensors, *second.tensors))


def _conv(conv: nn.Conv2d) -> _Bound:
    tensors = (conv.weight, conv.bias)
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return _Bound(lambda x: F.conv2d(x, *tensors, *geometry), tensors)


def _norm(norm: nn.Module, statistics: _RunningStatistics) -> _Bound:
    """Normalise in the norm's mode, with the batch's statistics put aside in training."""
    affine, eps = (norm.weight, norm.bias), norm.eps
    if not norm.training:
        running = (norm.running_mean, norm.running_var)
        function = partial(_normalise, running, affine, False, eps)
        return _Bound(function, (*running, *affine))
    # The mean and the unbiased variance are written there in place of running statistics of
    # momentum 1: to run twice does no harm.
    batch = statistics.room_for(norm)
    if isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized():
        group = norm.process_group or torch.distributed.group.WORLD
        size = torch.distributed.get_world_size(group)
        if size > 1:
            rest = (*affine, *batch, eps, 1.0, group, size)
            return _Bound(lambda x: sync_batch_norm.apply(x, *rest), affine)
    return _Bound(partial(_normalise, batch, affine, True, eps), affine)


def _normalise(
    statistics: tuple[Tensor, Tensor],
    affine: tuple[Tensor | None, Tensor | None],
    training: bool,
    eps: float,
    x: Tensor,
) -> Tensor:
    return F.batch_norm(x, *statistics, *affine, training, 1.0, eps)


def _recomputed(bound: _Bound, *inputs: Tensor) -> Any:
    """Keep the inputs of a function and run it again in the backward pass."""
    if torch.compiler.is_compiling():  # decides by itself what to keep
        return bound(*inputs)

    def call(*arguments: Tensor) -> Any:
        return bound(*arguments[: len(inputs)])

    # Early stop: the layer that ends a function needs its input, and does not run again. The
    # tensors are given for autograd to see that they have not changed.
    return checkpoint(call, *inputs, *bound.tensors, use_reentrant=False, preserve_rng_state=False)


class _RunningStatistics:
    """What a forward pass adds to the running statistics once it has come to its end."""

    def __init__(self) -> None:
        self.norms: list[nn.Module] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def room_for(self, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """Make room for the mean and the variance of a batch, each ``(C,)``."""
        mean, variance = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
        self.norms.append(norm)
        self.means.append(mean)
        self.variances.append(variance)
        return mean, variance

    def update(self) -> None:
        """Move the running statistics of all norms towards those of the batch."""
        if not self.norms:
            return
        momentum = self.norms[0].momentum  # of all of them
        with torch.no_grad():
            torch._foreach_lerp_([norm.running_mean for norm in self.norms], self.means, momentum)
            torch._foreach_lerp_(
                [norm.running_var for norm in self.norms], self.variances, momentum
            )
            torch._foreach_add_([norm.num_batches_tracked for norm in self.norms], 1)
