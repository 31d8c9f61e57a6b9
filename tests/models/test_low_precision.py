"""A trained HCGNet in fp16 and bf16 classifies as in fp32.

Random weights would say little: training is what makes maps large and gates decided.
"""

import copy

import pytest
import torch
from helpers.reference import NETWORKS, make_arch
from torch import nn

from mmhcgnet.models import HCGNet

CLASSES = 4
STEPS = 40
SIZE = 24
# Of the logits, relative to the largest one of an image: 8 and 11 bits of mantissa, 2^-8 and 2^-11,
# over some 30 layers.
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01}


class Classifier(nn.Module):
    """HCGNet, pooled, and one fully connected layer."""

    def __init__(self, name):
        super().__init__()
        self.backbone = HCGNet(make_arch(NETWORKS[name]))
        self.backbone.init_weights()
        self.fc = nn.Linear(self.backbone.out_channels[0], CLASSES)

    def forward(self, images):
        return self.fc(self.backbone(images)[0].mean((2, 3)))


def draw(number, generator):
    """Stripes of four directions under noise."""
    labels = torch.randint(CLASSES, (number,), generator=generator)
    y, x = torch.meshgrid(*[torch.arange(float(SIZE))] * 2, indexing="ij")
    directions = ((1.0, 0.0), (0.0, 1.0), (0.7, 0.7), (0.7, -0.7))
    waves = torch.stack([(a * x + b * y).sin() for a, b in directions])
    noise = 0.5 * torch.randn(number, 3, SIZE, SIZE, generator=generator)
    return waves[labels][:, None] + noise, labels


@pytest.fixture(scope="module", params=["tiny", "tiny-cifar"])
def trained(request):
    """A network that has learnt its task, and images that it has not seen."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Classifier(request.param).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / STEPS)
        images, labels = draw(32, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()
    images, labels = draw(200, generator)
    with torch.no_grad():
        logits = model(images)
    assert (logits.argmax(1) == labels).float().mean() > 0.9
    return model, images, logits


def check(logits, expected, dtype):
    """Logits are close, and no image that is not a toss-up changes its class."""
    assert logits.dtype is dtype and logits.isfinite().all()
    scale = expected.abs().amax(1, keepdim=True)
    errors = (logits.float() - expected).abs() / scale
    assert errors.max() <= TOLERANCE[dtype]
    best, second = expected.topk(2).values.unbind(1)
    decided = (best - second) > 2 * TOLERANCE[dtype] * scale.squeeze(1)
    assert decided.float().mean() > 0.9
    assert torch.equal(logits.argmax(1)[decided], expected.argmax(1)[decided])


def run(trained, dtype, form, device="cpu"):
    model, images, expected = trained
    model, images = copy.deepcopy(model).to(device), images.to(device)
    if form == "deployed":
        model.backbone.switch_to_deploy()
    with torch.no_grad():
        if form == "cast":
            logits = model.to(dtype)(images.to(dtype))
        else:
            with torch.autocast(device, dtype=dtype):
                logits = model(images)
    check(logits.cpu(), expected, dtype)


FORMS = ("autocast", "cast", "deployed")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_trained_network_keeps_its_classes(trained, dtype, form):
    run(trained, dtype, form)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_trained_network_keeps_its_classes_on_gpu(trained, dtype, form):
    run(trained, dtype, form, "cuda")
