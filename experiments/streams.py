"""The data of runs as it is today: a finished run is kept only where it has learned from the same stream.

A run's summary and record have the fingerprint of its stream (:mod:`filtune.datamodules.fingerprint`). Runs of equal
``data`` options and seed share a stream, which is read once for all of them.
"""

from __future__ import annotations

import json
import os
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from .records import Record, Store

if TYPE_CHECKING:
    from filtune.datamodules import StreamDataModule

    from .runs import Job

SWITCH = "--run.resume_changed true"
"""The option by which runs of other data are kept, or resumed."""

Stream = dict[str, Any]
"""Fingerprint of a stream."""


class UnreadableData(ValueError):
    """The data of a run cannot be read, and ``filtune fit`` would say the same."""


class Streams:
    """Fingerprints of the streams of runs, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, Stream | ValueError] = {}
        self._last: tuple[Any, int, Stream] | None = None

    def of(self, job: Job) -> Stream:
        """Return the fingerprint of the stream that a run learns from, or would today.

        Raises:
            ValueError: If the data cannot be read.
        """
        data = job.local_config.get("data")
        share = json.dumps([data, job.seed], sort_keys=True, default=repr)
        if share not in self._known:
            try:
                stream = self._known[share] = read_stream(data, job.seed)
                self._last = data, job.seed, stream
            except UnreadableData as error:
                self._known[share] = error
            except (ValueError, TypeError, OSError, ArgumentError) as error:
                self._known[share] = ValueError(" ".join(str(error).split()))
        found = self._known[share]
        if isinstance(found, ValueError):
            raise found
        return found

    def check_unchanged(self) -> None:
        """Read the last stream again, before a further round of runs that are compared with those before.

        Raises:
            ValueError: If it has changed since, naming what differs.
        """
        from filtune.lightning_modules.checkpoints import data_differences  # for which torch is imported

        if self._last is None:
            return
        data, seed, before = self._last
        if found := data_differences(before, read_stream(data, seed), "first run"):
            raise ValueError(
                f"data: it has changed since the command began, and its runs are to learn from one stream: it differs "
                f"in {'; '.join(found)}; restore the data and repeat the command"
            )

    def prepared(self, job: Job) -> Job:
        """Return a run with the stream that it is to learn from; as it is where that is not known, so that it says why.

        Raises:
            UnreadableData: If the data cannot be read.
        """
        try:
            return replace(job, stream=self.of(job))
        except UnreadableData:
            raise
        except ValueError:
            return job


def read_stream(data: Any, seed: int) -> Stream:
    """Return the fingerprint of the stream of a configuration's section ``data``, as ``filtune fit`` builds it.

    Arguments and errors are those of :func:`build_data`.
    """
    return build_data(data, seed).fingerprint()


def build_data(data: Any, seed: int) -> StreamDataModule:
    """Return the data module of a configuration's section ``data``, set up, as ``filtune fit`` builds it.

    Args:
        data: The section, with its class path.
        seed: The run's seed.

    Raises:
        UnreadableData: If the data cannot be read.
        ValueError, TypeError, ArgumentError: If an option is wrong.
        OSError: If a file cannot be read.
    """
    from filtune.datamodules import DataError, StreamDataModule
    from jsonargparse import ArgumentParser

    from .classes import classes

    classes("data")  # imported, so that the parser finds their names
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(StreamDataModule, "data", fail_untyped=False, required=True)
    with patch.dict(os.environ, PL_GLOBAL_SEED=str(seed)):  # from which a data module takes its own
        module = parser.instantiate_classes(parser.parse_object({"data": data})).data
        try:
            module.setup("fit")
            module.fingerprint()  # image files are read: one that cannot be is of no stream
            return module
        except DataError as error:
            raise UnreadableData(str(error)) from error


def check_finished(finished: Sequence[tuple[Job, Record]], streams: Streams, store: Store) -> list[str]:
    """Check that finished runs have learned from the data as it is today.

    Args:
        finished: Runs, and the record of each.
        streams: The streams of today.
        store: Where the records are.

    Returns:
        What is to be said of those that are kept all the same, one line each.

    Raises:
        ValueError: If the data of one has changed, naming what differs; runs that allow it are kept.
    """
    refused, kept, unknown = [], [], 0
    for job, record in finished:
        if record.get("data_fingerprint") is None:
            unknown += 1
        elif found := _differences(job, record, streams):
            (kept if job.resume_changed else refused).append((job, record, found))
    if refused:
        job, record, found = refused[0]
        name = record["key"]
        raise ValueError(
            f"--root {store.root}: the data has changed since {_count(len(refused), 'run')} finished: {job.label} "
            f"{'; '.join(found)}; restore the data, name another --root, delete records/{name}.json and runs/{name} "
            f"to make the run again, or keep it all the same with {SWITCH}"
        )
    notes = [
        f"{job.label}: kept although its data has changed ({SWITCH}): {'; '.join(found)}" for job, _, found in kept
    ]
    if unknown:
        runs = _count(unknown, "finished run")
        notes.append(f"{runs} of an earlier release without a fingerprint of the data, which is taken to be the same")
    return notes


def _differences(job: Job, record: Record, streams: Streams) -> list[str]:
    from filtune.lightning_modules.checkpoints import data_differences  # for which torch is imported

    try:
        found = data_differences(record["data_fingerprint"], streams.of(job), "record")
    except ValueError as error:
        return [f"cannot be compared, for the data cannot be read: {error}"]
    return [f"differs in {found[0]}", *found[1:]] if found else []


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
