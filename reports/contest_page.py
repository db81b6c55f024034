"""``filtune contest STUDY``: a method against tuned rivals, seed by seed, as a page of Markdown and a figure."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments.tables import Table, load_table
from reports.contest import Curve, Duel, Entrant, Stream, contest, spread
from reports.palette import looks
from reports.reading import Archive
from reports.recovery import Rule, all_recoveries
from reports.statistics import Sample, summarise
from reports.words import DASH, MINUS

AFTERWARDS = (
    ("val_accuracy", "validation accuracy (%)", 1),
    ("val_loss", "validation loss", 3),
    ("online_loss", "loss of the last 1,000", 3),
)


def main(args: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="filtune contest", description=__doc__)
    parser.add_argument("study", help="a study with a `contest`, such as configs/studies/win_stream.yaml")
    parser.add_argument(
        "--root", type=Path, default=Path("runs/reproduce"), help="what `filtune reproduce --root` named"
    )
    parser.add_argument("--output", type=Path, default=Path("contest.md"), help="the page (default: contest.md)")
    options = parser.parse_args(args)
    table = load_table(options.study)
    written = write(table, Archive([options.root], [table]), options.output, options.study, str(options.root))
    for path in written:
        Console().print(f"see  {path}", highlight=False, soft_wrap=True)


def write(table: Table, archive: Archive, output: Path, study: str, root: str) -> list[Path]:
    """Write the page and its figure, beside it.

    Returns:
        Their paths.

    Raises:
        ValueError: If there is nothing to compare.
    """
    streams = contest(table, archive)
    if not streams:
        raise ValueError(f"{table.name}: its method was not run; see `filtune reproduce {study}`")
    reserved = (table.raw["contest"].get("reserved") or {}).get("seeds", [])
    figure = output.with_suffix(".png")
    output.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        f"# {table.title}",
        " ".join(str(table.raw.get("notes", "")).split()),
        f"![average online score over the samples]({figure.name})",
        "Mean ± standard deviation over the seeds; what the method is ahead by is paired by seed, with the p-value of "
        "the paired t-test.",
        "## All seeds",
        _scores(streams),
    ]
    if reserved:
        parts += [
            f"## Reserved seeds ({', '.join(map(str, reserved))})",
            "The method was not tuned on them; the rivals' rates are chosen on them again.",
            _scores(contest(table, archive, reserved)),
        ]
    parts += [
        "## How soon",
        "Samples after which the average online score stays above where the rival's ends, as a share of those the "
        "rival takes itself; the mean over the seeds, and how many never get there.",
        _speeds(streams),
        *_recoveries(streams, table.raw["contest"].get("recovery")),
        "## Afterwards",
        "On validation samples after the stream, and at the end of it; the rivals at the rates above.",
        *(_afterwards(streams, *what) for what in AFTERWARDS),
        "## The command",
        "\n".join(
            [
                "```bash",
                f"filtune reproduce {study} --root {root}",
                f"filtune contest {study} --root {root} --output {output}",
                "```",
            ]
        ),
    ]
    output.write_text("\n\n".join(part for part in parts if part) + "\n")
    draw(streams, table, figure)
    return [output, figure]


def _scores(streams: Sequence[Stream]) -> str:
    if not streams:
        return "None was run."
    rivals = list(dict.fromkeys(name for stream in streams for name in stream.duels))
    rows = []
    for stream in streams:
        metric = next(iter(stream.duels.values())).metric if stream.duels else "online_accuracy"
        cells = [
            stream.title + (" (reserved)" if stream.reserved else ""),
            number(spread(stream.method.values(metric))),
        ]
        for name in rivals:
            duel = stream.duels.get(name)
            cells += [DASH, DASH] if duel is None else [_rival(duel.rival, metric), _difference(duel)]
        rows.append(cells)
    heads = ["stream", "method", *(text for name in rivals for text in (f"{name}, tuned", "ahead by"))]
    return grid(heads, rows)


def _rival(rival: Entrant, metric: str) -> str:
    row, _, point = rival.name.split("/", 2) if rival.name.count("/") > 1 else (*rival.name.split("/"), "")
    at = f" ({row}{', ' + point if point else ''})"
    return number(spread(rival.values(metric))) + at


def _difference(duel: Duel) -> str:
    sample = summarise(duel.differences)
    if sample is None:
        return DASH
    p = "" if duel.test is None else f", p = {duel.test.p:.2g}"
    seeds = f"{len(duel.differences)} seed{'s' if len(duel.differences) > 1 else ''}"
    return f"{'+' if sample.mean >= 0 else ''}{number(sample).replace('-', MINUS)} ({seeds}{p})"


def _speeds(streams: Sequence[Stream]) -> str:
    rivals = list(dict.fromkeys(name for stream in streams for name in stream.duels))
    rows = []
    for stream in streams:
        cells = [stream.title]
        for name in rivals:
            speed = list(stream.duels[name].speed.values()) if name in stream.duels else []
            reached = [share for share in speed if math.isfinite(share)]
            never = f", never {len(speed) - len(reached)} of {len(speed)}" if len(reached) < len(speed) else ""
            cells.append(f"{np.mean(reached):.2f}{never}" if reached else (DASH + never))
        rows.append(cells)
    return grid(["stream", *(f"{name}, tuned" for name in rivals)], rows)


def _recoveries(streams: Sequence[Stream], options: dict[str, Any] | None) -> list[str]:
    if not options:
        return []
    rule = Rule(**options)
    rivals = list(dict.fromkeys(name for stream in streams for name in stream.duels))
    rows = []
    for stream in streams:
        own = all_recoveries(stream.method, rule)
        cells = [stream.title, _until(own)]
        for name in rivals:
            theirs = all_recoveries(stream.duels[name].rival, rule) if name in stream.duels else []
            share = f"; the method takes {np.median(own) / np.median(theirs):.2f} of it" if theirs else ""
            cells.append(_until(theirs) + share)
        rows.append(cells)
    return [
        "## How soon after a change",
        f"Samples until {rule.level:g} % of the last {rule.last}, all after the change, are right: the median over "
        "seeds and changes, and the quartiles. Where that does not happen before the next change, it counts as never.",
        grid(["stream", "method", *rivals], rows),
    ]


def _until(samples: Sequence[float]) -> str:
    if not samples:
        return DASH
    low, median, high = (
        f"{q:.0f}".replace("inf", "never") for q in np.quantile(samples, (0.25, 0.5, 0.75), method="nearest")
    )
    return f"{median} ({low} to {high})"


def _afterwards(streams: Sequence[Stream], metric: str, title: str, digits: int) -> str:
    if not any(stream.method.values(metric) for stream in streams):
        return ""
    rivals = list(dict.fromkeys(name for stream in streams for name in stream.duels))
    rows = []
    for stream in streams:
        seeds = stream.method.records
        cells = [stream.title, number(spread(stream.method.values(metric)), digits)]
        for name in rivals:
            duel = stream.duels.get(name)
            cells.append(DASH if duel is None else number(spread(duel.rival.values(metric, seeds)), digits))
        rows.append(cells)
    return grid([title, "method", *(f"{name}, tuned" for name in rivals)], rows)


def number(sample: Sample | None, digits: int = 1) -> str:
    """Mean and deviation as they are written."""
    if sample is None:
        return DASH
    deviation = "" if sample.deviation is None else f" ± {sample.deviation:.{digits}f}"
    return f"{sample.mean:.{digits}f}{deviation}"


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(streams: Sequence[Stream], table: Table, target: Path) -> None:
    """The average online score over the samples: mean over the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    optimizers = {row.name: row.optimizer for row in table.rows}
    columns = min(3, len(streams))
    rows = -(-len(streams) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    for axis, stream in zip(axes.flat, streams, strict=False):
        entrants = {table.raw["contest"]["method"]: stream.method}
        entrants |= {f"{name}, tuned": duel.rival for name, duel in stream.duels.items()}
        found = looks([(label, optimizers[e.name.split("/")[0]], "paper") for label, e in entrants.items()])
        for label, entrant in entrants.items():
            samples, scores = band([entrant.curve(seed) for seed in entrant.records])
            axis.plot(samples, scores.mean(0), color=found[label].colour, label=label)
            axis.fill_between(samples, scores.min(0), scores.max(0), color=found[label].colour, alpha=0.12, lw=0)
        axis.set_title(stream.title, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(streams) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("average online score (%)", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("samples", fontsize=9)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.savefig(target, dpi=130)
    plt.close(figure)


def band(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Curves at the samples of the first: (points,), (curves, points)."""
    samples = curves[0][0]
    return samples, np.stack([np.interp(samples, *curve) for curve in curves])
