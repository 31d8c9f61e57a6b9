"""HCGNet once more, written straight from the equations, for the tests to compare against.

Yang et al., *Gated Convolutional Networks with Hybrid Connectivity for Image Classification*,
AAAI 2020, https://arxiv.org/abs/1908.09699. Nothing here comes from ``mmhcgnet``: only the names
of the weights are shared. It is slow, plain and functional on purpose: each function takes the
state dict and the prefix of the part it computes, so that it reads beside the paper line by line.
"""

import math
import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

BN_EPS = 1e-5
BN_MOMENTUM = 0.1

# Section "Network Architecture", figure 3: the constants of a hybrid block and of a transition.
BLOCK = {"groups": 4, "alpha": 4, "reduction": 2, "stride": 1}
TRANSITION = {"groups": 1, "alpha": 1.5, "reduction": 4, "stride": 2, "theta": 0.5}

# Table 1: name -> (modules per block, growth rates, stem).
ARCHS = {
    "A1": ((8, 8, 8), (12, 24, 36), "cifar"),
    "A2": ((8, 8, 8), (24, 36, 64), "cifar"),
    "A3": ((12, 12, 12), (36, 48, 80), "cifar"),
    "B": ((3, 6, 12, 8), (32, 48, 64, 96), "imagenet"),
    "C": ((6, 12, 18, 14), (48, 56, 72, 112), "imagenet"),
}

# Small networks for what does not depend on the numbers; some gate widths are odd.
TINY = ((1, 2, 1, 2), (8, 8, 16, 16), "imagenet")
TINY_CIFAR = ((2, 1, 2), (4, 8, 12), "cifar")
NETWORKS = ARCHS | {"tiny": TINY, "tiny-cifar": TINY_CIFAR}


def make_arch(network: tuple) -> dict:
    """The ``arch`` of a backbone for an entry of ``NETWORKS``."""
    depths, growth_rates, stem = network
    return {"depths": depths, "growth_rates": growth_rates, "stem": stem}


