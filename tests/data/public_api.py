"""How the package is used, for mypy: `make types` checks that every type here is known."""

from typing import Any

import numpy as np
from mmengine.config import Config
from torch import Tensor, nn
from typing_extensions import assert_type

import mmhcgnet
from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.engine import build_model, load_config, load_model, switch_to_deploy
from mmhcgnet.engine.inference import TorchPredictor
from mmhcgnet_runtime import Predictor, draw

network = mmhcgnet.HCGNet(arch="B", out_indices=(0, 1, 2, 3))
assert_type(network.forward(Tensor()), tuple[Tensor, ...])
assert_type(network.form, str)
network.switch_to_deploy()

cfg = load_config("config.py")
assert_type(cfg, Config)
assert_type(build_model(cfg), nn.Module)
assert_type(load_model(cfg, "checkpoint.pth", device="cpu"), nn.Module)
switch_to_deploy(build_model(cfg))
adapted, report = mmhcgnet.adapt_config(cfg, arch="B")
assert_type(adapted, Config)

checkpoint = Checkpoint.open("checkpoint.pth")
assert_type(checkpoint.weights, dict[str, Tensor])
assert_type(checkpoint.classes, list[str])
assert_type(checkpoint.iteration, int | None)

image = np.zeros((8, 8, 3), np.uint8)
predictor = Predictor("model.onnx")
result: dict[str, Any] = predictor(image)
assert_type(predictor.classes, list[str])
drawn: np.ndarray = draw(image, result, predictor.classes, threshold=0.3)
TorchPredictor(cfg, "checkpoint.pth", device="cuda")([image, image], batch_size=2)
