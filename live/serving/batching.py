"""Predictions of requests that come at the same time, in one forward pass."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .tickets import Answer

Result = list[Answer] | ValueError
"""The answers to a request, or why there are none."""

MOST = 64
"""Samples that are predicted together, of several requests."""


class Batcher:
    """A queue of requests before the threads that predict.

    A request is predicted at once where a thread is free; no request waits for others to come. Those that come while
    all threads are at work are predicted together by the next one that is free: a forward pass has a cost of its own,
    so that throughput grows with the load.

    Args:
        predict: Predicts several requests in a thread.
        threads: Threads that predict at the same time.
    """

    def __init__(self, predict: Callable[[list[Sequence[Any]]], Awaitable[list[Result]]], threads: int) -> None:
        self._predict, self._free = predict, threads
        self._waiting: deque[tuple[Sequence[Any], asyncio.Future[list[Answer]]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def predict(self, xs: Sequence[Any]) -> list[Answer]:
        """Return the predictions for the samples of a request.

        Raises:
            ValueError: If one is no sample.
        """
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((xs, future))
        self._start()
        return await future

    def _start(self) -> None:
        while self._waiting and self._free:
            self._free -= 1
            task = asyncio.create_task(self._run(self._take()))
            self._running.add(task)  # the loop itself keeps no reference
            task.add_done_callback(self._running.discard)

    def _take(self) -> list[tuple[Sequence[Any], asyncio.Future[list[Answer]]]]:
        taken, count = [self._waiting.popleft()], 0
        count = len(taken[0][0])
        while self._waiting and count + len(self._waiting[0][0]) <= MOST:
            taken.append(self._waiting.popleft())
            count += len(taken[-1][0])
        return taken

    async def _run(self, taken: list[tuple[Sequence[Any], asyncio.Future[list[Answer]]]]) -> None:
        try:
            found: Sequence[Result | BaseException] = await self._predict([xs for xs, _ in taken])
        except BaseException as error:  # such as the end of the service
            found = [error] * len(taken)
        finally:
            self._free += 1
        self._start()
        for (_, future), result in zip(taken, found, strict=True):
            if future.done():  # the client has left
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


def alike(sizes: Sequence[int]) -> list[list[int]]:
    """Return places in groups that are worth one forward pass: in it all are padded to the longest.

    A group's largest size is at most twice its smallest, or 64 more.

    Args:
        sizes: The size of each: characters of a text; 0 where nothing is padded.
    """
    groups: list[list[int]] = []
    for place in sorted(range(len(sizes)), key=sizes.__getitem__):
        least = sizes[groups[-1][0]] if groups else 0
        if groups and sizes[place] <= max(2 * least, least + 64):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
