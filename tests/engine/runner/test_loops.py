import inspect
import logging
from contextlib import nullcontext
from itertools import count

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmhcgnet import HCGNet
from mmhcgnet.checkpoints import use_safe_loader
from mmhcgnet.engine.runner.loops import ResumableEpochLoop, ResumableIterLoop
from mmhcgnet.errors import UsageError

_number = count()
EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=3)
ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=8)
# Ours by the names that configs give them.
OURS = dict(
    EpochBasedTrainLoop="mmhcgnet.ResumableEpochLoop",
    IterBasedTrainLoop="mmhcgnet.ResumableIterLoop",
)


class Numbers(Dataset):
    """The numbers from 0, and a note of those that were loaded."""

    def __init__(self, length=10):
        self.length, self.loaded, self.pipeline = length, [], 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.loaded.append(index)
        return dict(inputs=torch.tensor([float(index), self.pipeline]))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.fc(inputs).mean() ** 2)


class Note(Hook):
    """The batches, by their numbers, and which of them stops the run."""

    priority = "LOWEST"

    def __init__(self, stop=None):
        self.order, self.pipelines, self.stop = {}, [], stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        numbers, pipelines = data_batch["inputs"].unbind(1)
        self.order[batch_idx, runner.iter] = numbers.int().tolist()
        self.pipelines.append(pipelines[0].item())
        if runner.iter + 1 == self.stop:
            meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
            runner.save_checkpoint(runner.work_dir, "stopped.pth", meta=meta)
            raise KeyboardInterrupt


def build(folder, loop, ours=True, stop=None, resume=False, hooks=(), loader=None, seed=5, **more):
    loop = dict(loop, type=OURS[loop["type"]]) if ours else loop
    sampler = "InfiniteSampler" if "max_iters" in loop else "DefaultSampler"
    config = dict(
        dataset=Numbers(),
        batch_size=3,
        num_workers=0,
        sampler=dict(type=sampler, shuffle=True),
        collate_fn=dict(type="default_collate"),
        **more,
    )
    runner = Runner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=config if loader is None else loader,
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[note := Note(stop), *hooks],
        randomness=dict(seed=seed),
        load_from=str(folder / "stopped.pth") if resume else None,
        resume=resume,
        experiment_name=f"loop{next(_number)}",
        log_level="INFO",
    )
    runner.note = note
    return runner


def stop_and_resume(folder, loop, stop, first=None, second=None):
    """Train to iteration ``stop`` and resume; return both runners."""
    runner = build(folder, loop, stop=stop, **(first or {}))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    resumed = build(folder, loop, resume=True, **(second or {}))
    resumed.train()
    return runner, resumed


@pytest.fixture(autouse=True)
def _safe_loader():
    """Upstream MMEngine cannot load its own checkpoints in PyTorch 2.6 and newer."""
    use_safe_loader()


@pytest.fixture
def warnings(monkeypatch):
    """What is logged as a warning, whichever logger is the current one."""
    found = []

    def note(message, logger=None, level=logging.INFO):
        if level >= logging.WARNING:
            found.append(message)

    monkeypatch.setattr("mmhcgnet.engine.runner.loops.print_log", note)
    return found


@pytest.mark.parametrize("loop", [EPOCHS, ITERATIONS], ids=["epochs", "iterations"])
def test_the_batches_are_those_of_mmengine(tmp_path, loop):
    runners = [build(tmp_path, loop, ours) for ours in (False, True)]
    for runner in runners:
        runner.train()
    expected, found = (runner.note.order for runner in runners)
    assert found == expected and len(found) == (12 if loop is EPOCHS else 8)


@pytest.mark.parametrize("loop", [EPOCHS, ITERATIONS], ids=["epochs", "iterations"])
@pytest.mark.parametrize("seed", [5, 6, None])
def test_a_resumed_run_draws_what_is_left_and_loads_nothing_else(tmp_path, loop, seed):
    """The seed, too, is the checkpoint's."""
    whole = build(tmp_path, loop)
    whole.train()
    first, second = stop_and_resume(tmp_path, loop, 6, second=dict(seed=seed))
    assert first.note.order | second.note.order == whole.note.order
    assert not first.note.order.keys() & second.note.order.keys()
    left = sum((batch for batch in second.note.order.values()), [])
    assert second.train_dataloader.dataset.loaded == left


