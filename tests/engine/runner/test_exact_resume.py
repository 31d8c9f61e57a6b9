"""A run that was interrupted ends with the same weights, bit for bit, as one that was not."""

import os
import random
import shutil
import signal
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import run_processes
from helpers.reference import TINY_CIFAR, make_arch
from mmengine.dataset import BaseDataset
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.runner import Runner
from torch import nn

from mmhcgnet.checkpoints import use_safe_loader
from mmhcgnet.engine.hooks.interrupt_hook import InterruptHook
from mmhcgnet.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from mmhcgnet.engine.runner.loops import ResumableEpochLoop, ResumableIterLoop
from mmhcgnet.models import DropBlock

IMAGES, BATCH = 14, 4
PASS = IMAGES // BATCH  # iterations; the last two images are left out
LOOPS = dict(
    epoch=(ResumableEpochLoop, dict(max_epochs=3), "DefaultSampler"),
    iter=(ResumableIterLoop, dict(max_iters=9), "InfiniteSampler"),
    # Not meant for it, but allowed: the sampler comes to its end again and again.
    finite=(ResumableIterLoop, dict(max_iters=9), "DefaultSampler"),
)
_number = count()


@DATASETS.register_module()
class MemoryPictures(BaseDataset):
    """Random pictures of five classes, every other one wider than high."""

    METAINFO = dict(classes=tuple("abcde"))

    def load_data_list(self):
        pictures = np.random.RandomState(0)
        return [
            dict(
                img=pictures.randint(0, 256, (20, 16 + 8 * (i % 2), 3), dtype=np.uint8),
                height=20,
                width=16 + 8 * (i % 2),
                gt_label=i % 5,
                sample_idx=i,
            )
            for i in range(IMAGES)
        ]


@TRANSFORMS.register_module()
class AllGenerators:
    """Noise from each of the generators that transforms draw from."""

    def __call__(self, results):
        noise = torch.rand(1).item() + np.random.rand() + random.random()
        results["img"] = (results["img"] * (noise / 3)).astype(np.uint8)
        return results


PIPELINE = [
    dict(type="AllGenerators"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="mmpretrain.RandomResizedCrop", scale=16),
    dict(type="mmpretrain.PackInputs", meta_keys=("sample_idx",)),
]


def build_model():
    """HCGNet with all that is random in training: mixup, DropBlock, dropout."""
    return MODELS.build(
        dict(
            type="mmpretrain.ImageClassifier",
            backbone=dict(
                type="mmhcgnet.HCGNet",
                arch=make_arch(TINY_CIFAR),
                dropblock=dict(block_size=2, drop_prob=0.2),
            ),
            neck=[
                dict(type="mmpretrain.GlobalAveragePooling"),
                dict(type="mmhcgnet.DropoutNeck", p=0.2),
            ],
            head=dict(
                type="mmpretrain.LinearClsHead",
                num_classes=5,
                in_channels=32,
                loss=dict(type="mmpretrain.CrossEntropyLoss"),
            ),
            data_preprocessor=dict(
                type="mmpretrain.ClsDataPreprocessor", num_classes=5, mean=[128] * 3, std=[64] * 3
            ),
            train_cfg=dict(augments=dict(type="mmpretrain.Mixup", alpha=1.0)),
        )
    )


class SaveAlways(Hook):
    """Save after every iteration and every epoch, as an interruption there would."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
        runner.save_checkpoint(runner.work_dir, f"iter_{runner.iter + 1}.pth", meta=meta)

    def after_train_epoch(self, runner):
        if isinstance(runner.train_loop, ResumableEpochLoop):
            runner.save_checkpoint(runner.work_dir, f"epoch_{runner.epoch + 1}.pth")


class Note(Hook):
    """The pictures of every iteration, and its loss."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        order = [sample.sample_idx for sample in data_batch["data_samples"]]
        self.seen.append((batch_idx, order, outputs["loss"].item()))


