"""Training loops that continue after an interruption exactly where they stopped.

No generator's state is saved: all random numbers depend on the seed of the run and on the epoch,
the iteration and the sample that they are drawn for, so that a checkpoint needs to hold no more
than MMEngine writes into it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from math import inf
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from mmhcgnet.errors import UsageError
from mmhcgnet.models.gates import Gate, needs_two_vectors

from .data_loading import GivenBatches, GuardedBatchSampler, guard_loader, seed_generators

# Where in MMEngine's message hub, which checkpoints hold, the beginning of the epoch is noted.
_BEGIN = "epoch_begin"
# And for which epoch or iteration the last validation was: noted before it, so that what is saved
# in it says so, and what was saved before it does not.
_VALIDATED = "validated"
# The keys of random numbers begin with the seed and one of these.
_SAMPLE, _PASS, _STEP = range(3)
_END = object()


class _Resumable:
    """What both loops share: the guarded dataloader and the seeds."""

    def _guard(self) -> None:
        if isinstance(self.dataloader, Sequence):
            self.dataloader = GivenBatches(self.dataloader)
        else:
            self.dataloader = guard_loader(self.dataloader)
        if not isinstance(self.dataloader.batch_sampler, GuardedBatchSampler):
            raise UsageError(
                f"{type(self).__name__} needs a dataloader with a batch sampler: give it a "
                "batch_size and a data set with indices, or train with a loop of MMEngine's own."
            )
        self._check_batches()
        # MMEngine builds samplers before it resumes the seed of the run.
        self._followers = [
            sampler
            for sampler in self._samplers()
            if getattr(sampler, "seed", None) == self.runner.seed
        ]

    def _check_batches(self) -> None:
        """Check that there is a batch, and that HCGNet can be trained on each.

        Otherwise either would be noticed deep in the training, the second after an epoch.
        """
        loader = self.dataloader
        kinds = {type(sampler).__name__ for sampler in self._samplers()}
        if any("Infinite" in kind or "Source" in kind for kind in kinds):
            return  # all batches are full
        batches = loader.batch_sampler.batch_sampler
        images = len(getattr(batches, "sampler", loader.sampler))
        size = getattr(batches, "batch_size", None)
        if not len(loader):
            raise UsageError(
                f"The train_dataloader has no batch: its data set has {images} images for this "
                f"process, and drop_last=True leaves out a batch of less than batch_size={size}: "
                "set a smaller train_dataloader.batch_size, or train_dataloader.drop_last=False."
            )
        if type(batches).__name__ not in ("BatchSampler", "AspectRatioBatchSampler"):
            return  # who knows how large the batches are
        if isinstance(loader, GivenBatches) or (images % size != 1 if size > 1 else images == 0):
            return
        if size > 1 and batches.drop_last:
            return
        mode = self.runner.model.training
        gates = [m for m in self.runner.model.train().modules() if isinstance(m, Gate)]
        alone = any(needs_two_vectors(gate.norm) for gate in gates)
        self.runner.model.train(mode)
        if alone:
            which = "each batch" if size == 1 else f"the last batch of {images} images"
            raise UsageError(
                f"HCGNet cannot train on a batch of one image, as {which} would be, while the "
                "BatchNorm of its gates uses batch statistics: set another "
                "train_dataloader.batch_size, train_dataloader.drop_last=True (which leaves a last "
                "batch out), model.backbone.norm_eval=True, or another norm_cfg such as "
                "dict(type='GN', num_groups=1)."
            )

    def _samplers(self) -> list:
        """All that draws indices."""
        batch_sampler = self.dataloader.batch_sampler.batch_sampler
        return [self.dataloader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]

    def _start(self, number: int, skip: int) -> int:
        """Prepare pass ``number`` over the data.

        Returns:
            How many batches are left out; fewer than ``skip`` if the pass has no more.
        """
        seed = self.runner.seed
        for sampler in self._followers:
            sampler.seed = seed
        _seed_all(seed, _PASS, number)
        if self.dataloader.generator is not None:
            self.dataloader.generator.manual_seed(torch.initial_seed())
        # As in MMEngine, the processes of a run augment differently and share all other seeds.
        key = seed, _SAMPLE, get_rank(), number
        return self.dataloader.batch_sampler.start(*key, skip=skip)

    def _note_begin(self, epoch: int, iteration: int) -> None:
        """Note, for checkpoints, where a pass over the data began, and what places in it mean."""
        place = dict(epoch=epoch, iter=iteration, batches=len(self.dataloader))
        self.runner.message_hub.update_info(_BEGIN, place | self._units())

    def _units(self) -> dict[str, int]:
        """What a number of trained batches depends on."""
        loader = self.dataloader
        units = dict(processes=get_world_size(), images=len(loader.dataset))
        return units | (dict(batch_size=loader.batch_size) if loader.batch_size else {})

    def _changes(self, begin: dict) -> str:
        """Say which of them are others than in the run to resume."""
        return ", ".join(
            f"{name.replace('_', ' ')} {begin[name]} (now {now})"
            for name, now in self._units().items()
            if type(begin.get(name)) is int and begin[name] != now
        )

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """No iteration is in progress here: whatever ends the run, hooks can save a whole state."""
        try:
            self.runner.call_hook("before_rest")
            yield
            self.runner.call_hook("after_rest")
        except BaseException as error:
            self.runner.call_hook("cut_off", error=error)
            raise

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hooks give back what they hold of the process, whatever ends the run in here."""
        try:
            yield
        except BaseException:
            self.runner.call_hook("let_go")
            raise

    def _load(self, last: float = inf) -> Iterator[Any]:
        """The batches of a pass, of which there are no more than ``last``."""
        with self._at_rest():
            batches = iter(self.dataloader)
        for done in count():
            # After the last one the epoch comes to its end, with which a run is saved as ever.
            with self._at_rest() if done < last else nullcontext():
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch

    def _validate(self) -> None:
        """Validate if it is time to and not done yet."""
        self._decide_current_val_interval()
        done, last = self._progress()
        due = done >= self.val_begin and (done % self.val_interval == 0 or done == last)
        hub = self.runner.message_hub
        if self.runner.val_loop is not None and due and hub.get_info(_VALIDATED) != done:
            former = hub.get_info(_VALIDATED)
            hub.update_info(_VALIDATED, done)
            with self._at_rest():
                try:
                    self.runner.val_loop.run()
                except BaseException:
                    hub.update_info(_VALIDATED, former)  # it is made up for by a resumed run
                    raise

    def _finish_validation(self) -> None:
        """Make up for the validation before or in which the run to resume has ended."""
        hub = self.runner.message_hub
        if _VALIDATED in hub.runtime_info:
            self._validate()
        else:  # a new run, or one of MMEngine's own loop
            hub.update_info(_VALIDATED, self._progress()[0])

    def _seed_step(self) -> None:
        _seed_all(self.runner.seed, _STEP, self._iter)

    def _end_workers(self) -> None:
        """End the workers that persist: for those that its collector finds Python waits 10 s."""
        self.dataloader._iterator = None


