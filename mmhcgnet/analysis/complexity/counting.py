"""Parameters and multiply-adds of any model of the MM packages.

PyTorch's ``FlopCounterMode`` counts, on fake tensors: they have no data, and nothing is computed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmhcgnet.config_dicts import type_name
from mmhcgnet.engine.configs import tested_dataset, tested_pipeline
from mmhcgnet.errors import UsageError

_WITH_WEIGHTS = ("convolution", "_convolution", "addmm", "mm")
_DATA_SIZES = dict(CIFAR10=(32, 32), CIFAR100=(32, 32))
_MASKS = 100  # that MMDetection's forward computes, but for its cascades


@dataclasses.dataclass(frozen=True)
class Complexity:
    """What a model or a part of it costs for one image.

    Args:
        params: Parameters, frozen ones included; running statistics do not count.
        multiply_adds: Multiply-adds of convolutions and fully connected layers, what the paper's
            FLOPs are. Biases, norms, activations, pooling and resizing are left out.
        products: Multiply-adds of products between two maps, such as attention.
    """

    params: int
    multiply_adds: int
    products: int


def input_shape(cfg: Config, size: Sequence[int] | None = None) -> tuple[int, int, int]:
    """Find the shape ``(C, H, W)`` of an image for the model of a config.

    Args:
        cfg: The config.
        size: Height and width. Defaults to those of the config's own test: where its pipeline
            keeps the images' proportions, those of the largest image lying down, as most of
            COCO's do; with the padding of the data preprocessor.

    Raises:
        UsageError: If the test pipeline leaves the size open.
    """
    in_channels = cfg.model.get("backbone", {}).get("in_channels", 3)
    if size:
        return in_channels, *size
    size = _DATA_SIZES.get(type_name(tested_dataset(cfg)))
    for transform in tested_pipeline(cfg):
        size = _size_after(transform, size)
    if size is None:
        raise UsageError(
            "The test pipeline of the config does not say how large its images are: give a shape."
        )
    preprocessor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    divisor = preprocessor.get("pad_size_divisor", 1)
    height, width = (-(-side // divisor) * divisor for side in size)
    return in_channels, height, width


def read_size(values: Sequence[int]) -> tuple[int, int]:
    """Read a shape: height and width, or a square's side.

    Raises:
        UsageError: If it is neither.
    """
    if len(values) not in (1, 2) or min(values) < 1:
        raise UsageError(f"A shape is a height and a width in pixels, got {values}.")
    return values[0], values[-1]


def _size_after(transform: dict[str, Any], size: tuple[int, int] | None) -> tuple[int, int] | None:
    name = type_name(transform)
    keys = dict(Resize="scale", ResizeEdge="scale", CenterCrop="crop_size", Pad="size")
    # EfficientNetCenterCrop and its like, too.
    key = next((key for suffix, key in keys.items() if name.endswith(suffix)), None)
    value = transform.get(key)
    if value is None:
        return size
    # Both toolboxes give the width first; with a kept ratio, it is the longer side.
    width, height = (value, value) if isinstance(value, int) else value
    return height, width


def number_of_proposals(model: nn.Module) -> int:
    """How many proposals the second stage of a detector gets at most; 0 without a second stage."""
    if not (hasattr(model, "rpn_head") and hasattr(model, "roi_head")):
        return 0
    # None where the proposals are learnt and always as many.
    return (model.test_cfg.get("rpn") or {}).get("max_per_img", 0)


def count(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, Complexity]:
    """Count the parameters and multiply-adds of a model for one image.

    A detector of two stages gets as many proposals as its RPN may hand on,
    ``test_cfg.rpn.max_per_img`` (COCO: 1000), and MMDetection's own number of 100 for the masks.
    Cascades get these 100 too: a test gives masks to its detections alone (COCO: 100), though the
    forward pass of MMDetection's cascades gives them to all proposals.

    Args:
        model: A classifier, a detector or a backbone. It stays as it is.
        shape: Shape ``(C, H, W)`` of the image.

    Returns:
        The complexity of the whole model by the name ``""`` and that of each of its parts by
        theirs (``"backbone"``, ``"neck"``, …).
    """
    probe, image = _without_data(model, shape)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            operations = _count_operations(probe, mode.from_tensor(image))
    except (NotImplementedError, RuntimeError):
        # A step that needs the data: compute. A true mistake comes up again.
        operations = _count_operations(probe, image)
    params = parameter_count(model)
    return {
        name: Complexity(
            params=params[name],
            multiply_adds=sum(n for op, n in counts.items() if op in _WITH_WEIGHTS),
            products=sum(n for op, n in counts.items() if op not in _WITH_WEIGHTS),
        )
        for name, counts in operations.items()
    }


def _count_operations(probe: nn.Module, image: Tensor) -> dict[str, Counter[str]]:
    """Multiply-adds of each operator in the whole model, ``""``, and in its parts."""
    # What PyTorch counts for the attention of GPUs, for that of CPUs.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        probe(image)
    root = type(probe).__name__
    by_module = {
        f"{name}.": Counter({str(op).rpartition(".")[2]: n // 2 for op, n in counts.items()})
        for name, counts in counter.get_flop_counts().items()
    }
    operations = {"": by_module.get("Global.", Counter())}
    for part, _ in probe.named_children():
        # MMDetection calls the forward of some heads past the module itself; what they call shows.
        inside = [name for name in by_module if name.startswith(f"{root}.{part}.")]
        outermost = [
            name for name in inside if not any(name.startswith(o) for o in inside if o != name)
        ]
        operations[part] = sum((by_module[name] for name in outermost), Counter())
    return operations


def uncounted_layers(model: nn.Module) -> list[str]:
    """Name the layers with weights that are operators of MMCV's own, which no counter knows."""
    layers = {
        type(module).__name__
        for module in model.modules()
        if type(module).__module__.startswith("mmcv.ops") and list(module.parameters(recurse=False))
    }
    return sorted(layers)


