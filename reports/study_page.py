"""The page of one or several studies: a method against tuned baselines, paired by seed, as Markdown and figures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filtune.experiments.archive import Archive
from filtune.experiments.escaping import escape_markdown
from filtune.experiments.tables import Table, load_table
from filtune.lightning_modules.atomic import atomic_write

from .coverage import not_run
from .formatting import metric_title, reproduce_root
from .posterior import posterior_section, posterior_streams
from .seed_runs import SeedRuns
from .study import StreamResult, compare_streams, compared_rows, is_online, learning_rate, recovery_rules
from .study_figure import draw_study
from .study_tables import MethodLine, ScoreTable, recovery_table, speed_table
from .targets import Targets

CAPTION = (
    "{}: mean ± standard deviation over the seeds, the best of a table in bold. Below a baseline's score: {} minus "
    r"this baseline, paired by seed; \* p < 0.05, \*\* p < 0.01, \*\*\* p < 0.001 in the paired t-test with Holm's "
    "correction over all baselines of the stream."
)
MORE = (("online_pearson", 1), ("online_brier", 3), ("online_ece", 1), ("val_matthews", 1), ("val_loss", 3))
END = "† must know where the stream ends."


def write_study_page(
    studies: Sequence[str], roots: Sequence[Path], output: Path, title: str | None = None, posterior: Path | None = None
) -> tuple[list[Path], list[str]]:
    """Write a page of Markdown, and a figure of each study beside it.

    Args:
        studies: Studies by name or path.
        roots: Folders of ``filtune reproduce``, or packed studies.
        output: Path of the page.
        title: Title of the page; that of the first study by default.
        posterior: JSON of ``filtune report --evaluate``, which becomes a section.

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
        if not any(stream.method.finished for stream in streams):
            failed = "diverged in all runs" if any(stream.method.diverged for stream in streams) else "was not run"
            raise ValueError(
                "; ".join([f"{table.name}: its method {failed}; see `filtune reproduce {study}`", *archive.left_out])
            )
        figure = output.with_name(f"{output.stem}_{table.name}.png")
        figures = draw_study(streams, table, figure)
        written += figures
        targets = Targets(table, streams)
        if targets.results:
            summaries.append(f"* [{table.title}](#{_anchor(table.title)})")
            summaries += [f"    * {result.head}" for result in targets.results]
        parts += [
            f"## {table.title}",
            *StudySection(table, archive, streams).parts(targets, figure.name if figures else ""),
        ]
    if posterior:
        parts += posterior_section(posterior)
    if summaries:
        parts = ["Targets:", "\n".join(summaries), *parts]
    commands = _commands(studies, roots, output, title, posterior)
    left_out = [f"* {escape_markdown(message)}" for message in archive.left_out]
    parts += ["## Left out", "\n".join(left_out)] if left_out else []
    text = [f"# {title or found[0].title}", *parts, "## The commands", commands]
    with atomic_write(output) as file:
        file.write("\n\n".join(part for part in text if part) + "\n")
    return written, archive.left_out


