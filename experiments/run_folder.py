"""The folder that ``filtune fit`` leaves of a run, read: configuration, summary, logged scalars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filtune.lightning_modules.event_files import EVENTS, check_sizes, records
from filtune.lightning_modules.integrity import DamagedFile, read_json, read_yaml
from filtune.lightning_modules.legacy import translate, translate_figure
from filtune.lightning_modules.runs import PREDICTIONS

from .fields import TIMES, config_fault, predictions_fault, summary_fault

Scalars = tuple[list[int], list[float]]
"""Steps and values of a logged scalar."""

_RESULTS = ("samples", "steps", "train_rows", "val_rows", "trainable_parameters", "total_parameters", "commit")
_RESULTS += ("peak_memory_bytes", "data_fingerprint")

CONVERGED = 0.01
"""A loss that has converged falls by less than this share of the first loss."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, read, in today's names.

    Attributes:
        folder: Its path.
        summary: The content of ``summary.json``; empty while the run is not finished.
        config: The content of ``config.yaml``.
    """

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def curves(self) -> dict[str, Scalars]:
        """Steps and values of all scalars that the run logged, each step once.

        A resumed run repeats the steps between its last checkpoint and the kill: the later ones count.

        Raises:
            DamagedFile: If an event file is damaged, cut short or missing; names it.
        """
        return read_scalars(self.folder, self.summary.get("event_bytes") or {})

    def predictions(self) -> dict[str, Any] | None:
        """Return the predictions by class and the worst of them; None of earlier releases, and without classes.

        Raises:
            DamagedFile: If the file is damaged; names it.
        """
        path = self.folder / PREDICTIONS
        if not path.is_file():
            return None
        found = read_json(path)
        if fault := predictions_fault(found):
            raise DamagedFile(f"{path}: damaged, or no predictions: {fault}")
        return found

    def results(self) -> dict[str, Any]:
        """Return what the summary says of the run, as a record has it."""
        summary, online = self.summary, {k: v for k, v in self.summary.items() if k.startswith("online_")}
        validation = {f"val_{name}": value for name, value in summary.get("val", {}).items()}
        return {
            **{name: summary.get(name) for name in _RESULTS},
            "metrics": online | validation,
            "times": {name: summary.get(name) for name in TIMES},
            "environment": {name: summary.get(name) for name in ("device", "precision", "versions")},
        }


def read_run(folder: Path) -> RunFolder:
    """Read a run's folder.

    Raises:
        ValueError: If it is not the folder of a run, or a file in it is damaged; names the file.
    """
    config, summary = folder / "config.yaml", folder / "summary.json"
    if not config.is_file():
        raise ValueError(f"{folder} is not a run's folder (it has no config.yaml)")
    found = read_json(summary) if summary.is_file() else {}
    if fault := summary_fault(found) if summary.is_file() else "":
        raise DamagedFile(f"{summary}: damaged, or of no run: {fault}")
    options = read_yaml(config)
    try:
        translated = translate(options) if isinstance(options, dict) else {}
        fault = config_fault(options) or config_fault(translated)
    except (TypeError, AttributeError, KeyError) as error:
        raise DamagedFile(f"{config}: damaged, or no configuration of a run") from error
    if fault:
        raise DamagedFile(f"{config}: damaged, or no configuration of a run: {fault}")
    return RunFolder(folder, {translate_figure(name): value for name, value in found.items()}, translated)


def read_runs(folders: Sequence[Path]) -> tuple[list[RunFolder], list[str]]:
    """Read run folders with their curves; those that cannot be read are left out.

    Returns:
        The runs, and one line about each folder that was left out.
    """
    runs, left_out = [], []
    for folder in folders:
        try:
            run = read_run(folder)
            run.curves  # noqa: B018 read, so that damage is found
        except (ValueError, OSError) as error:
            left_out.append(f"{' '.join(str(error).split())}: run left out")
        else:
            runs.append(run)
    return runs, left_out


def find_runs(path: Path) -> list[Path]:
    """Return the run folder itself, or all run folders below it, in order.

    Raises:
        ValueError: If there is none.
    """
    found = sorted(file.parent for file in path.rglob("config.yaml"))
    if not found:
        raise ValueError(f"no run under {path}")
    return found


def steps_to_convergence(steps: Sequence[int], losses: Sequence[float], threshold: float = CONVERGED) -> int | None:
    """Return the first step after which the loss stays flat or falls by less than a threshold (LoKO, appendix C.2).

    The paper gives no number: here the threshold is a share of the first loss of the curve, which is the moving
    average over 1,000 samples.

    Args:
        steps: Steps at which the loss was logged, ascending.
        losses: The loss at these, finite.
        threshold: Share of the first loss.

    Returns:
        The step; None where the loss still falls by more at the end, or there is no curve.
    """
    if len(steps) < 2:
        return None
    falls = np.asarray(losses) - np.minimum.accumulate(losses[::-1])[::-1]  # from each step on
    steep = np.flatnonzero(falls >= threshold * losses[0])
    first = steep[-1] + 1 if len(steep) else 0
    return steps[first] if first < len(steps) - 1 else None


def read_scalars(folder: Path, sizes: dict[str, int]) -> dict[str, Scalars]:
    """Return the scalars of all TensorBoard event files in a folder; of a step that was logged twice the later value.

    Args:
        folder: The folder of a run.
        sizes: Least bytes of each event file, by name, as a finished run states them.

    Raises:
        DamagedFile: If one is damaged, cut short or missing; names it.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    missing = check_sizes(folder, sizes)
    if missing:
        raise DamagedFile(f"{folder / missing[0]}: missing; the run wrote {sizes[missing[0]]} bytes")
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob(EVENTS), key=_order):
        for record in records(path):
            try:
                event = Event.FromString(record)
            except Exception as error:  # protobuf has an error of its own in each of its implementations
                raise DamagedFile(f"{path}: damaged, a record cannot be read") from error
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return {tag: (sorted(points), [points[step] for step in sorted(points)]) for tag, points in found.items()}


def _order(path: Path) -> tuple[int, str]:
    """Sort key of an event file: when it was begun, which its name says."""
    begun = path.name.split(".")[3]
    return (int(begun) if begun.isdigit() else 0), path.name
