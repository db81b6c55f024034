"""Runs that belong to no paper's table: sweeps, and folders of ``filtune fit``, sorted by their metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filtune.experiments.archive import Archive
from filtune.experiments.classes import optimizer_label
from filtune.experiments.fields import record_fault
from filtune.experiments.records import Record, lower_is_better
from filtune.experiments.run_folder import RunFolder, read_runs

from .figures import Figure, FigurePlan, Line
from .formatting import is_of_segment
from .plots import Look, looks_of
from .seed_runs import SeedRuns

_METRICS = (
    "val_accuracy", "val_matthews", "val_pearson", "val_spearman", "val_f1", "val_forgetting", "online_accuracy",
    "online_pearson", "online_top5", "val_loss", "online_loss", "seconds_per_step",
)  # fmt: skip
"""In the order of the columns; the first there is sorts the runs unless a sweep says otherwise."""

_LAST = ("loss", "nll", "brier", "ece", "l1")
"""Ends of the names of metrics that are no score."""

_NO_OPTIONS = ("seed_everything", "run", "ckpt_path")


@dataclass(frozen=True)
class Entry(SeedRuns):
    """A configuration's runs.

    Attributes:
        optimizer: Its class.
        look: Colour and stroke.
    """

    optimizer: str
    look: Look


@dataclass
class Listing:
    """A table of runs.

    Attributes:
        slug: Its name in files and addresses.
        title: What was run.
        note: Its folder, and the like.
        metric: What it is sorted by.
        entries: The configurations, the best first.
        figures: Drawn later.
    """

    slug: str
    title: str
    note: str
    metric: str
    entries: list[Entry]
    figures: list[Figure] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """Metrics of the columns: those that any run has, the one that sorts first."""
        had = _metrics(self.entries)
        return [self.metric, *(metric for metric in had if metric != self.metric)]

    def best(self, metric: str) -> float | None:
        """Return the best mean of a column."""
        means = [sample.mean for entry in self.entries if (sample := entry.sample(metric))]
        return (min if lower_is_better(metric) else max)(means) if means else None

    def plan(self) -> FigurePlan:
        """Return the plan of the figure of its curves."""
        score = next((m for m in _metrics(self.entries) if m.startswith("online_") and not m.endswith(_LAST)), None)
        curves = [(score or "online_accuracy").replace("_", "/", 1), "online/loss", self.metric.replace("_", "/", 1)]
        lines = [Line(entry.name, entry.look, {"": list(entry.records.values())}) for entry in self.entries[:12]]
        more = f", the best 12 of {len(self.entries)}" if len(self.entries) > 12 else ""
        once = list(dict.fromkeys(curves))
        return FigurePlan(f"{self.slug}_curves", f"{self.title}{more}", [("", "", self.metric)], once, lines)


def sweep_listing(manifest: dict[str, Any], archive: Archive) -> Listing:
    """Return the listing of a sweep, sorted by its metric; with successive halving the longest runs first."""
    cells = {name: {int(seed): key for seed, key in keys.items()} for name, keys in manifest["cells"].items()}
    found = {name or "as it is": archive.records(keys) for name, keys in cells.items()}
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
        if fault := record_fault(_record(run), of_store=False):
            left_out.append(f"{run.folder}: {fault}: run left out")
        else:
            runs.append(run)
    groups: dict[str, list[RunFolder]] = {}
    for run in runs:
        groups.setdefault(f"{run.summary['task']} / {run.summary['backbone']}", []).append(run)
    return [_of_runs(title, group) for title, group in groups.items()]


def _of_runs(title: str, runs: list[RunFolder]) -> Listing:
    options = [_options(run.config) for run in runs]
    names = [optimizer_label(run.config.get("optimizer") or {}) for run in runs]
    rows: dict[str, dict[int, Record]] = {}
    optimizers = {}
    for name, own, run in zip(names, options, runs, strict=True):
        peers = [other for peer, other in zip(names, options, strict=True) if peer == name]
        differing = [key for key in own if any(other.get(key) != own[key] for other in peers)]
        label = " ".join([name, *(f"{key.rpartition('.')[2]}={own[key]}" for key in differing)])
        rows.setdefault(label, {})[run.config.get("seed_everything") or 0] = _record(run)
        optimizers[label] = run.summary["optimizer"]
    slug = f"runs-{_slug(title.replace(' / ', '-'))}"
    note = f"{len(runs)} runs of filtune fit; duplicate runs: the latest is shown"
    return _listing(slug, title, note, None, [(name, optimizers[name], records) for name, records in rows.items()])


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


def _options(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the options that shape a run's result, by dotted key."""
    if not isinstance(config, dict):
        return {prefix: config}
    kept = {key: value for key, value in config.items() if prefix or key not in _NO_OPTIONS}
    return {k: v for key, value in kept.items() for k, v in _options(value, f"{prefix}.{key}".lstrip(".")).items()}


def _record(run: RunFolder) -> Record:
    summary = run.summary
    return {
        "status": "finished",
        "config": run.config,
        "metrics": {k: v for k, v in summary.items() if k.startswith("online_")}
        | {f"val_{name}": number for name, number in summary.get("val", {}).items()},
        "curves": run.curves(),
        "times": {name: summary.get(name) for name in ("wall_seconds", "seconds_per_step", "mean_seconds_per_step")},
        "environment": {key: summary.get(key) for key in ("device", "precision", "versions")},
        **{name: summary.get(name) for name in ("task", "backbone", "optimizer", "seed", "samples", "steps", "commit")},
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
        longest = max((record.get("samples") or 0 for record in entry.records.values()), default=0)
        return sample is None, -longest if halved else 0, sign * sample.mean if sample else 0.0

    entries.sort(key=place)
    return Listing(slug, title, note, chosen, entries)
