"""The trials of a search, in a storage of Optuna that several processes and machines share.

A trial is a point: values of options. It is claimed by a lock that ends with the process, so that the trial of a
process that was killed is found again and continued by another, and none is made twice. What a sampler draws depends on
the number of the trial, not on the process. Optuna's own loop cannot be used, for it has no way to continue a trial.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filtune.lightning_modules.locks import try_lock
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from .composition import Config, compose, point_name
from .keys import run_key
from .records import lower_is_better
from .runs import Job
from .search import PARTS, GridPoint, SearchSpace

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

FORMAT = 1
"""Version of what a study says of the sweep."""

ABOUT, ROOT, VALUES = "filtune", "filtune_root", "values_of_seeds"
"""Attributes: of a study, what sweep it is of; of a trial, where its runs are, and the metric of each seed."""

REASON, REPEATED = "reason", "repeats"
"""Attributes of trials without a value: why, and the number of an earlier one at the same point."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Sweep:
    """A configuration whose options are searched.

    Attributes:
        name: Name of its manifest, of the best configuration and of the study.
        config: The configuration, composed.
        parts: Names of the task and the backbone.
        space: Where to search.
        sampler: How points are chosen.
        total: Points in all.
        seeds: Seeds of every point.
        metric: Metric to optimise.
        pruner: How points are stopped early; None for not at all.
        rate: One point of so many goes on.
        folders: Where hub ids lie on this machine.
    """

    name: str
    config: Config
    parts: tuple[str, str]
    space: SearchSpace
    sampler: str
    total: int
    seeds: list[int]
    metric: str
    pruner: str | None
    rate: int
    folders: dict[str, str]

    def jobs(self, point: GridPoint) -> list[Job]:
        """Return the runs of a point."""
        config, name = compose([], self.config, point), point_name(point)
        return [
            Job(run_key(config, seed), config, seed, *self.parts, f"{name} seed {seed}", self.folders)
            for seed in self.seeds
        ]

    def options(self) -> dict[str, list[Any]]:
        """Return what is searched, by dotted key."""
        ranges = {
            key: [f"{found.low:g} to {found.high:g}{' (log)' if found.log else ''}"]
            for key, found in self.space.ranges.items()
        }
        return {**self.space.grid, **ranges}

    def about(self) -> dict[str, Any]:
        """Return what the sweep is, by which its study is recognised; more trials of it are of the same sweep."""
        pruner = [self.pruner, self.rate] if self.pruner else None
        if pruner and self.pruner == "halving":
            pruner.append(self.total)  # after how many samples points are first compared follows from it
        bounds = {key: [repr(found.low), repr(found.high), found.log] for key, found in self.space.ranges.items()}
        return {
            "configuration": run_key(self.config, 0), "options": self.space.grid | bounds, "sampler": self.sampler,
            "pruner": pruner, "metric": self.metric, "seeds": self.seeds,
        }  # fmt: skip

    @property
    def key(self) -> str:
        """Return a short name of what the sweep is, for the names of files."""
        return hashlib.sha256(json.dumps(self.about(), sort_keys=True).encode()).hexdigest()[:8]


class Grid(GridSampler):
    """Sampler of a grid outside of Optuna's own loop, which it would stop after the last trial."""

    def after_trial(self, *_: Any) -> None:
        """Do nothing, because a grid needs no result."""


