"""A stream over a map-style dataset, shuffled by a seed, resumable to the sample, and shared out over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .samples import DataError


def permutation(size: int, seed: int, *key: int) -> np.ndarray:
    """Return a permutation of 0..size-1 that is a function of the seed and the key alone."""
    return np.random.default_rng([seed, *key]).permutation(size)


class StreamLoader:
    """A loader of batches, epoch by epoch, in an order that is a function of (seed, epoch) alone.

    The state is (epoch, position), where the position counts the samples handed out in the epoch: neither those
    that workers have fetched ahead, nor the batches of an iterator that was dropped. An iterator begins where the
    state is, so iterating again after an early stop goes on with the epoch, and after its end begins the next one.

    Several processes share the stream: together they are handed the batches of one process whose batch size is
    theirs added up, each its part. The position counts the samples of all, so that it is the same on all of them.

    Args:
        dataset: Gives a sample for an index.
        order: Indices of the samples of the stream, as epoch 0 hands them out; by default all, in a seeded
            permutation. Later epochs permute these.
        batch_size: Samples per batch and process; the last batch of an epoch may be smaller, or where it would have
            fewer samples than there are processes, the one before it larger.
        seed: Seed of the order.
        shuffle: Whether to permute; otherwise every epoch has the same order.
        num_workers: Processes that fetch ahead.
        collate_fn: Makes a batch of a list of samples; torch's own by default.
        ranks: Processes that share the stream.
        rank: Which of them this is.
        resume_changed: Whether to take the position of another stream: the next end of a batch of this one.

    Raises:
        DataError: If there are fewer samples than processes.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        order: Sequence[int] | np.ndarray | None = None,
        batch_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        ranks: int = 1,
        rank: int = 0,
        resume_changed: bool = False,
    ) -> None:
        if order is None:
            size = len(dataset)  # type: ignore[arg-type]
            order = permutation(size, seed, 0) if shuffle else np.arange(size)
        self.dataset, self.order = dataset, np.asarray(order)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.num_workers, self.collate_fn = num_workers, collate_fn
        self.ranks, self.rank, self.resume_changed = ranks, rank, resume_changed
        self.epoch, self.position = 0, 0
        if len(self.order) < ranks:
            raise DataError(
                f"--trainer.devices: {len(self.order)} samples cannot be shared out over {ranks} processes; take fewer"
            )
        starts = np.arange(0, len(self.order), ranks * batch_size)
        if len(self.order) - starts[-1] < ranks:
            starts = starts[:-1]
        self._ends = np.append(starts[1:], len(self.order))

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._ends)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Return the indices of the samples in the order of an epoch, (N,)."""
        if epoch == 0 or not self.shuffle:
            return self.order
        return self.order[permutation(len(self.order), self.seed, epoch)]

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches that remain of the epoch, or those of the next one if none remain.

        Raises:
            DataError: If a sample cannot be read.
        """
        if self.position >= len(self.order):
            self.epoch, self.position = self.epoch + 1, 0
        order = self.epoch_order(self.epoch)
        ends = self._ends[self._ends > self.position].tolist()
        batches = DataLoader(
            self.dataset,
            batch_sampler=(order[self._own(start, end)].tolist() for start, end in pairwise([self.position, *ends])),
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            generator=torch.Generator().manual_seed(self.seed),  # the global generator belongs to the model
        )
        try:
            for end, batch in zip(ends, batches, strict=True):
                self.position = end
                yield batch
            return
        except DataError as error:
            # the traceback holds on to the workers, which then take seconds to end
            message = str(error.with_traceback(None))
        # a worker's message begins with its own traceback
        raise DataError(message.rpartition("DataError: ")[2])

    def state_dict(self) -> dict[str, int]:
        """Return the position of the stream, and what identifies the stream."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position of another stream.

        Raises:
            DataError: If that stream had another order; names what differs.
        """
        if self.resume_changed:
            ends, ended = np.append(0, self._ends), state["position"] >= state["samples"]
            place = len(ends) - 1 if ended else min(np.searchsorted(ends, state["position"]), len(ends) - 1)
            self.epoch, self.position = state["epoch"], int(ends[place])
            return
        differing = [
            f"{name} (checkpoint {state.get(name)}, now {value})"
            for name, value in self._identity().items()
            if state.get(name) != value
        ]
        if differing:
            raise DataError(
                f"the data stream is not the one of the checkpoint: it differs in {', '.join(differing)}; "
                "restore these, or start a new run without --ckpt_path"
            )
        if state["position"] not in (0, *self._ends):
            raise DataError(
                f"the checkpoint's position in the data stream is within a batch of {self.ranks} processes; go on with "
                "as many processes as it was saved with"
            )
        self.epoch, self.position = state["epoch"], state["position"]

    def _own(self, start: int, end: int) -> slice:
        """Return this process's part of a batch; the parts differ by one sample at most."""
        size = end - start
        return slice(start + size * self.rank // self.ranks, start + size * (self.rank + 1) // self.ranks)

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "samples": len(self.order),
            "batch_size": self.ranks * self.batch_size,
            "shuffle": int(self.shuffle),
        }
