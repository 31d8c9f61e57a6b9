"""The training form of HCGNet: the network of ``hcgnet.py`` with fewer kept maps.

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

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .blocks import SMG, HybridBlock
from .gates import Gate, attention_pool, pooling_dtype, without_autocast
from .layers import PreActivation

_Batch = tuple[Tensor, Tensor] | None


def has_training_form(network: nn.Module) -> bool:
    """Tell whether every layer is of a kind that the training form knows.

    It knows BN and SyncBN with running statistics, and ordinary convolutions. A hook on a layer
    wants the plain form, since the training form does not call every layer.
    """
    layers = list(network.modules())[1:]
    norms = [cell.norm for cell in _cells(network)]
    return (
        not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in layers)
        and all(_is_batch_norm(norm) for norm in norms)
        and len({norm.momentum for norm in norms}) == 1
        and all(type(m) is nn.Conv2d and m.padding_mode == "zeros" for m in _pooled(network))
    )


def _modules(network: nn.Module) -> Iterator[SMG]:
    for block in network.stages:
        yield from block
    yield from network.transitions[: len(network.stages) - 1]


def _cells(network: nn.Module) -> Iterator[nn.Module]:
    yield from _stem_cells(network)
    for module in _modules(network):
        yield from (module.squeeze1, module.squeeze2, module.branch3, module.branch5)
        yield from (module.update_gate, module.forget_gate)
    yield network.reader(len(network.stages) - 1)


def _pooled(network: nn.Module) -> Iterator[nn.Module]:
    for module in _modules(network):
        yield from (module.branch5.conv, module.update_gate.attention5)


def _is_batch_norm(norm: nn.Module) -> bool:
    return (
        isinstance(norm, _BatchNorm)
        and type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        and norm.running_mean is not None
        and norm.momentum is not None
    )


def forward(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Compute the activated maps of all stages, as the plain form does.

    Args:
        network: A network that :func:`has_training_form`.
        x: Images of shape ``(N, in_channels, H, W)``.

    Returns:
        One map of shape ``(N, C_i, H_i, W_i)`` for each stage.
    """
    statistics = _RunningStatistics()
    x = _stem(network, x, statistics)
    maps = []
    for i, block in enumerate(network.stages):
        x = _block(block, network.reader(i), x, statistics)
        maps.append(x)
        if i < len(network.stages) - 1:
            module = network.transitions[i]
            x = network.drop(i, _excite(module, module.squeeze1.conv(x), statistics))
    statistics.update()
    return maps


def _stem_cells(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.stem if hasattr(layer, "norm")]


def _stem(network: nn.Module, x: Tensor, statistics: _RunningStatistics) -> Tensor:
    cells = _stem_cells(network)
    if not cells:
        return network.stem(x)
    x = cells[0].conv(x)
    for cell, after in zip(cells, [*(c.conv for c in cells[1:]), network.stem[-1]], strict=True):
        x = _activate_then(after, cell, x, statistics, network.with_cp)
    return x


def _block(
    block: HybridBlock, reader: PreActivation, x: Tensor, statistics: _RunningStatistics
) -> Tensor:
    """Map the input of a hybrid block to what ``reader`` reads of its output."""
    features = [x]
    for module in block:
        cell, batch = module.squeeze1, statistics.of(module.squeeze1.norm)

        def squeeze(*features: Tensor, cell=cell, batch=batch) -> Tensor:
            return cell.conv(_activate(cell, torch.cat(features, dim=1), batch))

        features.append(_excite(module, _recomputed(squeeze, *features), statistics))
    batch = statistics.of(reader.norm)

    def read(*features: Tensor) -> Tensor:
        return _activate(reader, torch.cat(features, dim=1), batch)

    return _recomputed(read, *features) if module.with_cp else read(*features)


def _excite(module: SMG, x: Tensor, statistics: _RunningStatistics) -> Tensor:
    """Do all that follows the 1x1 convolution of a module."""
    cell = module.squeeze2
    x = _activate_then(cell.conv, cell, x, statistics, module.with_cp)
    z3, z5, z = _pool(module, x, statistics)
    gate = module.update_gate
    h = gate.hidden(torch.cat([z3, z5], dim=1), _norm_of(gate, statistics))
    # The softmax over two logits (eq. 9) is the sigmoid of their difference, and u5 = 1 - u3.
    weight, bias = (getattr(gate.expand3, n) - getattr(gate.expand5, n) for n in ("weight", "bias"))
    v = torch.lerp(z5, z3, F.linear(h, weight, bias).sigmoid())
    gate = module.forget_gate
    f = gate.expand(gate.hidden(z, _norm_of(gate, statistics))).sigmoid()
    return f[:, :, None, None] * x + v[:, :, None, None]


