import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import HOOKS
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset

from mmhcgnet.engine.runner.data_loading import Draw, GuardedDataset, guard_loader
from mmhcgnet.errors import DataError


class Numbers(Dataset):
    """Index and a random number of each generator; the index 4 cannot be loaded."""

    pipeline = "first"
    metainfo = dict(classes=("a",))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 4 and self.pipeline == "broken":
            raise OSError("cannot identify image file 4.png")
        return index, random.random(), np.random.rand(), torch.rand(1).item()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def load(loader, *key, skip=0):
    """All samples of a pass, by index."""
    loader.batch_sampler.start(*key, skip=skip)
    batches = [torch.stack(batch, dim=1).tolist() for batch in loader]
    return {sample[0]: sample[1:] for batch in batches for sample in batch}


def test_samples_depend_on_their_place_alone():
    plain = guard_loader(DataLoader(Numbers(), 4))
    workers = guard_loader(DataLoader(Numbers(), 4, num_workers=2))
    persistent = guard_loader(DataLoader(Numbers(), 4, num_workers=2, persistent_workers=True))
    expected = load(plain, 7, 0, 1)
    assert len({value for sample in expected.values() for value in sample}) == 30
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    for loader in (plain, workers, persistent, persistent):
        assert load(loader, 7, 0, 1) == expected
        # What is skipped leaves the rest as it is.
        rest = {index: expected[index] for index in range(4, 10)}
        assert load(loader, 7, 0, 1, skip=1) == rest
    # Another seed, process or epoch gives other numbers.
    for key in ((8, 0, 1), (7, 1, 1), (7, 0, 2)):
        other = load(plain, *key)
        assert not any(other[i][k] == expected[i][k] for i in range(10) for k in range(3))


def test_batches_stay_as_they_are():
    sampler = DefaultSampler(Numbers(), shuffle=True, seed=3)
    loader = DataLoader(Numbers(), 3, sampler=sampler, drop_last=True)
    guarded = guard_loader(loader)
    expected = [batch[0].tolist() for batch in loader]
    guarded.batch_sampler.start(0)
    assert [batch[0].tolist() for batch in guarded] == expected
    assert len(guarded) == len(expected) == 3
    # Once more, by a hook that only wants to look at the data.
    assert [batch[0].tolist() for batch in guarded] == expected
    assert guarded.batch_sampler.start(0, skip=5) == 3 and not list(guarded)


def collate(batch):
    return batch


def init(worker):
    pass


@pytest.mark.parametrize(
    "options",
    [
        dict(batch_size=3, shuffle=True, drop_last=True),
        dict(batch_sampler=BatchSampler(range(10), 2, False)),
        dict(
            num_workers=2,
            prefetch_factor=3,
            persistent_workers=True,
            timeout=30,
            multiprocessing_context="spawn",
            worker_init_fn=init,
            collate_fn=collate,
            pin_memory=True,
            generator=torch.Generator(),
        ),
    ],
)
def test_all_options_of_the_loader_stay(options):
    loader = DataLoader(Numbers(), **options)
    before, guarded = dict(vars(loader)), vars(guard_loader(loader))
    assert vars(loader) == before
    wrapped = {"dataset", "batch_sampler"} | ({"worker_init_fn"} if loader.num_workers else set())
    assert guarded.keys() == before.keys()
    assert all(guarded[key] is before[key] for key in before.keys() - wrapped)
    assert getattr(guarded["worker_init_fn"], "init", None) is before["worker_init_fn"]
    # What hooks read of the batch sampler: its samplers and its size.
    for name in ("sampler", "batch_size", "drop_last"):
        original = getattr(loader.batch_sampler, name)
        assert getattr(guarded["batch_sampler"], name) is original


def test_workers_that_are_spawned_get_the_data_set():
    guarded = pickle.loads(pickle.dumps(GuardedDataset(Numbers())))
    assert guarded[Draw(3, (1, 2))] == GuardedDataset(Numbers())[Draw(3, (1, 2))]


def test_the_data_set_shows_and_takes_attributes():
    inner = Numbers()
    dataset = guard_loader(DataLoader(inner)).dataset
    assert len(dataset) == 10 and dataset.metainfo is inner.metainfo
    dataset.pipeline = "second"
    assert inner.pipeline == "second" and dataset.pipeline == "second"
    with pytest.raises(AttributeError):
        _ = dataset.absent
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = inner[5]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert dataset[5] == expected


def test_a_data_set_that_loads_whole_batches_is_asked_for_samples():
    loader = guard_loader(DataLoader(Subset(Numbers(), range(2, 8)), 3))
    assert list(load(loader, 1)) == [2, 3, 4, 5, 6, 7]


def test_a_loader_is_guarded_once_and_a_stream_never():
    loader = guard_loader(DataLoader(Numbers()))
    assert guard_loader(loader) is loader
    stream = DataLoader(Stream())
    assert guard_loader(stream) is stream


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("phase", ["val", "test"])
def test_what_cannot_be_loaded_is_told_in_one_sentence(phase, workers):
    class Loop:
        dataloader = DataLoader(Numbers(), num_workers=workers)

    class Runner:
        pass

    loop = Loop()
    setattr(Runner, f"{phase}_loop", loop)
    loop.dataloader.dataset.pipeline = "broken"
    hook = HOOKS.build(dict(type="DataGuardHook"))
    getattr(hook, f"before_{phase}")(Runner())
    batches = iter(loop.dataloader)
    with pytest.raises(DataError, match="cannot identify image file 4.png"):
        list(batches)
    if workers:
        batches.close()  # Python's collector would wait for the workers


def test_a_loader_without_batches_is_guarded_too():
    loader = guard_loader(DataLoader(Numbers(), batch_size=None))
    assert [index for index, *_ in loader] == list(range(10))
