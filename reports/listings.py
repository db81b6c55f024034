"""Runs that belong to no paper's table: sweeps, and folders of ``filtune fit``, sorted by their metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.experiments.archive import Archive
from filtune.experiments.fields import record_fault
from filtune.experiments.records import Record, lower_is_better
from filtune.experiments.run_folder import RunFolder, read_runs
from filtune.lightning_modules.integrity import DamagedFile

from .class_tables import Predictions, joint_predictions
from .figures import FigurePlan, Line, plan_curves
from .formatting import format_difference, format_mean_std, format_metric, format_p, is_of_segment, metric_title
from .labels import rate_label, run_labels
from .plots import Look, looks_of
from .seed_runs import SeedRuns
from .statistics import MeanStd, paired

_METRICS = (
    "val_accuracy", "val_matthews", "val_pearson", "val_spearman", "val_f1", "val_forgetting", "online_accuracy",
    "online_pearson", "online_top5", "online_nll", "online_ece", "val_loss", "online_loss", "seconds_per_step",
)  # fmt: skip
"""In the order of the columns; the first there is sorts the runs unless a sweep says otherwise."""

_FIRST = ("online_accuracy", "online_pearson", "online_nll", "val_loss", "seconds_per_step")
"""Columns of the first table of a page, after that of the metric that sorts; the others are folded."""

_LAST = ("loss", "nll", "brier", "ece", "l1")
"""Ends of the names of metrics that are no score."""


@dataclass(frozen=True)
class Entry(SeedRuns):
    """A configuration's runs.

    Attributes:
        optimizer: Its class.
        look: Colour and stroke.
    """

    optimizer: str
    look: Look

    @property
    def samples(self) -> int:
        """Samples of its longest run."""
        return max((record.get("samples") or 0 for record in self.records.values()), default=0)

    @property
    def predictions(self) -> Predictions | None:
        """Predictions by class, of all seeds together."""
        found = ((seed, record.get("predictions")) for seed, record in self.records.items())
        return joint_predictions((seed, content) for seed, content in found if content)


@dataclass
class Listing:
    """A table of runs.

    Attributes:
        slug: Its name in files and addresses.
        title: What was run.
        note: Its folder, and the like.
        metric: What it is sorted by.
        entries: The configurations, the best first.
    """

    slug: str
    title: str
    note: str
    metric: str
    entries: list[Entry]

    @property
    def metrics(self) -> list[str]:
        """Metrics of the columns: those that any run has, the one that sorts first."""
        had = _metrics(self.entries)
        return [self.metric, *(metric for metric in had if metric != self.metric)]

    @property
    def first_metrics(self) -> list[str]:
        """Metrics of the columns that answer which configuration is best, and at which cost."""
        return [metric for metric in self.metrics if metric in (self.metric, *_FIRST)]

    @property
    def predicted(self) -> list[tuple[str, Predictions]]:
        """Name and predictions of the configurations whose runs have kept them, the best first, six at most."""
        return [(entry.name, found) for entry in self.entries if (found := entry.predictions)][:6]

    @property
    def counted(self) -> list[tuple[str, Predictions]]:
        """Those of them with counts by class."""
        return [(name, found) for name, found in self.predicted if found.confusion is not None]

    def answer(self) -> str:
        """Return which configuration is best, and whether the next one is behind it by more than chance."""
        scored = [(entry, sample) for entry in self.entries if (sample := entry.sample(self.metric))]
        ranked = [pair for pair in scored if pair[0].samples == scored[0][0].samples]  # of a halved sweep the longest
        if not ranked:
            return ""
        (best, sample), *others = ranked
        title = metric_title(self.metric)
        if not others:
            return f"{best.name}: {title} {_mean(sample, self.metric)}."
        *tied, last = [entry.name for entry, its in ranked if its.mean == sample.mean]
        if tied:
            return f"{', '.join(tied)} and {last} have the same {title}: {format_metric(sample.mean, self.metric)}."
        text = f"{best.name} has the best {title}: {_mean(sample, self.metric)}."
        second, behind = others[0]
        test = paired(best.values(self.metric), second.values(self.metric))
        difference = format_difference(test.difference if test else sample.mean - behind.mean, self.metric)
        chance = f"paired by seed, {format_p(test.p, 'p')}" if test else "too few common seeds for a test"
        noise = ", which may be chance" if test and not test.significant else ""
        text += f" Next is {second.name}: {_mean(behind, self.metric)}"
        return f"{text}, a difference of {difference} ({chance}){noise}."

    def best(self, metric: str) -> float | None:
        """Return the best mean of a column; None where nothing is compared."""
        means = [sample.mean for entry in self.entries if (sample := entry.sample(metric))]
        return (min if lower_is_better(metric) else max)(means) if len(means) > 1 else None

    def plan(self) -> FigurePlan:
        """Return the plan of the figure of its curves."""
        score = next((m for m in _metrics(self.entries) if m.startswith("online_") and not m.endswith(_LAST)), None)
        curves = [(score or "online_accuracy").replace("_", "/", 1), "online/loss", self.metric.replace("_", "/", 1)]
        lines = [Line(entry.name, entry.look, {"": list(entry.records.values())}) for entry in self.entries[:12]]
        more = f", the best 12 of {len(self.entries)}" if len(self.entries) > 12 else ""
        once = list(dict.fromkeys(curves))
        return plan_curves(f"{self.slug}_curves", f"{self.title}{more}", [("", "", self.metric)], once, lines)


def sweep_listing(manifest: dict[str, Any], archive: Archive) -> Listing:
    """Return the listing of a sweep, sorted by its metric; with successive halving the longest runs first."""
    cells = {name: {int(seed): key for seed, key in keys.items()} for name, keys in manifest["cells"].items()}
    named = {name or "as it is": archive.records(keys) for name, keys in cells.items()}
    found = {_with_rate(name, records): records for name, records in named.items()}
    rows = [(name, next((r["optimizer"] for r in records.values()), "?"), records) for name, records in found.items()]
    sweep = manifest.get("sweep") or {}
    grid = "; ".join(f"{key}: {', '.join(map(str, v))}" for key, v in (sweep.get("grid") or {}).items())
    run = [record for records in found.values() for record in records.values()]
    parts = sorted({f"{record['task']} / {record['backbone']}" for record in run})
    title = f"Sweep of {', '.join(sorted({r['optimizer'] for r in run})) or manifest['name']}"
    title, halved = " on ".join([title, *parts[:1]]), bool(sweep.get("halving"))
    return _listing(f"sweep-{_slug(manifest['name'])}", title, grid, sweep.get("metric"), rows, halved)


def run_listings(folders: Sequence[Path], left_out: list[str]) -> list[Listing]:
    """Return the listings of folders of ``filtune fit``, one per task and model; seeds of a configuration share a row.

    Args:
        folders: The runs' folders.
        left_out: Where to say which of them are left out, one line each.
    """
    found, faults = read_runs(folders)
    left_out += faults
    left_out += [f"{run.folder} is not finished: left out" for run in found if not run.summary]
    runs = []
    for run in (run for run in found if run.summary):
        if fault := record_fault(record := run_record(run), of_store=False):
            left_out.append(f"{run.folder}: {fault}: run left out")
            continue
        try:
            record["predictions"] = run.predictions()
        except (DamagedFile, OSError) as error:
            left_out.append(f"{error}: predictions left out")
        runs.append((run, record))
    groups: dict[str, list[tuple[RunFolder, Record]]] = {}
    for run, record in runs:
        groups.setdefault(f"{record['task']} / {record['backbone']}", []).append((run, record))
    return [_of_runs(title, group) for title, group in groups.items()]


def _of_runs(title: str, runs: list[tuple[RunFolder, Record]]) -> Listing:
    rows: dict[str, dict[int, Record]] = {}
    for label, (run, record) in zip(run_labels([run for run, _ in runs]), runs, strict=True):
        rows.setdefault(label, {})[run.config.get("seed_everything") or 0] = record
    shown = [(label, next(iter(records.values()))["optimizer"], records) for label, records in rows.items()]
    repeated = len(runs) - sum(map(len, rows.values()))
    note = f"{len(runs)} run{'s' * (len(runs) > 1)} of filtune fit"
    if repeated:
        note += (
            f"; {repeated} of them repeat{'s' * (repeated == 1)} another with the same seed and options: the latest "
        )
        note += "of these is shown"
    return _listing(f"runs-{_slug(title.replace(' / ', '-'))}", title, note, None, shown)


def _with_rate(name: str, records: dict[int, Record]) -> str:
    """Return the name of a sweep's point with the learning rate or prior, where the point does not name it."""
    rates = {rate_label(record["config"]) for record in records.values()} - {""}
    rate = rates.pop() if len(rates) == 1 else ""
    return f"{name}, {rate}" if rate and rate.partition("=")[0] not in name else name