class Reference:
    """The network as functions of a state dict.

    Args:
        state: Weights and buffers under the names of the backbone. In training mode the running
            statistics in it are replaced by the updated ones.
        training: Whether BN normalises with the statistics of the batch.
        act: The activation in front of every convolution and after the norms of the stem.
    """

    def __init__(
        self, state: State, training: bool = False, act: Callable[[Tensor], Tensor] = F.relu
    ) -> None:
        self.state = state
        self.training = training
        self.act = act

    def has(self, prefix: str) -> bool:
        return any(key.startswith(prefix + ".") for key in self.state)

    def norm(self, prefix: str, x: Tensor) -> Tensor:
        """Batch normalisation over all axes but the channels, of (N, C) or (N, C, H, W)."""
        state = self.state
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        if self.training:
            mean = x.mean(axes)
            deviation = x - mean.reshape(shape)
            var = (deviation * deviation).mean(axes)
            count = x.numel() // x.shape[1]
            for name, value in (("mean", mean), ("var", var * count / (count - 1))):
                key = f"{prefix}.running_{name}"
                state[key] = (1 - BN_MOMENTUM) * state[key] + BN_MOMENTUM * value.detach()
            key = f"{prefix}.num_batches_tracked"
            state[key] = state[key] + 1
        else:
            mean, var = state[f"{prefix}.running_mean"], state[f"{prefix}.running_var"]
        x = (x - mean.reshape(shape)) / (var.reshape(shape) + BN_EPS) ** 0.5
        weight, bias = state[f"{prefix}.weight"], state[f"{prefix}.bias"]
        return x * weight.reshape(shape) + bias.reshape(shape)

    def linear(self, prefix: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{prefix}.weight"].t() + self.state[f"{prefix}.bias"]

    def attention_pool(self, prefix: str, x: Tensor) -> Tensor:
        """Equations 5 and 6: softmax over all positions, weighted sum. (N, C, H, W) -> (N, C)."""
        weight, bias = self.state[f"{prefix}.weight"], self.state[f"{prefix}.bias"]
        score = (weight * x).sum(dim=1, keepdim=True) + bias  # (N, 1, H, W)
        score = (score - score.amax(dim=(2, 3), keepdim=True)).exp()
        share = score / score.sum(dim=(2, 3), keepdim=True)
        return (share * x).sum(dim=(2, 3))

    def update_gate(self, prefix: str, x3: Tensor, x5: Tensor) -> Tensor:
        """Equations 5 to 10: two maps (N, C, H, W) -> v (N, C)."""
        z3 = self.attention_pool(f"{prefix}.attention3", x3)
        z5 = self.attention_pool(f"{prefix}.attention5", x5)
        h = self.linear(f"{prefix}.reduce", torch.cat([z3, z5], dim=1))
        h = torch.tanh(self.norm(f"{prefix}.norm", h))  # eq. 7
        e3 = self.linear(f"{prefix}.expand3", h).exp()  # eq. 8
        e5 = self.linear(f"{prefix}.expand5", h).exp()
        u3, u5 = e3 / (e3 + e5), e5 / (e3 + e5)  # eq. 9
        return u3 * z3 + u5 * z5  # eq. 10

    def forget_gate(self, prefix: str, x: Tensor) -> Tensor:
        """Equation 11: (N, C, H, W) -> f (N, C), in (0, 1)."""
        z = self.attention_pool(f"{prefix}.attention", x)
        h = torch.tanh(self.norm(f"{prefix}.norm", self.linear(f"{prefix}.reduce", z)))
        return 1 / (1 + (-self.linear(f"{prefix}.expand", h)).exp())

    def activate(self, prefix: str, x: Tensor) -> Tensor:
        return self.act(self.norm(f"{prefix}.norm", x))

    def smg(self, prefix: str, activated: Tensor, groups: int, stride: int) -> Tensor:
        """One SMG module (figure 2), from the map that its first norm and activation gave."""
        state = self.state
        x = F.conv2d(activated, state[f"{prefix}.squeeze1.conv.weight"])
        x = F.conv2d(
            self.activate(f"{prefix}.squeeze2", x),
            state[f"{prefix}.squeeze2.conv.weight"],
            stride=stride,
            padding=1,
            groups=groups,
        )
        x3 = F.conv2d(
            self.activate(f"{prefix}.branch3", x),
            state[f"{prefix}.branch3.conv.weight"],
            padding=1,
            groups=x.shape[1],
        )
        x5 = F.conv2d(
            self.activate(f"{prefix}.branch5", x),
            state[f"{prefix}.branch5.conv.weight"],
            padding=2,
            dilation=2,
            groups=x.shape[1],
        )
        v = self.update_gate(f"{prefix}.update_gate", x3, x5)
        f = self.forget_gate(f"{prefix}.forget_gate", x)
        return f[:, :, None, None] * x + v[:, :, None, None]

    def stem(self, x: Tensor) -> Tensor:
        state = self.state
        if "stem.conv.weight" in state:
            return F.conv2d(x, state["stem.conv.weight"], padding=1)
        for i, stride in enumerate((2, 1, 1)):
            x = F.conv2d(x, state[f"stem.{i}.conv.weight"], stride=stride, padding=1)
            x = self.activate(f"stem.{i}", x)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Image (N, in_channels, H, W) -> the activated maps of all stages."""
        outs = []
        x = self.stem(x)
        block = 0
        while self.has(f"stages.{block}"):
            module = 0
            while self.has(f"stages.{block}.{module}"):
                prefix = f"stages.{block}.{module}"
                activated = self.activate(f"{prefix}.squeeze1", x)
                new = self.smg(prefix, activated, BLOCK["groups"], BLOCK["stride"])
                x = torch.cat([x, new], dim=1)
                module += 1
            if self.has(f"stages.{block + 1}"):
                prefix = f"transitions.{block}"
                outs.append(self.activate(f"{prefix}.squeeze1", x))
                x = self.smg(prefix, outs[-1], TRANSITION["groups"], TRANSITION["stride"])
            else:
                outs.append(self.act(self.norm("norm", x)))
            block += 1
        return outs


def _norm_shapes(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    vectors = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{prefix}.{name}": (channels,) for name in vectors}
    return shapes | {f"{prefix}.num_batches_tracked": ()}


def _linear_shapes(prefix: str, fan_in: int, fan_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": (fan_out, fan_in), f"{prefix}.bias": (fan_out,)}


def _attention_shapes(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": (1, channels, 1, 1), f"{prefix}.bias": (1,)}


def smg_shapes(
    prefix: str, c_in: int, c: int, groups: int, alpha: float, reduction: int, **_
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one SMG module."""
    width = int(alpha * c)
    shapes = {}
    for cell, norm_width, weight in (
        ("squeeze1", c_in, (width, c_in, 1, 1)),
        ("squeeze2", width, (c, width // groups, 3, 3)),
        ("branch3", c, (c, 1, 3, 3)),
        ("branch5", c, (c, 1, 3, 3)),
    ):
        shapes |= _norm_shapes(f"{prefix}.{cell}.norm", norm_width)
        shapes[f"{prefix}.{cell}.conv.weight"] = weight
    gate = f"{prefix}.update_gate"
    hidden = 2 * c // reduction
    shapes |= _attention_shapes(f"{gate}.attention3", c)
    shapes |= _attention_shapes(f"{gate}.attention5", c)
    shapes |= _linear_shapes(f"{gate}.reduce", 2 * c, hidden)
    shapes |= _norm_shapes(f"{gate}.norm", hidden)
    shapes |= _linear_shapes(f"{gate}.expand3", hidden, c)
    shapes |= _linear_shapes(f"{gate}.expand5", hidden, c)
    gate = f"{prefix}.forget_gate"
    hidden = c // reduction
    shapes |= _attention_shapes(f"{gate}.attention", c)
    shapes |= _linear_shapes(f"{gate}.reduce", c, hidden)
    shapes |= _norm_shapes(f"{gate}.norm", hidden)
    shapes |= _linear_shapes(f"{gate}.expand", hidden, c)
    return shapes


def state_shapes(
    depths: tuple[int, ...], growth_rates: tuple[int, ...], stem: str, in_channels: int = 3
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the whole backbone's state dict."""
    shapes = {}
    if stem == "cifar":
        channels = 2 * growth_rates[0]
        shapes["stem.conv.weight"] = (channels, in_channels, 3, 3)
    else:
        channels = in_channels
        for i, width in enumerate((32, 32, 64)):
            shapes[f"stem.{i}.conv.weight"] = (width, channels, 3, 3)
            shapes |= _norm_shapes(f"stem.{i}.norm", width)
            channels = width
    for block, (depth, growth) in enumerate(zip(depths, growth_rates, strict=True)):
        for module in range(depth):
            shapes |= smg_shapes(f"stages.{block}.{module}", channels, growth, **BLOCK)
            channels += growth
        if block < len(depths) - 1:
            reduced = int(TRANSITION["theta"] * channels)
            shapes |= smg_shapes(f"transitions.{block}", channels, reduced, **TRANSITION)
            channels = reduced
    return shapes | _norm_shapes("norm", channels)


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    """A state dict in fp64 in which nothing is neutral: no zero bias, no unit variance.

    A tensor depends on its name and shape alone, so a part of a network gets the same values as
    in the whole. The maps neither grow nor shrink much on their way, so that fp32 stays
    well-conditioned.
    """
    return {key: _random_tensor(key, shape) for key, shape in shapes.items()}


def _random_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        return 1 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    if len(shape) == 1 and key.endswith("weight"):
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    if len(shape) == 1:
        std = 0.3
    else:
        gain = 0.5 if ".attention" in key else 2**0.5
        std = gain / math.prod(shape[1:]) ** 0.5
    return std * torch.randn(shape, generator=generator, dtype=torch.float64)