def build(folder, kind, workers=0, ema=False, hooks=(), model=None, resume=None, **changes):
    loop, length, sampler = LOOPS[kind]
    options = dict(persistent_workers=workers > 0)
    loader = dict(
        batch_size=BATCH,
        num_workers=workers,
        drop_last=True,
        sampler=dict(type=sampler, shuffle=True),
        collate_fn=dict(type="default_collate"),
        dataset=dict(type="MemoryPictures", pipeline=PIPELINE),
        **options,
    )
    loader.update(changes.pop("loader", {}))
    hooks = [*hooks, *([EMAHook(momentum=0.1)] if ema else [])]
    arguments = dict(
        model=build_model() if model is None else model,
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(type=loop, **length),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=3),
            dict(type="MultiStepLR", by_epoch=kind == "epoch", milestones=[2], gamma=0.5),
            dict(type="CosineAnnealingLR", by_epoch=False, T_max=9),
        ],
        # A seed of its own is not given again: the checkpoint has it.
        randomness=dict(seed=None if resume else 7),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[dict(type="mmhcgnet.DropBlockHook"), *hooks, note := Note()],
        # Runners of one name share their message hub.
        experiment_name=f"run{next(_number)}",
        log_level="WARNING",
        load_from=resume and str(resume),
        resume=bool(resume),
    )
    runner = Runner(**(arguments | changes))
    runner.note = note
    return runner


def state(runner):
    """All that training changes."""
    found = dict(model=runner.model.state_dict(), optim=runner.optim_wrapper.state_dict())
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            found["ema"] = hook.ema_model.state_dict()
    return found


def assert_same(left, right, place=""):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key], f"{place}/{key}")
    elif isinstance(left, list):
        assert len(left) == len(right)
        for i, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{place}/{i}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), place
    else:
        assert left == right, place


