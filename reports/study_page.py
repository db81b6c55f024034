"""The page of one or several studies: a method against tuned baselines, paired by seed, as Markdown and figures."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filtune.experiments.archive import Archive
from filtune.experiments.escaping import escape_markdown
from filtune.experiments.fields import NUMBER
from filtune.experiments.tables import Table, load_table
from filtune.lightning_modules.atomic import atomic_write

from . import study_tables as tables
from .curves import draw_study
from .formatting import DASH, reproduce_root
from .statistics import paired, summarise
from .study import StreamResult, compare_streams, recovery_rules
from .targets import Targets

PROBABILITIES = (
    (("online_predictive_nll", "online_nll"), 3),
    (("online_predictive_brier", "online_brier"), 3),
    (("online_predictive_ece", "online_ece"), 1),
)
VALIDATION = (
    (("val_accuracy",), 1),
    (("val_matthews",), 1),
    (("val_pearson",), 1),
    (("val_loss",), 3),
    (("val_forgetting",), 1),
)
POSTERIOR = {
    "accuracy": "accuracy (%)",
    "nll": "log loss (nats)",
    "brier": "Brier score",
    "ece": "calibration error (%)",
    "aurc": "error over all coverages (%)",
    "accuracy_at_80": "accuracy at 80 % coverage (%)",
}
"""Titles of the metrics of ``benchmarks.uncertainty``; another is the name of a kind of out-of-distribution inputs."""


def write_study_page(
    studies: Sequence[str], roots: Sequence[Path], output: Path, title: str | None = None, posterior: Path | None = None
) -> tuple[list[Path], list[str]]:
    """Write a page of Markdown, and a figure of each study beside it.

    Args:
        studies: Studies by name or path.
        roots: Folders of ``filtune reproduce``, or packed studies.
        output: Path of the page.
        title: Title of the page; that of the first study by default.
        posterior: JSON of ``python -m benchmarks.uncertainty``, which becomes a section.

    Returns:
        The paths of the page and the figures, and one line about each file or run that was left out.

    Raises:
        ValueError: If there is nothing to compare.
    """
    found = [load_table(study) for study in studies]
    archive = Archive(roots, found)
    parts, written, summaries = [], [output], []
    output.parent.mkdir(parents=True, exist_ok=True)
    for study, table in zip(studies, found, strict=True):
        streams = compare_streams(table, archive)
        if not streams:
            raise ValueError(
                "; ".join([f"{table.name}: its method was not run; see `filtune reproduce {study}`", *archive.left_out])
            )
        written.append(output.with_name(f"{output.stem}_{table.name}.png"))
        draw_study(streams, table, written[-1])
        targets = Targets(table, streams)
        if targets.wanted:
            summaries.append(f"* [{table.title}](#{_anchor(table.title)}): {targets.summary()}")
        parts += [f"## {table.title}", *_study(table, archive, streams, targets, written[-1].name)]
    if posterior:
        parts += posterior_section(posterior)
    if summaries:
        parts = ["Targets reached:", "\n".join(summaries), *parts]
    commands = _commands(studies, roots, output, title, posterior)
    left_out = [f"* {escape_markdown(message)}" for message in archive.left_out]
    parts += ["## Left out", "\n".join(left_out)] if left_out else []
    text = [f"# {title or found[0].title}", *parts, "## The commands", commands]
    with atomic_write(output) as file:
        file.write("\n\n".join(part for part in text if part) + "\n")
    return written, archive.left_out


def _anchor(title: str) -> str:
    """The name by which a heading is linked."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _commands(
    studies: Sequence[str], roots: Sequence[Path], output: Path, title: str | None, posterior: Path | None
) -> str:
    """The commands that make the runs and the page."""
    folder = reproduce_root(roots[0])
    lines = [f"filtune reproduce {study} --root {folder}" for study in studies]
    if posterior:
        lines.append(f"python -m benchmarks.uncertainty {studies[0]} --root {folder} --output {posterior}")
    if folder != str(roots[0]):
        lines.append(f"filtune report {folder} --pack {roots[0]}")
    options = {"--title": title, "--posterior": posterior}
    words = [f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value]
    named = [shlex.quote(str(root)) for root in roots]
    lines.append(" ".join(["filtune report", *named, "--study", *studies, *words, f"--output {output}"]))
    return "\n".join(["```bash", *lines, "```"])


def _study(table: Table, archive: Archive, streams: Sequence[StreamResult], targets: Targets, figure: str) -> list[str]:
    return [
        " ".join(str(table.raw.get("notes", "")).split()),
        f"![scores of the method and the baselines over the samples]({figure})",
        "Mean ± standard deviation over the seeds; differences are those of the method to the baseline, paired by "
        "seed, with the p-value of the paired t-test.",
        "### All seeds",
        tables.score_table(streams),
        *_reserved(table, archive),
        *_targets(table, targets),
        "### Samples to the baseline's final score",
        _speed_caption(streams),
        tables.speed_table(streams),
        *_averages(streams),
        *_recoveries(table, streams),
        *_probabilities(streams),
        *_section(streams, "Validation after training", VALIDATION),
    ]


def _reserved(table: Table, archive: Archive) -> list[str]:
    seeds = (table.raw["comparison"].get("reserved") or {}).get("seeds", [])
    if not seeds:
        return []
    rates = (
        "Neither the method nor the baselines' rates were tuned on them."
        if table.tuning_seeds
        else "The method was not tuned on them; the baselines' rates are chosen on them again."
    )
    return [
        f"### Reserved seeds ({', '.join(map(str, seeds))})",
        rates,
        tables.score_table(compare_streams(table, archive, seeds)),
    ]


