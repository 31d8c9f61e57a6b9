"""Two processes: gradients in channels last, and validations with the statistics that are saved."""

import os
from types import SimpleNamespace

import pytest
import torch
from helpers.processes import run_processes
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmhcgnet import ChannelsLastHook, HCGNet
from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from mmhcgnet.engine.hooks.same_buffers_hook import SameBuffersHook
from mmhcgnet.engine.runner.loops import ResumableEpochLoop


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


class Norm(BaseModel):
    """A plain batch norm; what it predicts depends on its running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.fc = nn.Linear(1, 1)

    def forward(self, inputs: list[Tensor], mode: str = "tensor") -> dict[str, Tensor] | list:
        out = self.fc(self.norm(torch.stack(inputs)))
        return dict(loss=out.square().mean()) if mode == "loss" else [*out]


class Mean(BaseMetric):
    """The mean of all predictions."""

    def process(self, data_batch: dict, data_samples: list[Tensor]) -> None:
        self.results += [sample.item() for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(mean=sum(results) / len(results))


def validate_plain_norms(rank: int, folder: str) -> None:
    """Train with the hook and without it; note the logged metric and each rank's statistics."""
    data = [dict(inputs=torch.tensor([float(number) ** 2])) for number in range(8)]
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=Squares(data),
    )
    os.environ["LOCAL_RANK"] = str(rank)
    for hook in (None, SameBuffersHook()):
        name, seen = f"{folder}/{hook is not None}", []
        torch.manual_seed(0)
        runner = Runner(
            model=Norm(),
            work_dir=name,
            train_dataloader=loader,
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=[Mean()],
            train_cfg=dict(type=ResumableEpochLoop, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            default_hooks=dict(checkpoint=dict(type=SafeCheckpointHook, interval=1)),
            custom_hooks=[hook] if hook else [],
            randomness=dict(seed=0),
            launcher="pytorch",
            cfg=dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)),
            experiment_name=f"{name}-{rank}",
            log_level="WARNING",
        )
        model = runner.model.module
        hub = runner.message_hub

        def note(norm: nn.Module, inputs: object, seen: list = seen) -> None:
            if not norm.training:
                seen.append(norm.running_mean.clone())

        model.norm.register_forward_pre_hook(note)
        runner.train()
        logged = float(hub.get_scalar("val/mean").current())
        torch.save(dict(seen=seen[-1], logged=logged), f"{name}.{rank}.pth")


class Squares(Dataset):
    def __init__(self, data: list[dict]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        return self.data[index]


def test_all_validate_with_the_statistics_that_are_saved(warm, tmp_path):
    run_processes(warm, validate_plain_norms, tmp_path)

    def found(hook):
        ranks = [torch.load(tmp_path / f"{hook}.{rank}.pth") for rank in range(2)]
        model = Norm().eval()
        model.load_state_dict(read_checkpoint(f"{tmp_path}/{hook}/epoch_2.pth")["state_dict"])
        inputs = [torch.tensor([float(number) ** 2]) for number in range(8)]
        return ranks, model.norm.running_mean, torch.stack(model(inputs)).mean().item()

    ranks, saved, mean = found(True)
    assert all(torch.equal(rank["seen"], saved) for rank in ranks)
    assert ranks[0]["logged"] == pytest.approx(mean, rel=1e-5)
    ranks, saved, mean = found(False)  # what the hook is there for
    assert not torch.equal(ranks[1]["seen"], saved)
    assert ranks[0]["logged"] != pytest.approx(mean, rel=1e-3)