class Trials:
    """The trials of a sweep.

    Args:
        sweep: What is searched; a study of another sweep is refused.
        storage: Path of a journal, or URL of a database.
        root: Folder of the runs; a trial is continued where its runs are.

    Raises:
        ValueError: If the storage cannot be read, or its study is of another sweep or another version.
    """

    def __init__(self, sweep: Sweep, storage: str, root: Path) -> None:
        self.sweep, self.space, self.total = sweep, sweep.space, sweep.total
        with _explained(storage):
            self.study = optuna.create_study(
                storage=_open(storage),
                study_name=sweep.name,
                load_if_exists=True,
                direction="minimize" if lower_is_better(sweep.metric) else "maximize",
                sampler=self._sampler(0),
                pruner=make_pruner(sweep.pruner, sweep.rate, sweep.total),
            )
            self._check(_without_password(storage), sweep.name, {"format": FORMAT, **sweep.about()})
        self._claims = root / "claims" / f"{sweep.name}-{sweep.key}"
        self._claims.mkdir(parents=True, exist_ok=True)
        self._root = written_once(self._claims.parent / "id", uuid.uuid4().hex)
        self._held: dict[int, int] = {}
        self.failed: set[int] = set()

    def _sampler(self, number: int) -> BaseSampler:
        """Return the sampler of a trial, which draws from its number, and from the trials before it where it learns."""
        if self.sweep.sampler == "grid":
            return Grid(self.space.choices, seed=0)
        seed = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:4], "big")
        return RandomSampler(seed) if self.sweep.sampler == "random" else TPESampler(seed=seed, constant_liar=True)

    def _check(self, storage: str, name: str, about: dict[str, Any]) -> None:
        found = self.study.user_attrs.get(ABOUT)
        if found is None:
            if self.study.get_trials(deepcopy=False):
                raise ValueError(f"--storage {storage}: its study {name} is not of filtune sweep; take another --name")
            self.study.set_user_attr(ABOUT, about)
        elif found.get("format") != FORMAT:
            raise ValueError(
                f"--storage {storage}: its study {name} was written by another version of filtune (format "
                f"{found.get('format')}, this one reads {FORMAT}); take another --name: finished runs are found by it"
            )
        elif differing := [key for key in about if json.loads(json.dumps(about[key])) != found.get(key)]:
            raise ValueError(
                f"--storage {storage}: its study {name} is of another sweep, which differs in {', '.join(differing)}; "
                "take another --name or --storage"
            )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the storage that have a point, by default in any state."""
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if REPEATED not in trial.user_attrs and trial.params.keys() == self.space.keys]

    def point(self, trial: FrozenTrial | Trial) -> GridPoint:
        """Return the options of a trial."""
        return self.space.decode(trial.params)

    def claim(self) -> Trial | None:
        """Return a trial that was begun by a process that is gone, else a new one; None if there is none."""
        for frozen in filter(self.is_here, self.elsewhere()):
            if self._lock(frozen.number):
                if self.study.get_trials(deepcopy=False)[frozen.number].state.is_finished():
                    self.release(frozen.number)
                    continue
                trial = Trial(self.study, frozen._trial_id)  # there is no public way to continue one
                if self._begin(trial):
                    return trial
        while len(self.study.get_trials(deepcopy=False)) < self.total:
            trial = self.study.ask()
            if not self._lock(trial.number):
                continue
            if self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():  # another was faster
                self.release(trial.number)
            elif self._begin(trial):
                return trial
        return None

    def _begin(self, trial: Trial) -> bool:
        """Draw the point of a trial; whether it is to be run: it is none too many, and no other is at its point.

        Processes that ask at the same time may ask for one too many. It has no point, and is left to a longer search.
        """
        if trial.number >= self.total:
            self.release(trial.number)
            return False
        trial.set_user_attr(ROOT, self._root)
        self.study.sampler = self._sampler(trial.number)
        self.space.suggest(trial)
        same = (t.number for t in self.trials() if t.number < trial.number and self.point(t) == self.point(trial))
        earlier = next(same, None)
        if earlier is None:
            return True
        trial.set_user_attr(REPEATED, earlier)
        self.study.tell(trial, state=TrialState.FAIL)
        self.release(trial.number)
        return False

    def elsewhere(self) -> list[FrozenTrial]:
        """Return the trials that other processes are working on, or that are to be made with another root."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        mine = self._held.keys() | self.failed
        return [trial for trial in running if trial.number not in mine and trial.number < self.total]

    def is_here(self, trial: FrozenTrial) -> bool:
        """Return whether a trial's runs are below this root."""
        return trial.user_attrs.get(ROOT, self._root) == self._root

    def report(self, trial: Trial, values: dict[int, float]) -> int:
        """Report how the metric went so far; return after which part the trial is to be pruned, 0 if it is not.

        Args:
            trial: The trial.
            values: The metric by the parts of the run that are done.
        """
        known, pruned = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values, 0
        for part in sorted(values.keys() - known.keys()):
            trial.report(values[part], part)
            if not pruned and trial.should_prune():
                pruned = part
        return pruned

    def finish(self, trial: Trial, values: list[float], reason: str = "") -> None:
        """Write the result of a trial: the metric of all seeds, or why there is none: it diverged or was pruned."""
        if values:
            trial.set_user_attr(VALUES, values)
            self.study.tell(trial, sum(values) / len(values))
        else:
            trial.set_user_attr(REASON, reason)
            self.study.tell(trial, state=TrialState.PRUNED)
        self.release(trial.number)

    def fail(self, trial: Trial) -> None:
        """Leave a trial whose run failed as it is: the next command takes it up again."""
        self.failed.add(trial.number)
        self.release(trial.number)

    def _lock(self, number: int) -> bool:
        descriptor = os.open(self._claims / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if try_lock(descriptor) is False:
            os.close(descriptor)
            return False
        self._held[number] = descriptor
        return True

    def release(self, number: int) -> None:
        """Let others have a trial."""
        os.close(self._held.pop(number))

    def close(self) -> None:
        """Let others have all trials, as the end of the process does."""
        for number in list(self._held):
            self.release(number)


def make_pruner(name: str | None, rate: int, total: int) -> BasePruner:
    """Return a pruner by its name.

    Args:
        name: ``halving``, ``hyperband`` or ``median``; None for none.
        rate: Of the points that are compared one of so many goes on, with as many times the samples.
        total: Points in all; halving first compares them where the last of them would get the whole run.
    """
    if name == "halving":
        rounds = math.ceil(math.log(total, rate) - 1e-9)
        return SuccessiveHalvingPruner(max(1, PARTS // rate**rounds), reduction_factor=rate)
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=PARTS, reduction_factor=rate)
    return MedianPruner() if name == "median" else NopPruner()


def _open(storage: str) -> BaseStorage:
    if "://" in storage:
        return optuna.storages.get_storage(storage)
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


@contextmanager
def _explained(storage: str) -> Iterator[None]:
    """Report errors of a storage in one line, without the password of a database."""
    try:
        yield
    except Exception as error:  # of Optuna, of SQLAlchemy and of the driver of a database
        if str(error).startswith("--storage"):
            raise
        said = _without_password(" ".join(str(error).split()))[:200] or type(error).__name__
        raise ValueError(
            f"--storage {_without_password(storage)}: cannot be opened, it is damaged, of another version of Optuna, "
            f"or not there ({said}); name another: finished runs are found without it"
        ) from error


def _without_password(text: str) -> str:
    return re.sub(r"(?<=:)[^:@/]+(?=@)", "***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text))


def written_once(path: Path, text: str) -> str:
    """Return the text of a file, which is written if it is not there; of several processes one writes it."""
    if not path.is_file():
        own = path.with_name(f".{uuid.uuid4().hex}")
        own.write_text(text)
        with suppress(FileExistsError):
            os.link(own, path)
        own.unlink()
    return path.read_text()
