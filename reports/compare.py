"""``filtune compare RUN...``: finished runs side by side, as a table and as online curves."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        folder: Where it lies.
        summary: ``summary.json``; empty while the run is not finished.
        config: ``config.yaml``.
    """

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]

    def curve(self, tag: str) -> tuple[list[int], list[float]]:
        """Steps and values of a scalar that the run logged, each step once."""
        return self.curves().get(tag, ([], []))

    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of all scalars that the run logged, each step once."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0})
        events.Reload()
        found = {}
        for tag in events.Tags()["scalars"]:
            # a continued run repeats the steps between its last checkpoint and the kill: the later one counts
            points = {event.step: event.value for event in events.Scalars(tag)}
            found[tag] = sorted(points), [points[step] for step in sorted(points)]
        return found


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ValueError: If it is not the folder of a run.
    """
    config, summary = folder / "config.yaml", folder / "summary.json"
    if not config.is_file():
        raise ValueError(f"compare: {folder} is not a run's folder (it has no config.yaml)")
    return Run(
        folder,
        json.loads(summary.read_text()) if summary.is_file() else {},
        yaml.safe_load(config.read_text()),
    )


def find_runs(path: Path) -> list[Path]:
    """The run folder itself, or all run folders below it, in order.

    Raises:
        ValueError: If there is none.
    """
    found = sorted(file.parent for file in path.rglob("config.yaml"))
    if not found:
        raise ValueError(f"compare: no run under {path}")
    return found


def labels(runs: list[Run]) -> list[str]:
    """A name for each run: its optimizer, and the arguments in which it differs from the others of that name."""
    described = []
    for run in runs:
        chosen = run.config.get("optimizer") or {}
        described.append((str(chosen.get("class_path", "?")).rpartition(".")[2], chosen.get("init_args") or {}, run))
    names = []
    for optimizer, arguments, run in described:
        peers = [other for name, other, _ in described if name == optimizer]
        differing = [k for k in arguments if any(other.get(k) != arguments[k] for other in peers)]
        extra = [f"{key}={arguments[key]}" for key in differing]
        if len({str(other.config.get("seed_everything")) for other in runs}) > 1:
            extra.append(f"seed {run.config.get('seed_everything')}")
        names.append(" ".join([optimizer, *extra]))
    return names


def table(runs: list[Run]) -> Table:
    """The runs' results, one row each."""
    scores = sorted({name for run in runs for name in run.summary.get("val", {})})
    online = sorted({k for run in runs for k in run.summary if k in ("online_accuracy", "online_pearson")})
    result = Table(title=_title(runs))
    result.add_column("run", overflow="fold", min_width=10)
    headings = [*(k.replace("_", "\n", 1) for k in online), "online\nloss", *(f"val\n{name}" for name in scores)]
    for heading in ["samples", *headings, "ms per\nstep"]:
        result.add_column(heading, justify="right")
    for label, run in zip(labels(runs), runs, strict=True):
        s = run.summary
        if not s:
            result.add_row(label, "not finished")
            continue
        seconds = s.get("seconds_per_step")
        result.add_row(
            label,
            str(s["samples"]),
            *(_figure(s.get(k), 2) for k in online),
            _figure(s.get("online_loss"), 4),
            *(_figure(s.get("val", {}).get(name), 4 if name == "loss" else 2) for name in scores),
            _figure(seconds and 1000 * seconds, 2),
        )
    return result


def show(folders: list[Path]) -> None:
    """Print the table, where the logs lie, and how to look at them."""
    console = Console()
    runs = [read_run(folder) for folder in folders]
    console.print(table(runs))
    for run in runs:
        console.print(f"log  {run.folder}", highlight=False, soft_wrap=True)
    common = folders[0].parents[1]
    console.print(f"see  tensorboard --logdir {common}", highlight=False, soft_wrap=True)


def plot(runs: list[Run], target: Path) -> None:
    """Draw the online score and the windowed loss of the runs over the steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    score = "online/pearson" if any("online_pearson" in run.summary for run in runs) else "online/accuracy"
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, tag, title in [
        (axes[0], score, f"{score.replace('/', ' ')} (%), before the update"),
        (axes[1], "online/loss", "online loss, mean of the last 1000"),
    ]:
        for label, run in zip(labels(runs), runs, strict=True):
            axis.plot(*run.curve(tag), label=label)
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(_title(runs))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)
    plt.close(figure)


def main(args: list[str]) -> None:
    """The command ``filtune compare``."""
    parser = argparse.ArgumentParser(prog="filtune compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of several runs")
    parser.add_argument("--output", type=Path, default=Path("compare.png"), help="the plot (default: compare.png)")
    options = parser.parse_args(args)
    runs = [read_run(folder) for path in options.runs for folder in find_runs(path)]
    console = Console()
    console.print(table(runs))
    plot(runs, options.output)
    console.print(f"plot {options.output}", highlight=False)


def _title(runs: list[Run]) -> str:
    return ", ".join(sorted({f"{r.summary['task']} / {r.summary['backbone']}" for r in runs if r.summary}))


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