@pytest.fixture(autouse=True)
def _safe_loader():
    """Upstream MMEngine cannot load its own checkpoints in PyTorch 2.6 and newer."""
    use_safe_loader()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs from beginning to end, by loop and EMA, with a checkpoint of every iteration."""
    runs = {}

    def get(kind, ema):
        if (kind, ema) not in runs:
            folder = tmp_path_factory.mktemp(kind)
            runs[kind, ema] = build(folder, kind, ema=ema, hooks=[SaveAlways()])
            runs[kind, ema].train()
        return runs[kind, ema]

    return get


@pytest.mark.parametrize(
    "kind, place, done, ema, workers",
    [
        # Within the second epoch, after its last iteration, after its end.
        ("epoch", "iter_4", 4, False, 0),
        ("epoch", "iter_4", 4, False, 2),
        ("epoch", "iter_4", 4, True, 0),
        ("epoch", "iter_4", 4, True, 2),
        ("epoch", "iter_6", 6, False, 0),
        ("epoch", "iter_6", 6, True, 2),
        ("epoch", "epoch_2", 6, False, 2),
        ("epoch", "epoch_2", 6, True, 0),
        ("iter", "iter_4", 4, False, 2),
        ("iter", "iter_4", 4, True, 0),
        ("iter", "iter_5", 5, True, 2),
        ("finite", "iter_6", 6, False, 0),
        ("finite", "iter_7", 7, False, 2),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(whole, tmp_path, kind, place, done, ema, workers):
    expected = whole(kind, ema)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    checkpoint = f"{expected.work_dir}/{place}.pth"
    runner = build(tmp_path, kind, workers, ema, resume=checkpoint)
    runner.train()
    assert runner.note.seen == expected.note.seen[done:]
    assert_same(state(runner), state(expected))


class Validations(Hook):
    """Notes validations, saves after them, and cuts one off."""

    priority = "LOWEST"

    def __init__(self, cut=None):
        self.seen, self.cut = [], cut

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.cut:
            raise KeyboardInterrupt

    def after_val_epoch(self, runner, metrics=None):
        self.seen.append((runner.iter, metrics["accuracy/top1"]))
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        runner.save_checkpoint(runner.work_dir, f"validated_{runner.iter}.pth", meta=meta)


@pytest.mark.parametrize("kind, cut", [("epoch", "epoch_2"), ("iter", "iter_6")])
def test_a_validation_that_was_cut_off_is_made_up_for(tmp_path, kind, cut):
    loop, length, _ = LOOPS[kind]
    interval = 1 if kind == "epoch" else PASS
    pipeline = [dict(type="mmpretrain.Resize", scale=(16, 16)), PIPELINE[-1]]
    loader = dict(
        batch_size=BATCH,
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
        dataset=dict(type="MemoryPictures", pipeline=pipeline),
    )

    def run(folder, resume=None, cut=None):
        hook = Validations(cut)
        runner = build(
            folder, kind, hooks=[SaveAlways(), hook], resume=resume,
            train_cfg=dict(type=loop, val_interval=interval, **length),
            val_cfg=dict(), val_dataloader=loader, val_evaluator=dict(type="mmpretrain.Accuracy"),
        )  # fmt: skip
        with pytest.raises(KeyboardInterrupt) if cut else nullcontext():
            runner.train()
        return hook.seen

    whole = run(tmp_path / "whole")
    assert [iteration for iteration, _ in whole] == [3, 6, 9]
    assert run(tmp_path / "cut", cut=6) == whole[:1]
    assert run(tmp_path / "cut", resume=tmp_path / f"cut/{cut}.pth") == whole[1:]
    # One that came to its end is not repeated.
    assert run(tmp_path / "cut", resume=tmp_path / "cut/validated_6.pth") == whole[2:]


def test_nothing_repeats_itself(whole):
    """Neither the losses nor, with one order of the pictures in all epochs, the augmentations."""
    losses = [loss for *_, loss in whole("epoch", False).note.seen]
    assert len(losses) == 3 * PASS and len(set(losses)) == len(losses)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentations_differ_from_epoch_to_epoch(tmp_path, workers):
    images = []

    class Look(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            images.append(data_batch["inputs"].clone())

    runner = build(
        tmp_path,
        "epoch",
        hooks=[Look()],
        # Started anew for every epoch, MMEngine's workers would begin with one and the same seed.
        loader=dict(
            num_workers=workers,
            persistent_workers=False,
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
    )
    runner.train()
    first, second, third = images[:PASS], images[PASS : 2 * PASS], images[2 * PASS :]
    for a, b, c in zip(first, second, third, strict=True):
        assert not torch.equal(a, b) and not torch.equal(b, c) and not torch.equal(a, c)


@pytest.mark.slow(reason="trains a whole detector")
def test_batches_by_aspect_ratio_resume_within_an_epoch(tmp_path):
    """MMDetection's batch sampler may draw fewer batches than its length says."""
    pipeline = [
        dict(type="AllGenerators"),
        dict(type="mmpretrain.PackInputs", meta_keys=("sample_idx", "width")),
    ]
    loader = dict(
        batch_size=2,
        drop_last=False,
        batch_sampler=dict(type="mmdet.AspectRatioBatchSampler", drop_last=True),
        dataset=dict(type="MemoryPictures", pipeline=pipeline),
        num_workers=2,
    )
    expected = build(tmp_path / "whole", "epoch", hooks=[SaveAlways()], loader=loader)
    expected.train()
    assert len(expected.train_dataloader) == 7 and len(expected.note.seen) == 3 * 6
    for _, order, _ in expected.note.seen:
        assert len(order) == 2 and len({i % 2 for i in order}) == 1
    for done in (8, 12):
        checkpoint = f"{expected.work_dir}/iter_{done}.pth"
        runner = build(tmp_path / "resumed", "epoch", loader=loader, resume=checkpoint)
        runner.train()
        assert runner.note.seen == expected.note.seen[done:]
        assert_same(state(runner), state(expected))


