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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtune.lightning_modules.locks import try_lock

from .search import PARTS, SAMPLERS, GridPoint, SearchSpace

try:
    import optuna
    from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
except ImportError as error:
    raise ValueError("filtune sweep: needs optuna; pip install optuna") from error

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial, TrialState

FORMAT = 1
"""Version of what a study says of the sweep."""

ABOUT, ROOT, VALUES = "filtune", "filtune_root", "values_of_seeds"
"""Attributes: of a study, what sweep it is of; of a trial, where its runs are, and the metric of each seed."""

REASON, REPEATED = "reason", "repeats"
"""Attributes of trials without a value: why, and the number of an earlier one at the same point."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


class ByNumber(BaseSampler):
    """Sampler that draws a point from the number of its trial, and from the trials before it where it learns.

    Args:
        name: ``grid``, ``random`` or ``tpe``.
        space: Where to search.
    """

    def __init__(self, name: str, space: SearchSpace) -> None:
        self._makers: dict[str, Callable[[int], BaseSampler]] = {
            "grid": lambda seed: GridSampler(space.choices, seed=0),
            "random": lambda seed: RandomSampler(seed=seed),
            "tpe": lambda seed: TPESampler(seed=seed, constant_liar=True),
        }
        assert self._makers.keys() == set(SAMPLERS)
        self._make = self._makers[name]
        self._last: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._last is None or self._last[0] != trial.number:
            seed = int.from_bytes(hashlib.sha256(str(trial.number).encode()).digest()[:4], "big")
            self._last = trial.number, self._make(seed)
        return self._last[1]

    def before_trial(self, study: Any, trial: FrozenTrial) -> None:
        """Prepare the sampler of a trial."""
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        """Return the part of the search space that is drawn at once."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Draw values of the options at once."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Draw the value of an option."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


class Trials:
    """The trials of a search.

    Args:
        storage: Path of a journal, or URL of a database.
        name: Name of the study in the storage.
        about: What the search is: a study of another one is refused.
        maximize: Whether a higher metric is better.
        sampler: ``grid``, ``random`` or ``tpe``.
        space: Where to search.
        total: Trials in all.
        pruner: Which trials are stopped early.
        root: Folder of the runs; a trial is continued where its runs are.

    Raises:
        ValueError: If the storage cannot be read, or its study is of another search or another version.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        about: dict[str, Any],
        maximize: bool,
        sampler: str,
        space: SearchSpace,
        total: int,
        pruner: BasePruner | None,
        root: Path,
    ) -> None:
        self.space, self.total = space, total
        with _explained(storage):
            self.study = optuna.create_study(
                storage=_open(storage),
                study_name=name,
                load_if_exists=True,
                direction="maximize" if maximize else "minimize",
                sampler=ByNumber(sampler, space),
                pruner=pruner or optuna.pruners.NopPruner(),
            )
            self._check(_without_password(storage), name, {"format": FORMAT, **about})
        self._claims = root / "claims" / f"{name}-{settings_key(about)}"
        self._claims.mkdir(parents=True, exist_ok=True)
        self._root = written_once(self._claims.parent / "id", uuid.uuid4().hex)
        self._held: dict[int, int] = {}
        self.failed: set[int] = set()

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
        for frozen in self._open_trials():
            if frozen.number not in self._held and self._lock(frozen.number):
                if self.study.get_trials(deepcopy=False)[frozen.number].state.is_finished():
                    self.release(frozen.number)
                    continue
                trial = optuna.trial.Trial(self.study, frozen._trial_id)  # there is no public way to continue one
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
        self.space.suggest(trial)
        same = (t.number for t in self.trials() if t.number < trial.number and self.point(t) == self.point(trial))
        earlier = next(same, None)
        if earlier is None:
            return True
        trial.set_user_attr(REPEATED, earlier)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self.release(trial.number)
        return False

    def elsewhere(self) -> list[FrozenTrial]:
        """Return the trials that other processes are working on, or that are to be made with another root."""
        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        mine = self._held.keys() | self.failed
        return [trial for trial in running if trial.number not in mine and trial.number < self.total]

    def _open_trials(self) -> Iterator[FrozenTrial]:
        for trial in self.elsewhere():
            if self.is_here(trial):
                yield trial

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
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
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


def settings_key(about: dict[str, Any]) -> str:
    """Return a short name of what a search is, for the names of files."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


def make_pruner(name: str | None, rate: int, total: int) -> BasePruner | None:
    """Return a pruner by its name.

    Args:
        name: ``halving``, ``hyperband`` or ``median``; None for none.
        rate: Of the points that are compared one of so many goes on, with as many times the samples.
        total: Points in all; halving first compares them where the last of them would get the whole run.
    """
    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "halving":
        rounds = math.ceil(math.log(total, rate) - 1e-9)
        return optuna.pruners.SuccessiveHalvingPruner(max(1, PARTS // rate**rounds), reduction_factor=rate)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=PARTS, reduction_factor=rate)
    return None


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