def _seed_all(*key: int) -> None:
    """Seed the generators of the CPU and of all accelerators."""
    torch.manual_seed(seed_generators(key))


@LOOPS.register_module()
class ResumableEpochLoop(_Resumable, EpochBasedTrainLoop):
    """MMEngine's loop over epochs, resumed exactly, within an epoch too.

    It draws the same batches as ``EpochBasedTrainLoop``. The random numbers of every sample
    (augmentation) and of every iteration (mixup, dropout, DropBlock) depend on the seed of the run
    and on their place in it: a run that was interrupted and resumed ends with the same weights as
    one that was not, bit for bit on a CPU, whatever the number of workers. Augmentations differ
    from epoch to epoch, also where workers do not persist and MMEngine repeats them. A validation
    before or in which the run ended is made up for.

    Resume with the same number of processes, batch size and data: otherwise what is left of an
    epoch is not known, and it starts over, with a warning.

    Args:
        runner: The runner.
        dataloader: A dataloader, its config, or a sequence of batches with a ``dataset``, such as
            that of MMPretrain's ``vis_scheduler.py``.
        kwargs: ``max_epochs`` and the others of ``EpochBasedTrainLoop``.

    Raises:
        UsageError: If the dataloader has no batch sampler.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self._guard()
        self._skip = 0

    def run(self) -> nn.Module:
        """Train, from where the checkpoint was saved."""
        self._skip = self._trained_of_epoch()
        if self._epoch > self._max_epochs or (self._skip and self._epoch == self._max_epochs):
            raise UsageError(
                f"The run to resume has trained {self._epoch} epochs"
                + (f" and {self._skip} batches" if self._skip else "")
                + f", more than max_epochs={self._max_epochs}: set more epochs."
            )
        if self._skip:
            print_log(
                f"Epoch {self._epoch + 1} continues: {self._skip} of its {len(self.dataloader)} "
                "batches are trained.",
                "current",
            )
        with self._held():
            self.runner.call_hook("before_train")
            self._finish_validation()
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self._validate()
            self.runner.call_hook("after_train")
        self._end_workers()
        return self.runner.model

    def _progress(self) -> tuple[int, int]:
        return self._epoch, self._max_epochs

    def run_epoch(self) -> None:
        """Train what is left of an epoch."""
        begin = self._iter - self._skip
        self._skip = 0
        self._note_begin(self._epoch, begin)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        # After the hooks, which give the sampler the epoch.
        first = self._start(self._epoch, self._iter - begin)
        batches = self._load(len(self.dataloader) - first)
        for idx, data_batch in enumerate(batches, first):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train one batch."""
        self._seed_step()
        super().run_iter(idx, data_batch)

    def _trained_of_epoch(self) -> int:
        """The batches of the current epoch that the run to resume has trained."""
        begin = self.runner.message_hub.get_info(_BEGIN)
        # MMEngine's own loop notes nothing; and a checkpoint may be of the end of an epoch.
        keys = ("epoch", "iter", "batches")
        noted = isinstance(begin, dict) and all(type(begin.get(key)) is int for key in keys)
        if self._iter == 0 or not noted or begin["epoch"] < self._epoch:
            return 0
        trained, batches = self._iter - begin["iter"], len(self.dataloader)
        changes = self._changes(begin)
        if begin["batches"] == batches and 0 <= trained <= batches and not changes:
            return trained
        changes = f", with {changes}" if changes else ""
        print_log(
            f"The run to resume had trained {trained} of {begin['batches']} batches of epoch "
            f"{self._epoch + 1}; now it has {batches}, and it starts over{changes}: for an exact "
            "resume keep the batch size, the number of processes and the data.",
            "current",
            logging.WARNING,
        )
        return 0