def _targets(table: Table, targets: Targets) -> list[str]:
    if not targets.wanted:
        return []
    caption = "Over all seeds: differences in points, and samples as a share of the baseline's."
    discussion = str(table.raw["comparison"].get("discussion", "")).strip()
    return ["### Targets", caption, targets.table(), discussion]


def _speed_caption(streams: Sequence[StreamResult]) -> str:
    found = {
        True: "the average online score stays above the baseline's final score, as a share of those of the baseline",
        False: "the validation score first reaches the baseline's final score, as a share of the baseline's whole run",
    }
    kinds = dict.fromkeys(stream.online for stream in streams)
    if len(kinds) > 1:
        found[False] += f" ({', '.join(stream.title for stream in streams if not stream.online)})"
    what = ", or ".join(found[online] for online in kinds)
    return f"Samples until {what}; the mean over the seeds, and the number of seeds that never reach it."


def _averages(streams: Sequence[StreamResult]) -> list[str]:
    """The mean over a run of scores that were taken several times."""
    metric, method = streams[0].metric, streams[0].method
    validations = max(len(method.curve(seed, metric)[1]) for seed in method.records)
    if streams[0].online or validations < 2:
        return []
    return [
        "### Mean over the run",
        "The mean of all validations of a run: it reflects speed and final score at once, with less noise than the "
        "last validation; the baseline at the point that is best at the end.",
        tables.average_table(streams),
    ]


def _recoveries(table: Table, streams: Sequence[StreamResult]) -> list[str]:
    found = recovery_rules(table)
    if not found:
        return []
    rule = next(iter(found.values()))  # they differ in their changes alone
    what = f"{rule.level:g} % of the last {rule.last}, all after the change, are predicted correctly"
    if rule.relative:
        what = (
            f"the accuracy over the last {rule.last}, all after the change, is {rule.level:g} % of the method's own "
            "over as many before the change"
        )
    return [
        "### Recovery time after a change",
        f"Samples until {what}: median and quartiles over seeds and changes. If the next change comes first, it counts "
        "as never.",
        tables.recovery_table([stream for stream in streams if stream.name in found], found),
    ]


def _probabilities(streams: Sequence[StreamResult]) -> list[str]:
    """Nothing where samples are repeated: their predictions are then not prequential."""
    return _section(streams, "Prequential probabilities", PROBABILITIES) if streams[0].online else []


def _section(streams: Sequence[StreamResult], title: str, what: Sequence[tuple[tuple[str, ...], int]]) -> list[str]:
    found = [text for text in (tables.metric_table(streams, *each) for each in what) if text]
    return [f"### {title}", *found] if found else []


def posterior_section(path: Path) -> list[str]:
    """Return the section on the posterior, of the JSON of ``python -m benchmarks.uncertainty``: headings and tables.

    Raises:
        ValueError: If the file is not what the benchmark writes.
    """
    try:
        columns = _posterior_columns(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"--posterior {path}: is not what `python -m benchmarks.uncertainty` writes") from error
    parts = [
        "## Calibration and out-of-distribution detection with the posterior",
        'On validation samples after the stream. "Posterior predictive" are the method\'s probabilities averaged over '
        'its posterior, with the tempering estimated on the stream; "untempered" without it; "variance" is that of '
        "its outputs. For a kind of out-of-distribution inputs, the value is the area under the ROC curve, in per "
        "cent, of detecting them among the validation samples by the largest probability, or by the variance. Bold: "
        "better than the softmax of either, p < 0.05 in both paired t-tests over the seeds.",
    ]
    for name, views in columns.items():
        metrics = list(dict.fromkeys(metric for found in views.values() for metric in found))
        titles = {view: _view_title(view) for view in views}
        lines = [["", *titles.values()], ["---", *("---:" for _ in views)]]
        lines += [
            [
                POSTERIOR.get(metric, f"{metric}, detected (%)"),
                *(_posterior_cell(views, view, metric) for view in views),
            ]
            for metric in metrics
        ]
        parts += [f"### {name}", "\n".join("| " + " | ".join(line) + " |" for line in lines)]
    return parts


def _posterior_columns(content: Any) -> dict[str, Any]:
    """Values of each seed, by column, view and metric.

    Raises:
        ValueError: If there is anything else.
    """
    columns: dict[str, Any] = content["columns"]
    for name, views in columns.items():
        for view, metrics in views.items():
            for metric, found in metrics.items():
                if not found["seeds"] or not all(NUMBER.accepts(value) for value in found["seeds"]):
                    raise ValueError(f"{name}, {view}, {metric}: its seeds are no numbers")
    return columns


def _view_title(view: str) -> str:
    """The name of a kind of probabilities, of earlier releases too."""
    return view.replace("moderated", "posterior predictive").replace("in full", "untempered")


def _posterior_cell(views: dict[str, Any], view: str, metric: str) -> str:
    if metric not in views[view]:
        return DASH
    own = views[view][metric]["seeds"]
    found = summarise(own)
    assert found is not None
    digits = 3 if metric in ("nll", "brier") else 1
    text = f"{found.mean:.{digits}f}" + ("" if found.deviation is None else f" ± {found.deviation:.{digits}f}")
    plain = [other[metric]["seeds"] for name, other in views.items() if name.endswith("softmax") and name != view]
    return f"**{text}**" if not view.endswith("softmax") and all(_better(own, it, metric) for it in plain) else text


def _better(own: list[float], other: list[float], metric: str) -> bool:
    test = paired(dict(enumerate(own)), dict(enumerate(other)))
    lower = metric in ("nll", "brier", "ece", "aurc")
    return test is not None and test.significant and (test.difference < 0) == lower
