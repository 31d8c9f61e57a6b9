"""The authors' networks in their own layouts, for the tests of the converters to compare against.

Names and shapes are written down from facts about the released checkpoints, the forward pass from
the paper's equations. Nothing here comes from ``mmhcgnet``: what is shared with ``reference.py`` is
norm, attention pooling and random numbers.
"""

import torch
import torch.nn.functional as F
from helpers.reference import ARCHS, BLOCK, TRANSITION, Reference, State, random_state
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

DETECTOR_CLASSES = 81  # of COCO, with the background as the first one


def norm_shapes(name: str, channels: int) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{name}.{vector}": (channels,) for vector in vectors}
    return shapes | {f"{name}.num_batches_tracked": ()}


def with_bias(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def smg_shapes(name: str, norm: str, c_in: int, c: int, constants: dict) -> Shapes:
    """One SMG module, in the order of the authors' files; ``norm`` precedes a convolution."""
    squeeze, r = int(constants["alpha"] * c), constants["reduction"]
    return {
        **norm_shapes(f"{name}.conv1_1x1.{norm}", c_in),
        f"{name}.conv1_1x1.conv.weight": (squeeze, c_in, 1, 1),
        **norm_shapes(f"{name}.conv2_3x3.{norm}", squeeze),
        f"{name}.conv2_3x3.conv.weight": (c, squeeze // constants["groups"], 3, 3),
        **norm_shapes(f"{name}.conv_3x3.{norm}", c),
        f"{name}.conv_3x3.conv.weight": (c, 1, 3, 3),
        **norm_shapes(f"{name}.conv_5x5.{norm}", c),
        f"{name}.conv_5x5.conv.weight": (c, 1, 3, 3),
        **with_bias(f"{name}.global_context3x3", 1, c, 1, 1),
        **with_bias(f"{name}.global_context5x5", 1, c, 1, 1),
        **with_bias(f"{name}.fcall", 2 * c // r, 2 * c, 1, 1),
        **norm_shapes(f"{name}.bn_attention", 2 * c // r),
        **with_bias(f"{name}.fc3x3", c, 2 * c // r, 1, 1),
        **with_bias(f"{name}.fc5x5", c, 2 * c // r, 1, 1),
        **with_bias(f"{name}.global_forget_context", 1, c, 1, 1),
        **norm_shapes(f"{name}.bn_forget", c // r),
        **with_bias(f"{name}.fc1", c // r, c, 1, 1),
        **with_bias(f"{name}.fc2", c, c // r, 1, 1),
    }


def classifier_shapes(arch: str, num_classes: int) -> Shapes:
    """What a classification checkpoint holds, without ``module.``."""
    depths, growth_rates, stem = ARCHS[arch]
    if stem == "cifar":
        block_name, transition_name = "HybridBlock", "Transition"
        channels = 2 * growth_rates[0]
        shapes = {"features.conv0.weight": (channels, 3, 3, 3)}
    else:
        block_name, transition_name = "hybridblock", "transition"
        channels = 64
        shapes = {
            "features.conv0.weight": (32, 3, 3, 3),
            **norm_shapes("features.norm0", 32),
            "features.conv1.weight": (32, 32, 3, 3),
            **norm_shapes("features.norm1", 32),
            "features.conv2.weight": (64, 32, 3, 3),
            **norm_shapes("features.norm2", 64),
        }
    for b, (depth, k) in enumerate(zip(depths, growth_rates, strict=True), start=1):
        for m in range(1, depth + 1):
            name = f"features.{block_name}{b}.SMG{m}"
            shapes |= smg_shapes(name, "norm", channels, k, BLOCK)
            channels += k
        if b < len(depths):
            name = f"features.{transition_name}{b}"
            shapes |= smg_shapes(name, "norm", channels, channels // 2, TRANSITION)
            channels //= 2
    shapes |= norm_shapes("features.norm5", channels)
    return shapes | with_bias("classifier", num_classes, channels)


def detector_shapes(arch: str) -> Shapes:
    """What a checkpoint of Mask R-CNN with FPN in MMDetection 1.x holds."""
    depths, growth_rates, _ = ARCHS[arch]
    shapes, channels = {}, 3
    for i, stem in enumerate((32, 32, 64)):
        shapes[f"backbone.stem{i}.conv.weight"] = (stem, channels, 3, 3)
        shapes |= norm_shapes(f"backbone.stem{i}.bn1", stem)
        channels = stem
    for b, (depth, k) in enumerate(zip(depths, growth_rates, strict=True), start=1):
        if b > 1:
            name = f"backbone.transition{b}"
            shapes |= smg_shapes(name, "bn1", channels, channels // 2, TRANSITION)
            channels //= 2
        for m in range(depth):
            name = f"backbone.hybridblock{b}.{m}"
            shapes |= smg_shapes(name, "bn1", channels, k, BLOCK)
            channels += k
        shapes |= with_bias(f"neck.lateral_convs.{b - 1}.conv", 256, channels, 1, 1)
        shapes |= with_bias(f"neck.fpn_convs.{b - 1}.conv", 256, 256, 3, 3)
    shapes |= norm_shapes("backbone.bn1", channels)
    shapes |= with_bias("rpn_head.rpn_conv", 256, 256, 3, 3)
    shapes |= with_bias("rpn_head.rpn_cls", 3, 256, 1, 1)
    shapes |= with_bias("rpn_head.rpn_reg", 12, 256, 1, 1)
    shapes |= with_bias("bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    shapes |= with_bias("bbox_head.shared_fcs.1", 1024, 1024)
    shapes |= with_bias("bbox_head.fc_cls", DETECTOR_CLASSES, 1024)
    shapes |= with_bias("bbox_head.fc_reg", 4 * DETECTOR_CLASSES, 1024)
    for i in range(4):
        shapes |= with_bias(f"mask_head.convs.{i}.conv", 256, 256, 3, 3)
    shapes |= with_bias("mask_head.upsample", 256, 256, 2, 2)
    return shapes | with_bias("mask_head.conv_logits", DETECTOR_CLASSES, 256, 1, 1)


def zero_weights(shapes: Shapes, device: str = "cpu") -> State:
    """Zeros of the types that PyTorch saves."""
    counts = {name for name in shapes if name.endswith("num_batches_tracked")}
    return {
        name: torch.zeros(
            shape, device=device, dtype=torch.int64 if name in counts else torch.float32
        )
        for name, shape in shapes.items()
    }


def random_weights(shapes: Shapes) -> State:
    """Random fp32 weights and statistics, with attention that is not too peaked for fp32."""
    state = random_state(shapes)
    for name in state:
        if "context" in name:
            state[name] = state[name] / 3
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


class _Official(Reference):
    """What both layouts share; ``Reference`` gives ``norm`` and ``attention_pool``."""

    def __init__(self, state: State, cell_norm: str) -> None:
        super().__init__({k: v.double() for k, v in state.items()})
        self.cell_norm = cell_norm

    def fc(self, name: str, z: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.conv2d(z[:, :, None, None], weight, bias).flatten(1)

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], **options)

    def bn_relu(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.norm(name, x))

    def cell(self, name: str, x: Tensor, **options: int) -> Tensor:
        x = self.bn_relu(f"{name}.{self.cell_norm}", x)
        return self.conv(f"{name}.conv", x, **options)

    def smg(self, name: str, x: Tensor, groups: int, stride: int) -> Tensor:
        x = self.cell(f"{name}.conv1_1x1", x)
        x = self.cell(f"{name}.conv2_3x3", x, groups=groups, stride=stride, padding=1)
        c = x.shape[1]
        x3 = self.cell(f"{name}.conv_3x3", x, groups=c, padding=1)
        x5 = self.cell(f"{name}.conv_5x5", x, groups=c, padding=2, dilation=2)
        z3 = self.attention_pool(f"{name}.global_context3x3", x3)
        z5 = self.attention_pool(f"{name}.global_context5x5", x5)
        h = self.fc(f"{name}.fcall", torch.cat([z3, z5], dim=1))
        h = torch.tanh(self.norm(f"{name}.bn_attention", h))
        e3, e5 = self.fc(f"{name}.fc3x3", h).exp(), self.fc(f"{name}.fc5x5", h).exp()
        v = (e3 * z3 + e5 * z5) / (e3 + e5)
        z = self.attention_pool(f"{name}.global_forget_context", x)
        h = torch.tanh(self.norm(f"{name}.bn_forget", self.fc(f"{name}.fc1", z)))
        f = torch.sigmoid(self.fc(f"{name}.fc2", h))
        return f[:, :, None, None] * x + v[:, :, None, None]

    def block(self, names: list[str], x: Tensor) -> Tensor:
        for name in names:
            new = self.smg(name, x, groups=BLOCK["groups"], stride=1)
            x = torch.cat([x, new], dim=1)
        return x

    def transition(self, name: str, x: Tensor) -> Tensor:
        return self.smg(name, x, groups=1, stride=2)


class OfficialClassifier(_Official):
    """Logits ``(N, K)`` of images ``(N, 3, H, W)``."""

    def __init__(self, arch: str, state: State) -> None:
        super().__init__(state, cell_norm="norm")
        self.depths, _, self.stem_name = ARCHS[arch]

    def __call__(self, x: Tensor) -> Tensor:
        if self.stem_name == "cifar":
            block, transition = "features.HybridBlock{}.SMG{}", "features.Transition{}"
            x = self.conv("features.conv0", x, padding=1)
        else:
            block, transition = "features.hybridblock{}.SMG{}", "features.transition{}"
            for i, stride in enumerate((2, 1, 1)):
                x = self.conv(f"features.conv{i}", x, stride=stride, padding=1)
                x = self.bn_relu(f"features.norm{i}", x)
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for b, depth in enumerate(self.depths, start=1):
            x = self.block([block.format(b, m) for m in range(1, depth + 1)], x)
            if b < len(self.depths):
                x = self.transition(transition.format(b), x)
        x = self.bn_relu("features.norm5", x).mean(dim=(2, 3))
        return x @ self.state["classifier.weight"].t() + self.state["classifier.bias"]


class OfficialDetectionBackbone(_Official):
    """The activated maps of the four stages."""

    def __init__(self, arch: str, state: State) -> None:
        super().__init__(state, cell_norm="bn1")
        self.depths = ARCHS[arch][0]

    def __call__(self, x: Tensor) -> list[Tensor]:
        for i, stride in enumerate((2, 1, 1)):
            x = self.conv(f"backbone.stem{i}.conv", x, stride=stride, padding=1)
            x = self.bn_relu(f"backbone.stem{i}.bn1", x)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for b, depth in enumerate(self.depths, start=1):
            x = self.block([f"backbone.hybridblock{b}.{m}" for m in range(depth)], x)
            if b < len(self.depths):
                following = f"backbone.transition{b + 1}"
                maps.append(self.bn_relu(f"{following}.conv1_1x1.bn1", x))
                x = self.transition(following, x)
        return [*maps, self.bn_relu("backbone.bn1", x)]