def count_by_tracing(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Count all multiply-adds by MMEngine's ``FlopAnalyzer`` instead, which computes.

    Returns:
        What :func:`count` splits into ``multiply_adds`` and ``products``.
    """
    probe, image = _without_data(model, shape)
    analyzer = FlopAnalyzer(probe, (image,))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        operations = analyzer.tracer_warnings("none").by_operator()
    # MMEngine counts norms, pooling and resizing, too.
    names = ("conv", "linear", "addmm", "mm", "matmul", "bmm", "einsum")
    return int(sum(operations[name] for name in names))


def _without_data(model: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, Tensor]:
    """Copy a model into one that takes an image alone and does the same whatever it shows.

    Returns:
        The copy, which shares the weights, and an image.
    """
    # Instead of copies; FlopCounterMode takes none with a gradient where there is no graph.
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    probe = copy.deepcopy(model, shared).eval()
    image = torch.zeros(1, *shape, device=next(model.parameters()).device)
    if not isinstance(probe, BaseModel):
        return probe, image
    size = shape[1:]
    sample = BaseDataElement(
        metainfo=dict(
            ori_shape=size,
            img_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
        ),
        gt_instances=InstanceData(bboxes=image.new_zeros(0, 4), labels=image.new_zeros(0)),
    )
    probe.forward = partial(probe.forward, data_samples=[sample], mode="tensor")
    if number := number_of_proposals(probe):
        all_of_it = image.new_tensor([[0, 0, size[1], size[0]]]).repeat(number, 1)
        probe.rpn_head.predict = partial(propose, probe.rpn_head, [all_of_it])
        if hasattr(probe.roi_head, "_refine_roi") and probe.roi_head.with_mask:  # a cascade
            mask_forward = probe.roi_head._mask_forward
            probe.roi_head._mask_forward = partial(_mask_first, mask_forward, number)
    for module in probe.modules():
        if type(module).__name__ == "SingleRoIExtractor":
            module.forward = partial(_extract_zeros, module)
    return probe, image


def propose(
    rpn_head: nn.Module, proposals: Sequence[Tensor], maps: Sequence[Tensor], *_, **__
) -> list[InstanceData]:
    """Stand in for the ``predict`` of an RPN: do its work and hand on given proposals.

    Args:
        rpn_head: The RPN.
        proposals: Boxes for each image, ``(P, 4)`` as ``(x1, y1, x2, y2)`` in pixels.
        maps: What the RPN reads.
    """
    scores, deltas = rpn_head(maps)
    nothing = _nothing_of(*scores, *deltas)
    return [InstanceData(bboxes=boxes + nothing) for boxes in proposals]


def _mask_first(mask_forward: Callable[..., dict], number: int, *args, **kwargs) -> dict:
    """Compute the masks of the first of ``number`` proposals, with zeros in place of the others."""

    def first(value: Any) -> Any:
        return value[:_MASKS] if isinstance(value, Tensor) and len(value) == number else value

    def fill(masks: Tensor) -> Tensor:
        return torch.cat([masks, masks.new_zeros(number - len(masks), *masks.shape[1:])])

    results = mask_forward(*map(first, args), **{key: first(v) for key, v in kwargs.items()})
    masks = results["mask_preds"]
    filled = fill(masks) if isinstance(masks, Tensor) else [fill(each) for each in masks]
    return results | dict(mask_preds=filled)


def _extract_zeros(extractor: nn.Module, maps: Sequence[Tensor], rois: Tensor, *_, **__) -> Tensor:
    size = extractor.roi_layers[0].output_size
    zeros = maps[0].new_zeros(len(rois), extractor.out_channels, *size)
    return zeros + _nothing_of(*maps, rois)


def _nothing_of(*tensors: Tensor) -> Tensor:
    """Zero that depends on all ``tensors``: a trace leaves out what nobody reads."""
    return sum(tensor.sum() for tensor in tensors) * 0