def _anchor(title: str) -> str:
    """Return the name by which a heading is linked."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _commands(
    studies: Sequence[str], roots: Sequence[Path], output: Path, title: str | None, posterior: Path | None
) -> str:
    """Return the commands that make the runs and the page."""
    folder = shlex.quote(reproduce_root(roots[0]))
    studies, packed = [shlex.quote(study) for study in studies], shlex.quote(str(roots[0]))
    lines = [f"filtune reproduce {study} --root {folder}" for study in studies]
    if posterior:
        streams = " ".join(map(shlex.quote, posterior_streams(posterior)))
        written = f"--evaluate {streams} --posterior {shlex.quote(str(posterior))}"
        lines.append(f"filtune report {folder} --study {studies[0]} {written}")
    if folder != packed:
        lines.append(f"filtune report {folder} --pack {packed}")
    options = {"--title": title, "--posterior": posterior, "--output": output}
    words = [f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value]
    named = [shlex.quote(str(root)) for root in roots]
    lines.append(" ".join(["filtune report", *named, "--study", *studies, *words]))
    return "\n".join(["```bash", *lines, "```"])


class StudySection:
    """The part of a page about one study.

    Args:
        table: The study.
        archive: Its records.
        streams: The comparisons on its streams.
    """

    def __init__(self, table: Table, archive: Archive, streams: Sequence[StreamResult]) -> None:
        self.table, self.archive, self.streams = table, archive, streams
        self.rows = compared_rows(table)
        self.lines = [MethodLine(row) for row in self.rows]
        self.options: dict[str, Any] = table.raw["comparison"]

    def parts(self, targets: Targets, figure: str) -> list[str]:
        """Return the paragraphs, tables and headings: what the study asks for first, then the details."""
        scores = ScoreTable(self.streams, self.rows)
        lacking = not_run(self.table, self.archive, self.streams)
        return [
            " ".join(str(self.table.raw.get("notes", "")).split()),
            *self._answers(scores),
            "Missing runs are a dash, or fewer seeds; the end of this section lists them." * bool(lacking),
            *([f"![scores of the method and the baselines over the samples]({figure})"] if figure else []),
            *self._targets(targets),
            *_headed("Log loss", self._tables(("online_nll", 3))),
            *_headed("Validation after training", self._tables(("val_accuracy", 1), ("val_pearson", 1))),
            *_headed("Forgetting", self._tables(("val_forgetting", 1))),
            *self._recoveries(),
            *_details("Differences with p-values, plain and with Holm's correction", scores.differences()),
            *self._reserved(),
            *_details("Samples to the baseline's final score", *self._speed()),
            *self._averages(),
            *_details("Brier score, calibration, and further validation metrics", *self._tables(*MORE)),
            *_details("Not run", "\n".join(f"* {line}" for line in lacking)),
        ]

    def _answers(self, scores: ScoreTable) -> list[str]:
        """Return the tables of the metric that is compared: methods that need no learning rate, and the others."""
        method, *others = self.lines
        free = [line for line in others if learning_rate(line.row) == "none"]
        rated = [line for line in others if line not in free]
        marked = any(stream.rows[line.row.name].knows_end for stream in self.streams for line in self.lines)
        first, *more = dict.fromkeys(stream.metric for stream in self.streams)
        where = {m: ", ".join(stream.title for stream in self.streams if stream.metric == m) for m in more}
        metrics = ", ".join([_title(first), *(f"{metric_title(m)} on {where[m]}" for m in more)])
        parts = [CAPTION.format(metrics, method.row.title) + (f" {END}" if marked else "")]
        if free:
            parts += ["### Methods that need no learning rate", scores.scores([method, *free])]
        if rated:
            fixed = any(line.row.rate == "published" for line in rated)
            heading = "### Tuned methods" + (", and those with a published or default rate" if fixed else "")
            caption = f"Each with the learning rate that is best on the stream{', unless its rate is fixed' * fixed}."
            parts += [heading, caption, scores.scores([method, *rated], True)]
        return parts

    def _reserved(self) -> list[str]:
        seeds = (self.options.get("reserved") or {}).get("seeds", [])
        if not seeds:
            return []
        rates = (
            "Neither the method nor the baselines' rates were tuned on them."
            if self.table.tuning_seeds
            else "The method was not tuned on them; the baselines' rates are chosen on them again."
        )
        scores = ScoreTable(compare_streams(self.table, self.archive, seeds), self.rows)
        shown = [scores.scores(self.lines, True), scores.differences()]
        return _details(f"Reserved seeds ({', '.join(map(str, seeds))})", rates, *shown)

    def _targets(self, targets: Targets) -> list[str]:
        if not targets.results:
            return []
        caption = "Over all seeds: differences in points, and samples as a share of the baseline's."
        discussion = str(self.options.get("discussion", "")).strip()
        return ["### Targets", caption, "\n".join(f"* {result}" for result in targets.results), discussion]

    def _tables(self, *metrics: tuple[str, int]) -> list[str]:
        """Return metrics of all methods with their decimals, the posterior predictive a line of its own.

        A metric is left out on streams where it is the one that is compared, which has tables already, and an online
        one where samples are repeated: their predictions are then not prequential.
        """
        parts = []
        for metric, digits in metrics:
            online = self.streams[0].online or not is_online(metric)
            streams = [stream for stream in self.streams if online and stream.metric != metric]
            predictive = metric.replace("online_", "online_predictive_")
            own = MethodLine(self.rows[0], predictive, f"{self.rows[0].title}, posterior predictive")
            has = predictive != metric and any(stream.method.values(predictive) for stream in streams)
            table = ScoreTable(streams, self.rows, metric, digits).scores([own, *self.lines] if has else self.lines)
            parts += [f"{_title(metric)}:", table] if table else []
        return parts

    def _recoveries(self) -> list[str]:
        found = recovery_rules(self.table)
        if not found:
            return []
        rule = next(iter(found.values()))  # they differ in their changes alone
        what = f"{rule.level:g} % of the last {rule.last}, all after the change, are predicted correctly"
        if rule.relative:
            own = f"{rule.level:g} % of the method's own over as many before the change"
            what = f"the accuracy over the last {rule.last}, all after the change, is {own}"
        return [
            "### Recovery time after a change",
            f"Samples until {what}: median and quartiles over seeds and changes. If the next change comes first, it "
            "counts as never. Below a baseline's: the median of the method as a share of it.",
            recovery_table([stream for stream in self.streams if stream.name in found], self.lines, found),
        ]

    def _speed(self) -> list[str]:
        final = "the baseline's final score, as a share of"
        found = {
            True: f"the average online score stays above {final} those of the baseline",
            False: f"the validation score first reaches {final} the baseline's whole run",
        }
        kinds = dict.fromkeys(stream.online for stream in self.streams)
        if len(kinds) > 1:
            found[False] += f" ({', '.join(stream.title for stream in self.streams if not stream.online)})"
        what = ", or ".join(found[online] for online in kinds)
        return [
            f"Samples until {what}; the mean over the seeds that reach it, and the number of those that never do.",
            speed_table(self.streams, self.lines[1:]),
        ]

    def _averages(self) -> list[str]:
        """Return the mean over a run of scores that were taken several times."""
        metric = self.streams[0].metric
        runs = [stream.method for stream in self.streams if stream.metric == metric]
        validations = max((len(run.curve(seed, metric)[1]) for run in runs for seed in run.finished), default=0)
        if self.streams[0].online or validations < 2:
            return []
        scores = ScoreTable(self.streams, self.rows, values=SeedRuns.averages)
        return _details(
            "Mean over the run",
            "The mean of all validations of a run: it reflects speed and final score at once, with less noise than the "
            "last validation; the baseline at the point that is best at the end.",
            scores.scores(self.lines),
            scores.differences(),
        )


def _title(metric: str) -> str:
    title = metric_title(metric)
    return title[0].upper() + title[1:]


def _headed(heading: str, parts: Sequence[str]) -> list[str]:
    return [f"### {heading}", *parts] if parts else []


def _details(summary: str, *parts: str) -> list[str]:
    """Return a block that opens by a click, in which Markdown is rendered; none without a table or a list."""
    shown = any(part.startswith(("|", "*")) for part in parts)
    return [f'<details markdown="1">\n<summary>{summary}</summary>', *parts, "</details>"] if shown else []
