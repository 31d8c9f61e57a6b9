"""Models by name, and what a benchmark lets them compute.

A model is named ``NAME[:WORD ...]``. The name is one of

* ``hcgnet-a1`` … ``hcgnet-c``, the backbones;
* ``torchvision:resnet50``, a classifier of torchvision;
* ``mmdet.ResNet``, a backbone by the type that a config gives it;
* a config file, also one of another package (``mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py``).

A word is ``KEY=VALUE``, an argument of the model or a setting of the config, or one of these:
``plain``, HCGNet trained layer by layer; ``with_cp``, recomputing in the backward pass;
``nchw``, in PyTorch's default memory format; ``deploy``, folded for inference; ``compile``, by
``torch.compile`` without a graph break;
``backbone``, that of a config alone; ``onnxruntime`` or ``openvino``, exported and run there: of a
detector with all from bytes to masks, of others what the network itself does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmhcgnet.analysis.complexity.counting import number_of_proposals, propose
from mmhcgnet.engine.configs import (
    CONFIG_SUFFIXES,
    check_sections,
    load_config,
    ops_lack_the_gpu,
    parse_options,
)
from mmhcgnet.engine.deploy import switch_to_deploy
from mmhcgnet.engine.export import export_model, export_network, write_model
from mmhcgnet.engine.hooks.channels_last_hook import ChannelsLastHook
from mmhcgnet.engine.models import build_model, explain_misspelt_types, is_detector
from mmhcgnet.errors import UsageError, did_you_mean
from mmhcgnet.models import ARCHITECTURES, HCGNet
from mmhcgnet.paths import shipped_configs
from mmhcgnet_runtime import RuntimeFileError, open_engine
from mmhcgnet_runtime.engines import ENGINES

FORMS = ("backbone", "plain", "with_cp", "nchw", "deploy", "compile", *ENGINES)
# Objects in each image of a detector's batch; COCO has 7 on average.
NUM_OBJECTS = 7


def build(name: str) -> nn.Module:
    """Build a model by its name, with random weights.

    Raises:
        UsageError: If the model does not exist, or not in this form.
    """
    base, *words = _split(name)
    if base == "torchvision":
        base = f"torchvision:{words.pop(0)}" if words else base
    forms = [word for word in words if "=" not in word]
    arguments = [word for word in words if "=" in word]
    for form in forms:
        if form not in FORMS:
            hint = did_you_mean(form, FORMS)
            raise UsageError(
                f"{name} has the unknown word {form!r}{hint}: give {', '.join(FORMS)} or KEY=VALUE."
            )
    torch.manual_seed(0)
    model = _build(name, base, arguments, forms)
    if "plain" in forms:
        networks = [part for part in model.modules() if isinstance(part, HCGNet)]
        if not networks:
            raise UsageError(f"{name}: only HCGNet has a plain form; leave the word out.")
        for network in networks:
            network.plain = True
    if "deploy" in forms:
        switch_to_deploy(model)
    if "compile" in forms:
        if is_detector(model):
            raise UsageError(f"{name}: detectors do not compile in one graph; add :backbone.")
        model.compile(fullgraph=True, dynamic=False)
    engines = [form for form in forms if form in ENGINES]
    if engines and ("compile" in forms or len(engines) > 1):
        raise UsageError(f"{name}: one engine or compiler runs a model; leave the others out.")
    return InEngine(model, *engines) if engines else model


def _split(name: str) -> list[str]:
    # Not at the two colons in front of a path inside a package.
    return re.split("(?<!:):(?!:)", name)


def _build(name: str, base: str, arguments: list[str], forms: list[str]) -> nn.Module:
    is_config = base.endswith(CONFIG_SUFFIXES) or base in shipped_configs()
    if "backbone" in forms and not is_config:
        raise UsageError(f"{name}: only a config has a backbone; leave the word out.")
    if is_config:
        if "with_cp" in forms:
            arguments = [*arguments, "model.backbone.with_cp=True"]
        cfg = load_config(base, arguments)
        check_sections(cfg, "model")
        with explain_misspelt_types():
            model = build_model(cfg)
        return model.backbone if "backbone" in forms else model

    options = parse_options(arguments)
    if "with_cp" in forms:
        options["with_cp"] = True
    try:
        if base.startswith("torchvision:"):
            return _build_torchvision(base.partition(":")[2], options)
        kind = base
        if base.startswith("hcgnet-"):
            arch = base.partition("-")[2].upper()
            if arch not in ARCHITECTURES:
                known = ", ".join(f"hcgnet-{arch.lower()}" for arch in ARCHITECTURES)
                raise UsageError(f"There is no {base}: choose one of {known}.")
            kind, options = "mmhcgnet.HCGNet", dict(arch=arch) | options
        elif not re.fullmatch(r"\w+(\.\w+)+", base):
            raise UsageError(
                f"There is no model {base!r}: give hcgnet-b, torchvision:resnet50, a backbone's "
                "type such as mmdet.ResNet, or a config, as a file or by its name."
            )
        cfg = Config(dict(model=dict(type=kind)))
        cfg.merge_from_dict({f"model.{key}": value for key, value in options.items()})
        with explain_misspelt_types():
            return build_model(cfg)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:  # arguments that do not fit
        raise UsageError(f"{name} cannot be built: {' '.join(map(str, error.args))}") from error


def _build_torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    if find_spec("torchvision") is None:
        raise UsageError(f"torchvision:{name} needs torchvision: pip install torchvision")
    from torchvision import models

    classifiers = models.list_models(module=models)  # its detectors would download a backbone
    if name not in classifiers:
        raise UsageError(
            f"torchvision has no classifier {name!r}{did_you_mean(name, classifiers)}."
        )
    return models.get_model(name, weights=None, **options)


class InEngine(nn.Module):
    """A model that an engine is to run.

    Args:
        model: The model.
        engine: ``'onnxruntime'`` or ``'openvino'``.
    """

    def __init__(self, model: nn.Module, engine: str) -> None:
        super().__init__()
        self.model, self.engine = model, engine

    def prepare(self, batch_size: int, size: tuple[int, int]) -> Callable[[], Any]:
        """Export the model, which is used up, and return what runs it once on a batch of noise.

        Raises:
            UsageError: If a package is not installed, or the model cannot be exported.
        """
        model = self.model.eval()
        generator = np.random.default_rng(0)
        if is_detector(model):
            if hasattr(model, "roi_head"):  # masks of as many objects as in PyTorch
                model.roi_head.test_cfg.score_thr = 0.0
            exported = export_model(model)
            divisor = exported.facts["pad_divisor"]
            padded = (-(-side // divisor) * divisor for side in size)
            images = generator.integers(0, 256, (batch_size, *padded, 3), dtype=np.uint8)
            inputs = dict(images=images, sizes=np.array([size] * batch_size))
        else:
            exported = export_network(model)
            inputs = dict(images=generator.normal(size=(batch_size, 3, *size)).astype(np.float32))
        with TemporaryDirectory() as folder:
            format, suffix = ("openvino", "xml") if self.engine == "openvino" else ("onnx", "onnx")
            path = os.path.join(folder, f"model.{suffix}")
            write_model(exported, path, {}, format)
            try:
                shapes = {name: value.shape for name, value in inputs.items()}
                run = open_engine(path, self.engine, torch.get_num_threads(), shapes)
            except RuntimeFileError as error:
                raise UsageError(str(error)) from error
        return partial(run, inputs)


class Workload:
    """A model and a batch; a call does the work once.

    A detector of two stages gets the same proposals whatever its weights, and its RPN does its own
    work nonetheless, in training up to NMS; in a forward pass, MMDetection hands 100 of a batch's
    proposals to the mask head. Of a detector, the backbone alone is converted to channels last.

    Args:
        name: Name of the model, for messages.
        model: A classifier, a detector, a backbone or any other network that takes images.
        task: ``'forward'``, in eval mode without gradients; or ``'train'``, forward and backward
            pass in training mode, from the losses of a detector or else the mean of all outputs.
        batch_size: Images in the batch.
        size: Height and width of the images in pixels; detectors pad them as their config says.
        device: Where to compute.
        channels_last: Let convolutions compute in that memory format, without the word ``nchw``.

    Raises:
        UsageError: If there is nothing to train, MMCV's ops do not exist for the device, or an
            engine cannot run the model.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        task: str,
        batch_size: int,
        size: tuple[int, int],
        device: str = "cpu",
        channels_last: bool = True,
    ) -> None:
        self.trains = task == "train"
        self.batch_size = batch_size
        channels_last = channels_last and "nchw" not in _split(name)
        if isinstance(model, InEngine):
            if self.trains or device != "cpu":
                raise UsageError(f"{name}: engines run forward passes on a CPU alone.")
            self.model, self.compiled = model, True
            self.compute = model.prepare(batch_size, size)
            return
        self.compiled = model._compiled_call_impl is not None
        self.model = model.to(device).train(self.trains)
        if self.trains and not any(p.requires_grad for p in model.parameters()):
            raise UsageError(f"{name} has nothing to train: measure its forward pass alone.")
        torch.manual_seed(0)
        if is_detector(model):
            if device != "cpu" and ops_lack_the_gpu():
                raise UsageError(
                    f"{name}: MMCV's ops were compiled without CUDA: use the device cpu."
                )
            if channels_last:
                ChannelsLastHook().before_test(SimpleNamespace(model=model))
            self.compute = _detect(model, self.trains, batch_size, size, device)
            return
        # The first convolution shows the channels of an image.
        channels = next((p.shape[1] for p in model.parameters() if p.dim() == 4), 3)
        images = torch.randn(batch_size, channels, *size, device=device)
        if channels_last:
            model.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        forward = partial(model, mode="tensor") if isinstance(model, BaseModel) else model
        self.compute = (
            partial(_mean_of, forward, images) if self.trains else partial(forward, images)
        )

    def __call__(self) -> None:
        """Do the work once."""
        if not self.trains:
            with torch.no_grad():  # as MMEngine tests
                self.compute()
            return
        self.model.zero_grad(set_to_none=True)
        self.compute().backward()


