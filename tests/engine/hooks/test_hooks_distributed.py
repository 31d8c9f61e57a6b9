"""Two processes: the backbone computes in channels last and the gradients stay the same."""

from types import SimpleNamespace

import pytest
import torch
from helpers.processes import run_processes
from mmengine.model import BaseModel, MMDistributedDataParallel
from torch import Tensor, nn

from mmhcgnet import ChannelsLastHook, HCGNet


class Classifier(BaseModel):
    """A backbone in double precision, its norms frozen, the pooled maps of its outputs, one FC."""

    def __init__(self) -> None:
        super().__init__()
        arch = dict(depths=(1, 2), growth_rates=(8, 8))
        self.backbone = HCGNet(arch, out_indices=(0, 1), norm_eval=True)
        self.fc = nn.Linear(sum(self.backbone.out_channels), 5)
        self.double()

    def forward(self, images: Tensor, labels: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        pooled = torch.cat([x.mean((2, 3)) for x in self.backbone(images)], dim=1)
        return dict(loss=nn.functional.cross_entropy(self.fc(pooled), labels))


def make() -> tuple[Classifier, Tensor, Tensor]:
    """The same weights and the same batch in every process."""
    torch.manual_seed(0)
    model = Classifier().train()
    for parameter in model.parameters():  # nothing neutral, as the gates would be
        nn.init.normal_(parameter, std=0.3)
    return model, torch.randn(4, 3, 64, 80).double(), torch.tensor([0, 3, 1, 4])


def backward(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model(images, labels, mode="loss")["loss"].backward()


def work(rank: int, folder: str) -> None:
    classifier, images, labels = make()
    seen = []
    classifier.backbone.stages[0].register_forward_hook(
        lambda module, inputs, output: seen.append(
            output.is_contiguous(memory_format=torch.channels_last)
        )
    )
    model = MMDistributedDataParallel(classifier, broadcast_buffers=False)
    ChannelsLastHook().before_train(SimpleNamespace(model=model))
    half = slice(2 * rank, 2 * rank + 2)
    # Twice: DDP lays out its buckets anew after the first step.
    for _ in range(2):
        model.zero_grad()
        backward(model, images[half], labels[half])
    gradients = {name: p.grad.contiguous() for name, p in classifier.named_parameters()}
    torch.save(dict(gradients=gradients, seen=seen), f"{folder}/rank{rank}.pth")


@pytest.fixture(scope="module")
def results(warm, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gloo")
    run_processes(warm, work, folder)
    return [torch.load(folder / f"rank{rank}.pth") for rank in range(2)]


def test_gradients_equal_those_of_one_process_without_the_hook(results):
    model, images, labels = make()
    backward(model, images, labels)
    expected = {name: p.grad for name, p in model.named_parameters()}
    for result in results:
        assert result["seen"] == [True, True]
        assert result["gradients"].keys() == expected.keys()
        for name, gradient in result["gradients"].items():
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)