@pytest.mark.parametrize("loop", [EPOCHS, ITERATIONS], ids=["epochs", "iterations"])
def test_a_sampler_with_a_seed_of_its_own_keeps_it(tmp_path, loop):
    own = dict(sampler=dict(build_sampler(loop), seed=99))
    runner = build(tmp_path, loop, loader=dict(base_loader(), **own))
    runner.train()
    other = build(tmp_path, loop, loader=dict(base_loader(), **own), seed=1)
    other.train()
    assert runner.note.order == other.note.order


def build_sampler(loop):
    kind = "InfiniteSampler" if "max_iters" in loop else "DefaultSampler"
    return dict(type=kind, shuffle=True)


def base_loader():
    return dict(
        dataset=Numbers(),
        batch_size=3,
        num_workers=0,
        collate_fn=dict(type="default_collate"),
    )


def test_with_another_batch_size_the_epoch_starts_over(tmp_path, warnings):
    _, resumed = stop_and_resume(
        tmp_path,
        EPOCHS,
        6,
        second=dict(loader=dict(base_loader(), batch_size=5, sampler=build_sampler(EPOCHS))),
    )
    (warning,) = warnings
    assert "had trained 2 of 4 batches of epoch 2; now it has 2, and it starts over" in warning
    assert [idx for idx, _ in resumed.note.order] == [0, 1, 0, 1]


def test_a_checkpoint_of_mmengines_loop_resumes_at_the_beginning_of_the_epoch(tmp_path):
    _, resumed = stop_and_resume(tmp_path, EPOCHS, 6, first=dict(ours=False))
    assert list(resumed.note.order) == [(i % 4, 6 + i) for i in range(8)]


@pytest.mark.parametrize("own", [False, True])
def test_a_loader_that_shuffles_by_a_generator_resumes(tmp_path, own):
    def loader():
        generator = torch.Generator() if own else None
        return DataLoader(Numbers(), 3, shuffle=True, generator=generator)

    whole = build(tmp_path, EPOCHS, loader=loader())
    whole.train()
    first, second = stop_and_resume(
        tmp_path, EPOCHS, 6, first=dict(loader=loader()), second=dict(loader=loader())
    )
    assert first.note.order | second.note.order == whole.note.order


def test_an_eager_iterator_starts_and_loads_nothing(tmp_path, monkeypatch):
    """Upstream MMEngine iterates over the dataloader before it knows where to resume."""

    class Eager:
        def __init__(self, dataloader):
            self._dataloader, self._iterator = dataloader, iter(dataloader)
            assert next(self._iterator, None) is None

    whole = build(tmp_path, ITERATIONS)
    whole.train()
    monkeypatch.setattr("mmengine.runner.loops._InfiniteDataloaderIterator", Eager)
    first, second = stop_and_resume(tmp_path, ITERATIONS, 4)
    assert first.note.order | second.note.order == whole.note.order
    assert len(second.train_dataloader.dataset.loaded) == 12


@pytest.mark.skipif(
    "fast_forward_on_resume" not in inspect.signature(IterBasedTrainLoop).parameters,
    reason="this line of MMEngine has no fast_forward_on_resume to keep",
)
def test_the_option_to_begin_the_data_anew_is_kept(tmp_path):
    loop = dict(ITERATIONS, fast_forward_on_resume=True)
    first, second = stop_and_resume(tmp_path, loop, 4)
    assert list(second.note.order.values()) == list(first.note.order.values())


@HOOKS.register_module()
class SwitchPipeline(Hook):
    """As MMDetection's hooks do, which also start persistent workers anew."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            loader = runner.train_dataloader
            loader.dataset.pipeline = 1
            loader._DataLoader__initialized = False
            loader._iterator = None
        elif runner.epoch > 1:
            runner.train_dataloader._DataLoader__initialized = True


def test_hooks_switch_the_pipeline_of_workers(tmp_path):
    loader = base_loader() | dict(num_workers=1, persistent_workers=True)
    loader["sampler"] = build_sampler(EPOCHS)
    runner = build(tmp_path, EPOCHS, loader=loader, hooks=[SwitchPipeline()])
    runner.train()
    assert runner.note.pipelines == [0] * 4 + [1] * 8
    # Nobody waits for workers at the end of the process.
    assert runner.train_dataloader._iterator is None


@pytest.mark.parametrize(
    "loop, kind", [(EPOCHS, ResumableEpochLoop), (ITERATIONS, ResumableIterLoop)]
)
def test_a_loader_that_cannot_be_resumed_is_refused(tmp_path, loop, kind):
    runner = build(tmp_path, loop, loader=DataLoader(Numbers(), batch_size=None))
    with pytest.raises(UsageError, match=f"{kind.__name__} needs a dataloader with a batch"):
        runner.train()


class Batches(list):
    """What MMPretrain's vis_scheduler.py trains from."""

    dataset = Numbers()


