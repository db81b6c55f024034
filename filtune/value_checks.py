"""Values that are checked before any data is read: options of the optimizer and its baselines, the seed, the folder.

Every optimizer is built from its configuration around two parameters of no consequence, so that what its constructor
refuses is known at once. Whose value it is that fails is found by trying: the option whose default makes the error go
away, or become another one. This works for any class, torch's own messages included, which do not name an option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import nn

from filtune.experiments.classes import find_class, options
from filtune.lightning_modules import Schedule

Build = Callable[[dict[str, Any]], torch.optim.Optimizer]

Label = Callable[[str], str]

MAX_SEED = 2**32 - 1
"""Largest seed that numpy takes."""


def check_seed(seed: Any, label: str) -> None:
    """Check that the seed is a number, not a request for any seed.

    Args:
        seed: The seed.
        label: The option as its user wrote it.

    Raises:
        ValueError: Naming the option.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"{label}: must be a whole number from 0 to {MAX_SEED}, got {str(seed).lower()}")


def check_root(root: str, label: str) -> None:
    """Check that folders and files can be written below the folder of all runs; nothing is left there.

    Args:
        root: The folder, which may not exist yet.
        label: The option as its user wrote it.

    Raises:
        ValueError: Naming the option and the remedy.
    """
    try:
        with TemporaryFile(dir=_existing(Path(root))):
            if not root.startswith("~"):
                return
        reason = "~ stands for no folder here"
    except ValueError:  # a null byte
        reason = "no folder can have such a name"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    shown = root if len(root) <= 100 else f"{root[:97]}..."
    raise ValueError(f"{label} {shown!r}: cannot be written ({reason}); name a folder that can, by --run.root")


def _existing(root: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    root, missing = root.absolute(), []
    while True:
        try:
            os.stat(root)
        except FileNotFoundError:
            missing.append(root.name)
            root = root.parent
            continue
        for name in missing:
            with suppress(FileNotFoundError):
                os.stat(root / name)  # is the name too long?
        return root


def check_optimizer(config: Any, label: Label, is_baseline: bool = False) -> None:
    """Build the optimizer of a parsed configuration, and check the options of groups and the schedule.

    Args:
        config: The parsed configuration of ``fit``.
        label: Returns an option as its user wrote it, by its key.
        is_baseline: Whether the groups and the schedule are those of another optimizer.

    Raises:
        ValueError: Naming the option and what it must be.
    """
    chosen = config.optimizer.as_dict()
    given = {**(chosen.get("init_args") or {}), **(chosen.get("dict_kwargs") or {})}
    trial = Trial(find_class("optimizer", chosen["class_path"]), given)
    optimizer = trial.run(lambda name: label(f"optimizer.{name}"))
    if is_baseline:
        return
    for pattern, own in (config.model.param_groups or {}).items():
        _check_group(pattern, own, optimizer, label("model.param_groups"))
        trial.run_group(own, lambda name, pattern=pattern: f"{label('model.param_groups')}: {pattern}: {name}")
    schedule = Schedule(**config.model.schedule.as_dict()) if config.model.schedule else Schedule()
    if schedule.warmup < 0:
        raise ValueError(f"{label('model.schedule.warmup')}: must be zero or positive, got {schedule.warmup}")
    if optimizer is not None and not schedule.constant:
        schedule.check(optimizer)


def _check_group(pattern: str, own: Mapping[str, Any], optimizer: torch.optim.Optimizer | None, label: str) -> None:
    """Check that the pattern of a group is a regular expression, and its options those that a group has."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{label}: {pattern!r} is no regular expression: {error}") from None
    for name in own:
        if optimizer is not None and name not in optimizer.defaults:
            known = ", ".join(sorted(optimizer.defaults))
            raise ValueError(
                f"{label}: {pattern}: {type(optimizer).__name__} has no {name} for a group; it has {known}"
            )


class Trial:
    """An optimizer that is built to find out whether its options are in range.

    Args:
        cls: Its class.
        given: Its options.
    """

    def __init__(self, cls: type[torch.optim.Optimizer], given: Mapping[str, Any]) -> None:
        self.cls, self.given = cls, dict(given)
        known = options("optimizer", cls)
        self.defaults = {name: option.default for name, option in known.items() if not option.required}

    def run(self, label: Label) -> torch.optim.Optimizer | None:
        """Build the optimizer.

        Args:
            label: Returns an option as its user wrote it, by its name.

        Returns:
            The optimizer; None where it can be built with other parameters alone.

        Raises:
            ValueError: Naming the option and what it must be.
        """
        return self._try(lambda given: self.cls(_parameters(), **given), self.given, self.defaults, label)

    def run_group(self, own: Mapping[str, Any], label: Label) -> None:
        """Build the optimizer with a group that has options of its own.

        Args:
            own: Its options.
            label: Returns an option of the group as its user wrote it, by its name.

        Raises:
            ValueError: Naming the option and what it must be.
        """

        def build(own: dict[str, Any]) -> torch.optim.Optimizer:
            first, second = _parameters()
            return self.cls([{"params": [first]}, {"params": [second], **own}], **self.given)

        defaults = {name: self.given.get(name, default) for name, default in self.defaults.items()}
        self._try(build, dict(own), defaults, label)

    def _try(
        self, build: Build, given: dict[str, Any], defaults: Mapping[str, Any], label: Label
    ) -> torch.optim.Optimizer | None:
        try:
            return build(given)
        except Exception as error:  # of any class, which may be the user's
            said = " ".join(str(error).split()) or type(error).__name__
        suspects = list(_suspects(build, given, defaults, said))
        suspects = suspects or [name for name in given if name not in defaults and _at(name, said) < len(said)]
        if not suspects:
            return None  # it is the parameters that this rule cannot move
        name = min(suspects, key=lambda name: _at(name, said))
        said = said.removeprefix(f"{self.cls.__name__}: ")
        if inner := re.match(rf"{name}((?:\.\w+)+):? ", said):
            raise ValueError(f"{label(name + inner[1])}: {said[inner.end() :]}")
        said = re.sub(rf"^{name}(: | (?=must|is|below|needs|of))", "", said)
        raise ValueError(f"{label(name)}: {said}")


def _suspects(build: Build, given: dict[str, Any], defaults: Mapping[str, Any], said: str) -> Iterator[str]:
    """Yield the options without whose value an error goes away, or becomes another one."""
    for name, value in given.items():
        if name in defaults and repr(value) != repr(defaults[name]):
            try:
                build({**given, name: defaults[name]})
            except Exception as error:
                if " ".join(str(error).split()) == said:
                    continue
            yield name


def _at(name: str, said: str) -> int:
    """Return where a message names an option; its length where it does not."""
    found = re.search(rf"\b{re.escape(name)}\b", said)
    return found.start() if found else len(said)


def _parameters() -> list[nn.Parameter]:
    """Return two matrices, which every rule can move."""
    return [nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