def _mean_of(forward: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    first, *others = (output.mean() for output in tree_leaves(forward(images)))
    return sum(others, first)


def _detect(
    model: nn.Module, trains: bool, batch_size: int, size: tuple[int, int], device: str
) -> Callable[[], Any]:
    from mmdet.testing import demo_mm_inputs

    data = demo_mm_inputs(
        batch_size, (3, *size), [NUM_OBJECTS] * batch_size, with_mask=True, device=device
    )
    for sample in data["data_samples"]:
        sample.gt_instances.labels.zero_()  # a class that every detector has
        del sample.ignored_instances
    data = model.data_preprocessor(data, trains)
    if number := number_of_proposals(model):
        proposals = [
            _proposals(sample.gt_instances.bboxes, number, size) for sample in data["data_samples"]
        ]
        rpn = model.rpn_head
        rpn.predict = partial(propose, rpn, proposals)
        rpn.loss_and_predict = partial(_loss_and_propose, rpn, proposals)
    if not trains:
        return partial(model, **data, mode="tensor")
    return lambda: model.parse_losses(model(**data, mode="loss"))[0]


def _proposals(objects: Tensor, number: int, size: tuple[int, int]) -> Tensor:
    """Draw boxes: a quarter near the objects, the others anywhere and of any size.

    Args:
        objects: Boxes of the objects, ``(G, 4)`` as ``(x1, y1, x2, y2)`` in pixels.
        number: How many to draw.
        size: Height and width of the image in pixels.

    Returns:
        Boxes ``(number, 4)`` inside the image, the same in every call.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    # Each corner moves by up to a tenth of the side, which keeps more than half in common.
    near = objects.cpu().repeat(-(-number // 4 // len(objects)), 1)[: number // 4]
    sides = (near[:, 2:] - near[:, :2]).repeat(1, 2)
    near = near + (torch.rand(near.shape, generator=generator) - 0.5) * 0.2 * sides
    others = number - len(near)
    centres = torch.rand(others, 2, generator=generator) * torch.tensor([width, height])
    sides = 16 * (max(size) / 16) ** torch.rand(others, 2, generator=generator)
    boxes = torch.cat([near, torch.cat([centres - sides / 2, centres + sides / 2], dim=1)])
    boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    return boxes.to(objects.device)


def _loss_and_propose(
    rpn: nn.Module, proposals: list[Tensor], *args, **kwargs
) -> tuple[dict, list[InstanceData]]:
    losses, _ = type(rpn).loss_and_predict(rpn, *args, **kwargs)
    return losses, [InstanceData(bboxes=boxes) for boxes in proposals]