class Signal(Hook):
    """A signal from outside, during an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("kind", ["epoch", "iter"])
def test_a_run_that_a_signal_ended_is_resumed(whole, tmp_path, kind):
    """As above, through the hooks that save; gradients are accumulated over two iterations."""
    changes = dict(
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=0.01),
            accumulative_counts=2,
            clip_grad=dict(max_norm=1.0),
        ),
        default_hooks=dict(logger=None, checkpoint=dict(type=SafeCheckpointHook)),
    )
    folder = tmp_path / "interrupted"
    expected = build(tmp_path / "whole", kind, ema=True, **changes)
    expected.train()
    with pytest.raises(SystemExit) as end:
        hooks = [Signal(4), InterruptHook()]
        build(folder, kind, ema=True, hooks=hooks, **changes).train()
    assert end.value.code == 128 + signal.SIGTERM
    checkpoint = folder / "interrupted_iter_6.pth"
    runner = build(folder, kind, workers=2, ema=True, resume=checkpoint, **changes)
    runner.train()
    assert_same(state(runner), state(expected))


# Two processes


@TRANSFORMS.register_module()
class OneBox:
    """Half of the picture is the object."""

    def __call__(self, results):
        height, width = results["img"].shape[:2]
        results["gt_bboxes"] = np.array([[0, 0, width / 2, height]], np.float32)
        results["gt_bboxes_labels"] = np.array([results["gt_label"]])
        results["gt_ignore_flags"] = np.zeros(1, bool)
        return results


class Resized(BaseModel):
    """HCGNet with DropBlock on batches of a size that MMDetection changes every other iteration."""

    def __init__(self):
        resize = dict(
            type="mmdet.BatchSyncRandomResize", random_size_range=(16, 48), interval=2,
            size_divisor=16,
        )  # fmt: skip
        super().__init__(
            dict(
                type="mmdet.DetDataPreprocessor", mean=[128] * 3, std=[64] * 3,
                batch_augments=[resize],
            )
        )  # fmt: skip
        dropblock = dict(block_size=2, drop_prob=0.5)
        self.backbone = MODELS.build(
            dict(type="mmhcgnet.HCGNet", arch=make_arch(TINY_CIFAR), dropblock=dropblock)
        )
        self.fc = nn.Linear(32, 5)
        self.sizes, self.strengths = [], []

    def forward(self, inputs, data_samples, mode="tensor"):
        self.sizes.append(tuple(inputs.shape[2:]))
        self.strengths += {m.strength for m in self.backbone.modules() if isinstance(m, DropBlock)}
        boxes = torch.cat([sample.gt_instances.bboxes for sample in data_samples])
        labels = torch.cat([sample.gt_instances.labels for sample in data_samples])
        scores = self.fc(self.backbone(inputs)[-1].mean((2, 3)))
        return dict(loss=nn.functional.cross_entropy(scores, labels) + boxes.mean() / 100)


def build_resized(folder, *hooks, processes=2, **options):
    """``processes`` share the batches."""
    pack = dict(type="mmdet.PackDetInputs", meta_keys=("sample_idx", "img_shape"))
    pipeline = [*PIPELINE[:-1], dict(type="OneBox"), pack]
    loader = dict(
        batch_size=BATCH // processes, dataset=dict(type="MemoryPictures", pipeline=pipeline)
    )
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    launched = dict(launcher="pytorch", cfg=dict(model_wrapper_cfg=wrapper))
    saving = dict(logger=None, checkpoint=dict(type=SafeCheckpointHook, interval=2))
    torch.manual_seed(0)
    return build(
        folder, "epoch", ema=True, model=Resized(), loader=loader, default_hooks=saving,
        hooks=[*hooks, InterruptHook()], **(launched if processes > 1 else {}), **options,
    )  # fmt: skip


def resize_in_two(rank, folder):
    """The second process gets a signal after the size was changed."""
    os.environ["LOCAL_RANK"] = str(rank)
    use_safe_loader()
    whole = build_resized(f"{folder}/whole")
    whole.train()
    with pytest.raises(SystemExit) as end:
        build_resized(f"{folder}/parts", *([Signal(4)] if rank == 1 else [])).train()
    assert end.value.code == 128 + signal.SIGTERM
    saved = Path(folder, "parts/interrupted_iter_5.pth")
    if rank == 0:
        shutil.copy(saved, folder)
    resumed = build_resized(saved.parent, resume=saved)
    resumed.train()
    assert resumed.note.seen == whole.note.seen[5:]
    if rank == 0:  # of the other one nobody saves the running statistics
        assert_same(state(resumed), state(whole))
    model = whole.model.module
    assert len(set(model.sizes)) > 1 and model.sizes[5] != (16, 16)
    assert len(set(model.strengths)) == 1 + 6  # none in three, then another in each


@pytest.mark.slow(reason="two processes that train, several times")
def test_two_processes_resume_with_the_same_sizes_and_drops(warm, tmp_path, capsys):
    run_processes(warm, resize_in_two, tmp_path)
    # One process has as many batches, and all that it sees in them is other images.
    resumed = build_resized(
        tmp_path / "one", processes=1, resume=tmp_path / "interrupted_iter_5.pth"
    )
    resumed.train()
    said = capsys.readouterr().out
    assert "it starts over, with processes 2 (now 1), batch size 2 (now 4)" in said
    assert [idx for idx, *_ in resumed.note.seen] == [0, 1, 2] * 2
