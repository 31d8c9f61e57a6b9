"""Dataloaders whose samples are the same in every run, and which name the file that fails."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from mmhcgnet.datasets.checks.explain import check_sample, explain_data_error

from .workers import PatientLoader, Sheltered, kill_at_exit


def guard_loader(loader: DataLoader) -> DataLoader:
    """Copy a dataloader, with its data set and batch sampler wrapped in the classes below.

    The batches and all options stay the same. Its workers leave signals to the main process and end
    with it (see :mod:`.workers`). An ``IterableDataset``, which draws its samples by
    itself, is left as it is.

    Args:
        loader: A dataloader; one that is guarded already is returned as it is.
    """
    if isinstance(loader.dataset, GuardedDataset | IterableDataset):
        return loader
    guarded = copy.copy(loader)
    parts = dict(dataset=GuardedDataset(loader.dataset), _iterator=None)
    if loader.batch_sampler is not None:
        parts["batch_sampler"] = GuardedBatchSampler(loader.batch_sampler)
    # Made again by its constructor, it would lose `sampler`, `batch_size` and `drop_last`, which
    # hooks read and PyTorch refuses next to a batch sampler.
    vars(guarded).update(parts)
    if loader.num_workers:
        vars(guarded)["worker_init_fn"] = Sheltered(loader.worker_init_fn)
        kill_at_exit()
        if type(loader) is DataLoader:
            guarded.__class__ = PatientLoader
    return guarded


class Draw(NamedTuple):
    """What a data set is asked for, and what its random numbers depend on."""

    index: Any
    key: tuple[int, ...]


class GuardedBatchSampler:
    """A batch sampler that numbers the samples and starts at any batch.

    Iterated as it is, it yields what the one inside does; after :meth:`start` the next iteration
    yields a :class:`Draw` for every index.

    Args:
        batch_sampler: Yields lists of indices. Its attributes can be read here, too.
    """

    def __init__(self, batch_sampler: Iterable[list]) -> None:
        self.batch_sampler = batch_sampler
        self._started: tuple[Iterator[list], tuple[int, ...], int] | None = None

    def start(self, *key: int, skip: int = 0) -> int:
        """Draw the first batches of the next iteration and load none of them.

        Args:
            key: What the random numbers of this iteration's samples depend on, besides their place.
            skip: The number of batches to pass over.

        Returns:
            How many there were; fewer than ``skip`` if the sampler came to its end.
        """
        batches = iter(self.batch_sampler)
        skipped = [len(batch) for batch in islice(batches, skip)]
        # Even if none is skipped, PyTorch's RandomSampler takes its order from a generator now and
        # not after the dataloader has drawn from it, too.
        first = list(islice(batches, 1))
        self._started = chain(first, batches), key, sum(skipped)
        return len(skipped)

    def __iter__(self) -> Iterator[list]:
        if self._started is None:
            yield from self.batch_sampler
            return
        (batches, key, position), self._started = self._started, None
        for batch in batches:
            yield [Draw(index, (*key, position + i)) for i, index in enumerate(batch)]
            position += len(batch)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)


class GivenBatches:
    """Batches that exist already, with what the loops ask of a dataloader.

    Args:
        batches: The batches of every epoch, with the attribute ``dataset``.
    """

    batch_size = generator = None

    def __init__(self, batches: Sequence) -> None:
        self.batches, self.dataset = batches, batches.dataset
        self.sampler = range(len(batches))
        self.batch_sampler = GuardedBatchSampler(BatchSampler(self.sampler, 1, drop_last=False))

    def __iter__(self) -> Iterator[Any]:
        for (draw,) in self.batch_sampler:
            yield self.batches[draw.index]

    def __len__(self) -> int:
        return len(self.batches)


class GuardedDataset:
    """A data set that seeds every sample and names the file of one that cannot be loaded.

    The random numbers of a sample, in Python's, NumPy's and PyTorch's global generators, depend on
    its :class:`Draw` alone: not on the worker that loads it, nor on what was loaded before. For a
    plain index they are left as they are. Transforms that keep images of other samples, such as
    MMDetection's ``CachedMosaic``, depend on what was loaded before all the same.

    Args:
        dataset: The data set. Its attributes can be read and set here, too, as MMDetection's hooks
            that switch the pipeline do.
    """

    def __init__(self, dataset: Any) -> None:
        vars(self)["_dataset"] = dataset

    def __getitem__(self, index: Any) -> Any:
        """Load a sample.

        Raises:
            DataError: If the data set raises anything, with the file and the remedy.
        """
        if isinstance(index, Draw):
            seed_generators(index.key)
            index = index.index
        try:
            sample = self._dataset[index]
            check_sample(self._dataset, index, sample)
            return sample
        except Exception as error:  # what a file makes libraries raise has no common type
            raise explain_data_error(self._dataset, index, error) from error

    def __getitems__(self, indices: list) -> list:
        # PyTorch would take that of the data set inside, which knows no Draw.
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __repr__(self) -> str:
        return repr(self._dataset)

    def __reduce__(self) -> tuple:
        return type(self), (self._dataset,)


def seed_generators(key: tuple[int, ...]) -> int:
    """Seed the global generators of Python, NumPy and PyTorch on the CPU.

    Args:
        key: Non-negative numbers of any size.

    Returns:
        PyTorch's seed.
    """
    first, second, third = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
    return third
