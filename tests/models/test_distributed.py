"""Two processes: what DDP needs of the backbone."""

import pytest
import torch
from helpers.processes import run_processes
from helpers.reference import TINY, make_arch, random_state
from packaging.version import Version
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from mmhcgnet.models import HCGNet

CLASSES = 5


class Classifier(nn.Module):
    """Backbone, the pooled maps of all its outputs, one FC."""

    def __init__(self, **kwargs) -> None:
        super().__init__()
        self.backbone = HCGNet(arch=make_arch(TINY), **kwargs)
        self.fc = nn.Linear(sum(self.backbone.out_channels), CLASSES)
        shapes = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        self.load_state_dict(random_state(shapes))

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(torch.cat([out.mean((2, 3)) for out in self.backbone(image)], dim=1))


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 80, generator=generator, dtype=torch.float64)
    return images, torch.tensor([0, 3, 1, 4])


def backward(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return {key: parameter.grad.clone() for key, parameter in inner.named_parameters()}


def work(rank: int, folder: str) -> None:
    images, labels = (part[2 * rank : 2 * rank + 2] for part in make_batch())
    results = {}

    frozen_statistics = Classifier(norm_eval=True).double().train()
    results["gradients"] = backward(
        DistributedDataParallel(frozen_statistics, broadcast_buffers=False), images, labels
    )

    # DDP refuses the second step if a parameter took no part in the first.
    for out_indices in ((0, 1, 2, 3), (0, 1)):
        model = Classifier(out_indices=out_indices, frozen_stages=0, with_cp=rank == 0).double()
        model = DistributedDataParallel(model.train(), broadcast_buffers=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        results[out_indices] = dict(model.module.named_parameters())

    torch.save(results, f"{folder}/rank{rank}.pth")


@pytest.fixture(scope="module")
def results(warm, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gloo")
    run_processes(warm, work, folder)
    return [torch.load(folder / f"rank{rank}.pth") for rank in range(2)]


def test_gradients_equal_those_of_one_process_with_the_double_batch(results):
    expected = backward(Classifier(norm_eval=True).double().train(), *make_batch())
    for key, gradient in results[0]["gradients"].items():
        assert torch.equal(gradient, results[1]["gradients"][key]), key
        torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0, 1)])
def test_parameters_stay_equal_on_both_ranks(results, out_indices):
    first, second = (result[out_indices] for result in results)
    start = dict(Classifier(out_indices=out_indices).double().named_parameters())
    for key, parameter in first.items():
        assert torch.equal(parameter, second[key]), key
    moved = {key for key in first if not torch.equal(first[key], start[key])}
    assert {"fc.weight", "backbone.stages.0.0.update_gate.reduce.weight"} <= moved
    assert not any(key.startswith("backbone.stem.") for key in moved)


def work_sharded(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard  # new in PyTorch 2.6

    mesh = init_device_mesh("cpu", (1,))
    model = Classifier().double().train()
    network = model.backbone
    for module in [*(m for block in network.stages for m in block), *network.transitions]:
        fully_shard(module.squeeze1, mesh=mesh)
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert network.form == "plain"
    gradients = backward(model, *make_batch())
    torch.save({k: g.full_tensor() for k, g in gradients.items()}, f"{folder}/sharded.pth")


@pytest.mark.skipif(Version(torch.__version__) < Version("2.6"), reason="no FSDP by module")
def test_every_module_can_be_sharded_by_itself(warm, tmp_path):
    """FSDP has a module's parameters whole while it is called, and only then."""
    run_processes(warm, work_sharded, tmp_path, count=1)
    expected = backward(Classifier().double().train(), *make_batch())
    for key, gradient in torch.load(tmp_path / "sharded.pth").items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-8, atol=1e-10, msg=key)


def work_on_gpus(rank: int, folder: str) -> None:
    torch.cuda.set_device(rank)
    # SyncBN over two processes makes a batch of one on each of them possible.
    model = Classifier(norm_cfg=dict(type="SyncBN")).to(rank).train()
    model = DistributedDataParallel(model, device_ids=[rank])
    images, labels = (part[rank : rank + 1].to(rank) for part in make_batch())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images.float()), labels).backward()
        optimizer.step()
    torch.save({k: v.cpu() for k, v in model.module.state_dict().items()}, f"{folder}/{rank}.pth")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_sync_bn_over_two_gpus(warm, tmp_path):
    run_processes(warm, work_on_gpus, tmp_path, backend="nccl")
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    for key, value in first.items():
        assert value.isfinite().all(), key
        assert torch.equal(value, second[key]), key
