"""Loaders split among processes: together they read the same batches as one process, and fetch no more."""

import random

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from fits import PLAIN
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    WeightedRandomSampler,
)

from spl.callbacks.scoring.batches import EvaluationBatches
from spl.callbacks.scoring.process_batches import batches_of_process
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.pruning import PruningChoices, find_masks


class Noisy(Dataset):
    """A data set that draws from every random stream."""

    def __len__(self):
        return 22

    def __getitem__(self, index):
        return index, torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002


class NoisyAtOnce(Noisy):
    def __getitems__(self, indices):
        return [(index, torch.rand(())) for index in indices]


class Stream(IterableDataset):
    def __iter__(self):
        return ((i, torch.rand(())) for i in range(22))


class Backwards(DataLoader):
    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


LOADERS = {
    "shuffled": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "whole batches": lambda: DataLoader(NoisyAtOnce(), batch_size=4, shuffle=True, drop_last=True),
    "own generator": lambda: DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator().manual_seed(1)),
    "own sampler": lambda: DataLoader(Noisy(), 4, sampler=WeightedRandomSampler([1.0] * 22, 18)),
    "batch sampler": lambda: DataLoader(Noisy(), batch_sampler=BatchSampler(range(22), 4, drop_last=False)),
    "single examples": lambda: DataLoader(Noisy(), batch_size=None, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "subclass": lambda: Backwards(Noisy(), batch_size=4),
    "list": lambda: [torch.arange(2) + i for i in range(5)],
}


def streams():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def read(loader, rank=0, size=1, limit=None, seed=0):
    return [(number, repr(batch)) for number, batch in batches_of_process(loader, rank, size, limit, seed)]


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS.keys())
def test_processes_read_together_what_one_reads(make, limit):
    one = read(make(), limit=limit)
    assert [number for number, _ in one] == list(range(len(one)))
    for size in (2, 3, 9):
        shares = [read(make(), rank, size, limit) for rank in range(size)]
        assert all(number % size == rank for rank, share in enumerate(shares) for number, _ in share)
        assert sorted(batch for share in shares for batch in share) == one


@pytest.mark.parametrize("name", ["shuffled", "whole batches", "own generator", "own sampler", "batch sampler"])
def test_the_order_is_that_of_the_loader_itself(name):
    torch.manual_seed(0)
    plain = [indices.tolist() for indices, _ in LOADERS[name]()]
    assert [indices.tolist() for _, (indices, _) in batches_of_process(LOADERS[name](), 0, 1, None, seed=0)] == plain


@pytest.mark.parametrize("loader", [DataLoader, Backwards])
def test_a_loader_that_is_cut_already_is_read_whole(loader):
    sampler = DistributedSampler(Noisy(), num_replicas=2, rank=1, shuffle=False)
    cut = loader(Noisy(), batch_size=4, sampler=sampler)
    assert [number for number, _ in batches_of_process(cut, 1, 2, None, seed=0)] == [1, 3, 5]
    assert [number for number, _ in batches_of_process(cut, 1, 2, 4, seed=0)] == [1, 3]
    indices = [indices.tolist() for _, (indices, _) in batches_of_process(cut, 1, 2, None, seed=0)]
    assert sorted(index for batch in indices for index in batch) == list(range(1, 22, 2))


def test_another_seed_draws_otherwise():
    assert read(LOADERS["shuffled"]()) != read(LOADERS["shuffled"](), seed=1)


class OneOf(Processes):
    def __init__(self, size, rank):
        self.rank, self.size = rank, size


def test_a_share_of_any_batches_is_every_nth():
    assert list(OneOf(3, 1).batches("abcdefg")) == ["b", "e"]
    assert list(Processes().batches("abc")) == ["a", "b", "c"]


def test_the_first_of_two_processes_misses_data_that_is_not_there():
    network = nn.Linear(4, 3)
    with pytest.raises(InputError, match="The scoring data has no batches"):
        find_masks(network, PruningChoices(sparsity=0.5), [], processes=OneOf(2, 0))
    masks, scores, *_ = find_masks(network, PruningChoices(sparsity=0.5), [], processes=OneOf(2, 1))
    assert masks.kept == 6
    assert scores["weight"].count_nonzero() == 0  # nothing was added to these scores


def test_two_processes_score_half_the_batches_each():
    network, batches = nn.Linear(4, 3), [(torch.randn(5, 4), torch.arange(5) % 3) for _ in range(4)]
    choices = PruningChoices(sparsity=0.5)
    own = find_masks(network, choices, batches, processes=OneOf(2, 1))[1]
    alone = find_masks(network, choices, batches[1::2])[1]
    assert torch.equal(own["weight"], alone["weight"])


def test_streams_are_given_back_though_a_reader_stops_early():
    trainer, data = L.Trainer(**PLAIN), LOADERS["whole batches"]()
    trainer.fit_loop._data_source.instance = data
    batches = EvaluationBatches(trainer, None, limit=None, seed=3)
    before = streams()
    assert len(batches.first_inputs(6)) == 6
    assert streams() == before


def test_what_one_process_counted_is_all_there_is_where_nobody_shared():
    trainer = L.Trainer(**PLAIN)
    trainer.fit_loop._data_source.instance = LOADERS["shuffled"]()
    batches = EvaluationBatches(trainer, None, limit=None, seed=0)
    assert len(list(batches)) == 6
    assert batches.counted(Processes()) == (6, 22)


def test_no_more_batches_are_read_than_hold_the_examples_asked_for():
    trainer = L.Trainer(**PLAIN)
    trainer.fit_loop._data_source.instance = LOADERS["shuffled"]()
    batches = EvaluationBatches(trainer, None, limit=None, seed=0)
    for examples, read_batches in ((7, 2), (8, 2), (9, 3)):
        assert len(batches.first_inputs(examples)) == examples
        assert batches.batches == read_batches


def test_a_loader_that_is_cut_for_another_number_of_processes_is_dealt_as_it_is():
    trainer = L.Trainer(**PLAIN)
    sampler = DistributedSampler(Noisy(), num_replicas=1, rank=0, shuffle=False)
    trainer.fit_loop._data_source.instance = DataLoader(Noisy(), batch_size=4, sampler=sampler)
    batches = EvaluationBatches(trainer, None, limit=None, seed=0)
    first = [[int(indices[0]) for indices, _ in batches.of_process(rank, 2)] for rank in (0, 1)]
    assert first == [[0, 8, 16], [4, 12, 20]]
