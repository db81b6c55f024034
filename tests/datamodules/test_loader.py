"""A stream is a permutation per epoch, a function of (seed, epoch), and resumable to the sample."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from filtune.datamodules import DataError, DigitsDataModule, StreamLoader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

SIZES = st.integers(1, 12)


class Numbers(Dataset):
    """The numbers up to a size."""

    def __init__(self, size: int, bad: int = -1) -> None:
        self.size, self.bad = size, bad

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        if index == self.bad:
            raise DataError(f"row {index} is bad; correct it")
        return index


def epochs(loader: StreamLoader, count: int) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in loader] for _ in range(count)]


@given(size=SIZES, batch_size=SIZES, seed=st.integers(0, 2**31))
def test_every_epoch_is_a_permutation_set_by_the_seed(size: int, batch_size: int, seed: int) -> None:
    loader = StreamLoader(Numbers(size), batch_size=batch_size, seed=seed)
    batches = epochs(loader, 3)
    for epoch in batches:
        assert len(epoch) == len(loader)
        assert sorted(row for batch in epoch for row in batch) == list(range(size))
    assert epochs(StreamLoader(Numbers(size), batch_size=batch_size, seed=seed), 3) == batches


def test_epochs_and_seeds_differ() -> None:
    first, second = epochs(StreamLoader(Numbers(50)), 2)
    assert first != second
    assert epochs(StreamLoader(Numbers(50), seed=1), 1)[0] not in (first, second)


def test_without_shuffle_the_order_is_that_of_the_source() -> None:
    assert epochs(StreamLoader(Numbers(4), shuffle=False), 2) == [[[0], [1], [2], [3]]] * 2


@given(size=SIZES, batch_size=SIZES, stop=st.integers(0, 30))
@settings(max_examples=60)
def test_a_resumed_stream_goes_on_with_the_next_sample(size: int, batch_size: int, stop: int) -> None:
    def loader() -> StreamLoader:
        return StreamLoader(Numbers(size), batch_size=batch_size, seed=7)

    def endless(stream: StreamLoader):
        while True:
            yield from (batch.tolist() for batch in stream)

    whole = list(islice(endless(loader()), stop + 20))
    stopped, resumed = loader(), loader()
    assert list(islice(endless(stopped), stop)) == whole[:stop]
    resumed.load_state_dict(stopped.state_dict())
    assert list(islice(endless(resumed), 20)) == whole[stop:]


@given(size=st.integers(4, 20), batch_size=st.integers(1, 3), ranks=st.integers(1, 4), stop=st.integers(0, 12))
@settings(max_examples=60)
def test_several_processes_are_handed_the_batches_of_one(size: int, batch_size: int, ranks: int, stop: int) -> None:
    def loader(rank: int) -> StreamLoader:
        return StreamLoader(Numbers(size), batch_size=batch_size, seed=7, ranks=ranks, rank=rank)

    parts = [epochs(loader(rank), 2) for rank in range(ranks)]
    one = epochs(StreamLoader(Numbers(size), batch_size=ranks * batch_size, seed=7), 2)
    for epoch, expected in enumerate(one):
        together = [[batch for part in parts for batch in part[epoch][k]] for k in range(len(parts[0][epoch]))]
        assert {len(part[epoch]) for part in parts} == {len(loader(0))}
        if len(expected[-1]) < ranks and len(expected) > 1:  # too few for all: they join the batch before
            expected[-2:] = [expected[-2] + expected[-1]]
        assert together == expected
        sizes = [[len(batch) for batch in part[epoch]] for part in parts]
        assert all(max(column) - min(column) <= 1 <= min(column) for column in zip(*sizes, strict=True))

    stopped = [loader(rank) for rank in range(ranks)]
    for part in stopped:
        list(islice(part, stop))
    (state,) = {tuple(part.state_dict().items()) for part in stopped}
    for rank, part in enumerate(parts):
        resumed = loader(rank)
        resumed.load_state_dict(dict(state))
        rest = part[0][stop:] if stop < len(part[0]) else part[1]
        assert epochs(resumed, 1)[0] == rest


def test_a_stream_goes_on_with_other_processes_but_not_within_a_batch_of_theirs() -> None:
    one = StreamLoader(Numbers(9), batch_size=4)
    list(islice(one, 1))
    two = StreamLoader(Numbers(9), batch_size=2, ranks=2)
    two.load_state_dict(one.state_dict())
    assert epochs(two, 1)[0] == [one.epoch_order(0)[4:6].tolist()]
    list(islice(one, 1))  # of the ninth sample two processes make no batch
    with pytest.raises(DataError, match="as many processes as it was saved with"):
        StreamLoader(Numbers(9), batch_size=2, ranks=2).load_state_dict(one.state_dict())


def test_fewer_samples_than_processes_are_refused() -> None:
    with pytest.raises(DataError, match="2 samples cannot be shared out over 3 processes"):
        StreamLoader(Numbers(2), ranks=3)


def test_validation_samples_are_shared_out_once() -> None:
    def rows(ranks: int, rank: int) -> list[int]:
        module = DigitsDataModule(max_val_samples=10)
        module.trainer = SimpleNamespace(world_size=ranks, global_rank=rank, limit_val_batches=1.0)  # type: ignore[assignment]
        module.setup()
        return [row for batch in module.val_dataloader() for row in batch["row"].tolist()]

    parts = [rows(3, rank) for rank in range(3)]
    assert sorted(len(part) for part in parts) == [3, 3, 4]
    assert sorted(row for part in parts for row in part) == rows(1, 0)
    with pytest.raises(DataError, match="10 validation samples cannot be shared out over 11 processes"):
        rows(11, 0)


def test_a_state_at_the_end_of_an_epoch_begins_the_next() -> None:
    loader, resumed = StreamLoader(Numbers(5)), StreamLoader(Numbers(5))
    epochs(loader, 1)
    assert (loader.epoch, loader.position) == (0, 5)
    resumed.load_state_dict(loader.state_dict())
    assert epochs(resumed, 1) == epochs(loader, 1)
    assert resumed.epoch == 1


def test_workers_fetch_ahead_but_the_position_counts_what_was_handed_out() -> None:
    def loader(workers: int) -> StreamLoader:
        return StreamLoader(Numbers(12), batch_size=2, num_workers=workers)

    whole = epochs(loader(0), 2)
    stopped, resumed = loader(2), loader(2)
    assert [batch.tolist() for batch in islice(stopped, 2)] == whole[0][:2]
    assert stopped.position == 4
    resumed.load_state_dict(stopped.state_dict())
    assert epochs(resumed, 2) == [whole[0][2:], whole[1]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_one_line_and_not_counted(workers: int) -> None:
    loader = StreamLoader(Numbers(4, bad=2), shuffle=False, num_workers=workers)
    with pytest.raises(DataError, match=r"^row 2 is bad; correct it$"):
        epochs(loader, 1)
    assert loader.position == 2


def test_iterating_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    epochs(StreamLoader(Numbers(3)), 2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 3}, "seed (checkpoint 3, now 0)"),
        ({"batch_size": 2}, "batch_size (checkpoint 2, now 1)"),
        ({"shuffle": False}, "shuffle (checkpoint 0, now 1)"),
        ({"dataset": Numbers(9)}, "samples (checkpoint 9, now 8)"),
    ],
)
def test_a_state_of_another_stream_is_refused(other: dict, named: str) -> None:
    state = StreamLoader(**{"dataset": Numbers(8), **other}).state_dict()
    with pytest.raises(DataError) as error:
        StreamLoader(Numbers(8)).load_state_dict(state)
    assert named in str(error.value)
    assert "--ckpt_path" in str(error.value)