def _mean(sample: MeanStd, metric: str) -> str:
    return f"{format_mean_std(sample, metric)} ({sample.count} seed{'' if sample.count == 1 else 's'})"


def _slug(name: str) -> str:
    """Return a name as part of a file's name, which leads into no other folder."""
    return "".join(c if c.isalnum() or c in "_=,." else "-" for c in name)[:150]


def _metrics(entries: list[Entry]) -> list[str]:
    """Return names of the metrics that any run has: scores that are not among the known ones come first."""
    found = {name for entry in entries for record in entry.records.values() for name in record["metrics"]}
    others = [name for name in found if name not in _METRICS and not name.endswith(_LAST) and not is_of_segment(name)]
    own = sorted(
        (name for name in others if name.startswith(("val_", "online_"))), key=lambda name: (name[0] != "v", name)
    )
    return [name for name in (*own, *_METRICS) if any(entry.sample(name) for entry in entries)]


def run_record(run: RunFolder) -> Record:
    """Return the record of a run, as a store would have it; its predictions are added later."""
    named = {name: run.summary.get(name) for name in ("task", "backbone", "optimizer", "seed")}
    return {
        **run.results(),
        **named,
        "status": "finished",
        "config": run.config,
        "folder": str(run.folder),
        "curves": run.curves,
    }


def _listing(
    slug: str,
    title: str,
    note: str,
    metric: str | None,
    rows: list[tuple[str, str, dict[int, Record]]],
    halved: bool = False,
) -> Listing:
    styles = looks_of([(name, optimizer) for name, optimizer, _ in rows])
    entries = [Entry(name, records, optimizer, styles[name]) for name, optimizer, records in rows]
    had = _metrics(entries)
    chosen = metric if metric and any(entry.sample(metric) for entry in entries) else (had or ["val_accuracy"])[0]
    sign = 1 if lower_is_better(chosen) else -1

    def place(entry: Entry) -> tuple[bool, int, float]:
        sample = entry.sample(chosen)
        return sample is None, -entry.samples if halved else 0, sign * sample.mean if sample else 0.0

    entries.sort(key=place)
    return Listing(slug, title, note, chosen, entries)