def _norm_of(gate: Gate, statistics: _RunningStatistics) -> Callable[[Tensor], Tensor]:
    return partial(_normalise, gate.norm, statistics.of(gate.norm))


def _pool(module: SMG, x: Tensor, statistics: _RunningStatistics) -> tuple[Tensor, Tensor, Tensor]:
    """Pool both branches and the squeezed map ``(N, C, H, W)`` itself, each to ``(N, C)``."""
    branch3, branch5, gate = module.branch3, module.branch5, module.update_gate
    batch3, batch5 = statistics.of(branch3.norm), statistics.of(branch5.norm)

    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        return (
            attention_pool(branch3.conv(_activate(branch3, x, batch3)), gate.attention3),
            _pool_branch(_activate(branch5, x, batch5), branch5.conv, gate.attention5),
        )

    z3, z5 = _recomputed(pool, x) if module.with_cp else pool(x)
    return z3, z5, attention_pool(x, module.forget_gate.attention)  # keeps no map beside x


def _pool_branch(a: Tensor, conv: nn.Conv2d, attention: nn.Conv2d) -> Tensor:
    """Pool ``conv(a)`` with a spatial attention without computing ``conv(a)``.

    Args:
        a: Activated map of shape ``(N, C, H, W)``.
        conv: Depthwise 3x3 convolution that keeps the size.
        attention: Convolution from ``C`` channels to one.

    Returns:
        Pooled vector of shape ``(N, C)`` in the type of ``a``.
    """
    window = dict(kernel_size=3, padding=conv.padding, dilation=conv.dilation)
    dtype = pooling_dtype(a)
    with without_autocast(a):
        columns = a.flatten(2).to(dtype)  # (N, C, H*W)
        # Flipped: fold and unfold move by -q what the convolution moves by q.
        taps = conv.weight.flatten(1).t().flip(0).to(dtype)  # (9, C)
        products = (taps * attention.weight.flatten(1)).expand(len(a), -1, -1).bmm(columns)
        # The batch as channels of one image: both would go through its images one by one.
        logits = F.fold(products.view(1, -1, columns.shape[2]), a.shape[2:], **window)
        logits = logits + attention.bias  # (1, N, H, W)
        weights = logits.flatten(2).softmax(dim=2).view_as(logits)
        sums = F.unfold(weights, **window).view_as(products).bmm(columns.transpose(1, 2))
        z = torch.einsum("qc,nqc->nc", taps, sums)
    return z.to(a.dtype)


def _activate(cell: PreActivation, x: Tensor, batch: _Batch) -> Tensor:
    return cell.act(_normalise(cell.norm, batch, x))


def _normalise(norm: nn.Module, batch: _Batch, x: Tensor) -> Tensor:
    """Normalise, with the batch's statistics where there is room for them.

    They are written into ``batch``, the mean and the unbiased variance, in place of running
    statistics of momentum 1: to run twice does no harm.
    """
    if batch is None:
        return norm(x)
    if not isinstance(norm, nn.SyncBatchNorm):
        return F.batch_norm(x, *batch, norm.weight, norm.bias, True, 1.0, norm.eps)
    sync = nn.SyncBatchNorm(x.shape[1], norm.eps, 1.0, False, process_group=norm.process_group)
    sync.weight, sync.bias = norm.weight, norm.bias
    sync.running_mean, sync.running_var = batch
    return sync(x)


def _activate_then(
    after: Callable[[Tensor], Tensor],
    cell: PreActivation,
    x: Tensor,
    statistics: _RunningStatistics,
    again: bool,
) -> Tensor:
    batch = statistics.of(cell.norm)

    def function(x: Tensor) -> Tensor:
        return after(_activate(cell, x, batch))

    return _recomputed(function, x) if again else function(x)


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Keep the inputs of ``function`` and run it again in the backward pass."""
    if torch.compiler.is_compiling():  # decides by itself what to keep
        return function(*inputs)
    # Early stop: the layer that ends a function needs its input, and does not run again.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class _RunningStatistics:
    """What a forward pass adds to the running statistics once it has come to its end."""

    def __init__(self) -> None:
        self.norms: list[nn.Module] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def of(self, norm: nn.Module) -> _Batch:
        """Make room for the batch's mean and variance, if the norm uses them."""
        if not norm.training:
            return None
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