@LOOPS.register_module()
class ResumableIterLoop(_Resumable, IterBasedTrainLoop):
    """MMEngine's loop over iterations, resumed exactly.

    As :class:`ResumableEpochLoop`; what was trained is drawn from the sampler again and not loaded,
    in both MM lines. Where the sampler comes to an end, it starts over with the next epoch, without
    the pause of two seconds in ``IterBasedTrainLoop``.

    Args:
        runner: The runner.
        dataloader: A dataloader, its config, or a sequence of batches with a ``dataset``, such as
            that of MMPretrain's ``vis_scheduler.py``.
        kwargs: ``max_iters`` and the others of ``IterBasedTrainLoop``.

    Raises:
        UsageError: If the dataloader has no batch sampler.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        BaseLoop.__init__(self, runner, dataloader)
        self._guard()
        loader = self.dataloader
        # Upstream MMEngine starts the workers here, before it knows where to resume.
        super().__init__(runner, _NotStarted(loader), **kwargs)
        self.dataloader, self.dataloader_iterator = loader, self._batches()

    def run(self) -> nn.Module:
        """Train, from where the checkpoint was saved."""
        if self._iter > self._max_iters:
            raise UsageError(
                f"The run to resume has trained {self._iter} iterations, more than "
                f"max_iters={self._max_iters}: set more iterations."
            )
        begin = self.runner.message_hub.get_info(_BEGIN)
        if self._iter and isinstance(begin, dict) and (changes := self._changes(begin)):
            print_log(
                f"The run to resume had another {changes}: it goes on after {self._iter} batches "
                "of the data as they are now, and not exactly where it stopped.",
                "current",
                logging.WARNING,
            )
        self._note_begin(0, 0)
        with self._held():
            self.runner.call_hook("before_train")
            # The whole training is one epoch to the hooks, as in MMEngine.
            self.runner.call_hook("before_train_epoch")
            self._finish_validation()
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                self.run_iter(next(self.dataloader_iterator))
                self._validate()
            self.runner.call_hook("after_train_epoch")
            self.runner.call_hook("after_train")
        self.dataloader_iterator.close()
        self._end_workers()
        return self.runner.model

    def _progress(self) -> tuple[int, int]:
        return self._iter, self._max_iters

    def run_iter(self, data_batch: Any) -> None:
        """Train one batch."""
        self._seed_step()
        super().run_iter(data_batch)

    def _batches(self) -> Iterator[Any]:
        # With this option of one MM line the data do not continue where they stopped.
        trained = 0 if getattr(self, "fast_forward_on_resume", False) else self._iter
        for number in count():
            for sampler in self._samplers():
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(number)
            drawn = self._start(number, trained)
            trained -= drawn
            if not trained:
                for batch in self._load():
                    drawn += 1
                    yield batch
            if not drawn:
                raise UsageError(
                    "The train_dataloader has no batch: its data set is empty, or smaller than "
                    "batch_size while drop_last=True."
                )


class _NotStarted(list):
    """The data set of a dataloader, and no batches."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__()
        self.dataset = loader.dataset