@pytest.mark.parametrize("loop", [EPOCHS, ITERATIONS], ids=["epochs", "iterations"])
def test_batches_that_exist_already_are_trained_and_resumed(tmp_path, loop):
    batches = Batches(dict(inputs=torch.tensor([[float(i), 0]])) for i in range(4))
    first, second = stop_and_resume(tmp_path, loop, 6, dict(loader=batches), dict(loader=batches))
    order = [[i % 4] for i in range(12)][: loop.get("max_iters", 12)]
    assert [*first.note.order.values(), *second.note.order.values()] == order


def test_data_without_a_batch_do_not_hang(tmp_path):
    loader = base_loader() | dict(dataset=Numbers(2), drop_last=True)
    loader["sampler"] = dict(type="DefaultSampler")
    with pytest.raises(UsageError, match="train_dataloader has no batch"):
        build(tmp_path, ITERATIONS, loader=loader).train()


class Gated(BaseModel):
    """A model with gates, whose batch norm needs two vectors."""

    def __init__(self, **kwargs):
        super().__init__()
        self.inner = nn.ModuleList([HCGNet(dict(depths=(1,), growth_rates=(8,)), **kwargs)])

    def forward(self, inputs, mode):
        return dict(loss=sum(p.sum() for p in self.parameters()) * 0)


def start(tmp_path, images, batch_size, drop_last=False, model=None, loop=EPOCHS, **kinds):
    dataset = Numbers(images)
    kind = kinds.get("sampler", "DefaultSampler")
    loader = dict(dataset=dataset, batch_size=batch_size, num_workers=0, drop_last=drop_last)
    loader["sampler"] = dict(type=kind, shuffle=True)
    if "batches" in kinds:
        loader["batch_sampler"] = dict(type=kinds["batches"], drop_last=loader.pop("drop_last"))
    runner = Runner(
        model or Gated(),
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(loop, type=OURS[loop["type"]]),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_scope="mmengine",
        experiment_name=f"batches{next(_number)}",
    )
    return runner.build_train_loop(runner._train_loop)


@pytest.mark.parametrize("loop", [EPOCHS, ITERATIONS], ids=["epochs", "iterations"])
@pytest.mark.parametrize("images, size, drop_last", [(9, 4, False), (3, 1, True), (1, 4, False)])
def test_a_batch_of_one_image_is_told_at_the_start(tmp_path, loop, images, size, drop_last):
    with pytest.raises(UsageError, match="cannot train on a batch of one image, as "):
        start(tmp_path, images, size, drop_last, loop=loop)


@pytest.mark.parametrize("images, drop_last, told", [(9, False, True), (9, True, False), (8, 0, 0)])
def test_so_is_one_of_mmdetections_batch_sampler(tmp_path, images, drop_last, told):
    match = "cannot train on a batch of one image, as the last batch of 9 images"
    with pytest.raises(UsageError, match=match) if told else nullcontext():
        start(tmp_path, images, 4, drop_last, batches="mmdet.AspectRatioBatchSampler")


class Ones(BatchSampler):
    """As one that sorts images otherwise: the size is the largest."""


def test_batches_of_unknown_size_pass(tmp_path):
    DATA_SAMPLERS.register_module(module=Ones, force=True)
    start(tmp_path, 9, 4, batches="Ones")


@pytest.mark.parametrize(
    "images, size, drop_last, model",
    [
        (9, 4, True, Gated),
        (8, 4, False, Gated),
        (10, 4, False, Gated),
        (9, 4, False, lambda: Gated(norm_eval=True)),
        (9, 4, False, lambda: Gated(norm_cfg=dict(type="GN", num_groups=1))),
        (9, 4, False, Model),
        (3, 1, False, Model),
    ],
)
def test_other_batches_pass(tmp_path, images, size, drop_last, model):
    start(tmp_path, images, size, drop_last, model())


@pytest.mark.parametrize("loop", [EPOCHS, ITERATIONS], ids=["epochs", "iterations"])
@pytest.mark.parametrize("images, size", [(3, 4), (1, 2), (9, 10)])
def test_fewer_images_than_a_batch_are_told_at_the_start(tmp_path, loop, images, size):
    with pytest.raises(UsageError, match=f"has {images} images .* batch_size={size}: "):
        start(tmp_path, images, size, True, loop=loop)
    # A sampler that never ends fills its batches.
    start(tmp_path, images, size, True, loop=loop, sampler="InfiniteSampler")
