"""A study as a part of a report: a method against tuned baselines, paired by seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from filtune.experiments.archive import Archive
from filtune.experiments.tables import Table

from .coverage import not_run
from .formatting import as_slug, metric_title
from .page import Block, Fold, Heading, PagePart, Text, bullets
from .seed_runs import SeedRuns
from .study import StreamResult, compare_streams, compared_rows, is_online, learning_rate, recovery_rules
from .study_figure import study_plans
from .study_tables import MethodLine, ScoreTable, method_table, recovery_cell, speed_cell
from .targets import Targets

CAPTION = (
    "{}: mean ± standard deviation over the seeds, the best of a table in bold. Below a baseline's score: {} minus "
    r"this baseline, paired by seed; \* p < 0.05, \*\* p < 0.01, \*\*\* p < 0.001 in the paired t-test with Holm's "
    "correction over all baselines of the stream."
)
MORE = (("online_pearson", 1), ("online_brier", 3), ("online_ece", 1), ("val_matthews", 1), ("val_loss", 3))
END = "† must know where the stream ends."


def study_part(study: Table, archive: Archive, figure: str) -> PagePart:
    """Return the part about a study.

    Args:
        study: The study.
        archive: Its records.
        figure: Name of its figure.

    Raises:
        ValueError: If there is nothing to compare.
    """
    streams = compare_streams(study, archive)
    if not any(stream.method.finished for stream in streams):
        failed = "diverged in all runs" if any(stream.method.diverged for stream in streams) else "was not run"
        raise ValueError(f"{study.name}: its method {failed}; see `filtune reproduce {study.file or study.name}`")
    plans, targets = study_plans(streams, study, figure), Targets(study, streams)
    anchor = re.sub(r"[^\w\- ]", "", study.title.lower()).replace(" ", "-")
    heads = [f"* [{study.title}](#{anchor})", *(f"    * {result.head}" for result in targets.results)]
    return PagePart(
        f"{as_slug(study.name)}-comparison",
        study.title,
        StudySection(study, archive, streams).blocks(targets, plans[:1]),
        plans,
        study.name,
        [study.title, *(result.head.replace("**", "") for result in targets.results)],
        summary="\n".join(heads) if targets.results else "",
    )


class StudySection:
    """The blocks about one study.

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

    def blocks(self, targets: Targets, figures: Sequence[Block]) -> list[Block]:
        """Return the paragraphs, tables and headings: what the study asks for first, then the details."""
        scores = self._table()
        lacking = not_run(self.table, self.archive, self.streams)
        missing = Text("Missing runs are a dash, or fewer seeds; the end of this section lists them.")
        return [
            Text(" ".join(str(self.table.raw.get("notes", "")).split())),
            *self._answers(scores),
            *([missing] if lacking else []),
            *figures,
            *self._targets(targets),
            *_headed("Log loss", self._metrics(("online_nll", 3))),
            *_headed("Validation after training", self._metrics(("val_accuracy", 1), ("val_pearson", 1))),
            *_headed("Forgetting", self._metrics(("val_forgetting", 1))),
            *self._recoveries(),
            *_details("Differences with p-values, plain and with Holm's correction", scores.differences()),
            *self._reserved(),
            *self._speed(),
            *self._averages(),
            *_details("Brier score, calibration, and further validation metrics", self._metrics(*MORE)),
            *_details("Not run", bullets(lacking)),
        ]

    def _table(self, streams: Sequence[StreamResult] | None = None, **options: Any) -> ScoreTable:
        """Return a table of scores, of all streams by default."""
        title = f"{self.table.title}: {metric_title(options.get('metric') or self.streams[0].metric)}"
        return ScoreTable(title, streams or self.streams, self.rows, **options)

    def _answers(self, scores: ScoreTable) -> list[Block]:
        """Return the tables of the metric that is compared: methods that need no learning rate, and the others."""
        method, *others = self.lines
        free = [line for line in others if learning_rate(line.row) == "none"]
        rated = [line for line in others if line not in free]
        marked = any(stream.rows[line.row.name].knows_end for stream in self.streams for line in self.lines)
        first, *more = dict.fromkeys(stream.metric for stream in self.streams)
        where = {m: ", ".join(stream.title for stream in self.streams if stream.metric == m) for m in more}
        metrics = ", ".join([_title(first), *(f"{metric_title(m)} on {where[m]}" for m in more)])
        blocks: list[Block] = [Text(CAPTION.format(metrics, method.row.title) + (f" {END}" if marked else ""))]
        if free:
            blocks += [Heading("Methods that need no learning rate"), *scores.scores([method, *free])]
        if rated:
            fixed = any(line.row.rate == "published" for line in rated)
            heading = "Tuned methods" + (", and those with a published or default rate" if fixed else "")
            caption = f"Each with the learning rate that is best on the stream{', unless its rate is fixed' * fixed}."
            blocks += [Heading(heading), Text(caption), *scores.scores([method, *rated], True)]
        return blocks

    def _reserved(self) -> list[Block]:
        seeds = (self.options.get("reserved") or {}).get("seeds", [])
        if not seeds:
            return []
        rates = (
            "Neither the method nor the baselines' rates were tuned on them."
            if self.table.tuning_seeds
            else "The method was not tuned on them; the baselines' rates are chosen on them again."
        )
        scores = self._table(compare_streams(self.table, self.archive, seeds))
        tables = [*scores.scores(self.lines, True), *scores.differences()]
        return _details(f"Reserved seeds ({', '.join(map(str, seeds))})", tables, rates)

    def _targets(self, targets: Targets) -> list[Block]:
        if not targets.results:
            return []
        caption = Text("Over all seeds: differences in points, and samples as a share of the baseline's.")
        discussion = Text(str(self.options.get("discussion", "")).strip())
        return [Heading("Targets"), caption, *bullets([str(result) for result in targets.results]), discussion]

    def _metrics(self, *metrics: tuple[str, int]) -> list[Block]:
        """Return metrics of all methods with their decimals, the posterior predictive a line of its own.

        A metric is left out on streams where it is the one that is compared, which has tables already, and an online
        one where samples are repeated: their predictions are then not prequential.
        """
        blocks: list[Block] = []
        for metric, digits in metrics:
            online = self.streams[0].online or not is_online(metric)
            streams = [stream for stream in self.streams if online and stream.metric != metric]
            predictive = metric.replace("online_", "online_predictive_")
            own = MethodLine(self.rows[0], predictive, f"{self.rows[0].title}, posterior predictive")
            has = predictive != metric and any(stream.method.values(predictive) for stream in streams)
            scores = self._table(streams, metric=metric, digits=digits) if streams else None
            tables = scores.scores([own, *self.lines] if has else self.lines) if scores else []
            blocks += [Text(f"{_title(metric)}:"), *tables] if tables else []
        return blocks

    def _recoveries(self) -> list[Block]:
        found = recovery_rules(self.table)
        if not found:
            return []
        rule = next(iter(found.values()))  # they differ in their changes alone
        what = f"{rule.level:g} % of the last {rule.last}, all after the change, are predicted correctly"
        if rule.relative:
            own = f"{rule.level:g} % of the method's own over as many before the change"
            what = f"the accuracy over the last {rule.last}, all after the change, is {own}"
        meaning = (
            f"Samples until {what}: median and quartiles over seeds and changes. If the next change comes first, it "
            "counts as never. Below a baseline's: the median of the method as a share of it."
        )
        streams = [stream for stream in self.streams if stream.name in found]
        title = f"{self.table.title}: recovery time after a change"
        table = method_table(title, streams, self.lines, partial(recovery_cell, found))
        return [Heading("Recovery time after a change"), Text(meaning), *table]

    def _speed(self) -> list[Block]:
        final = "the baseline's final score, as a share of"
        found = {
            True: f"the average online score stays above {final} those of the baseline",
            False: f"the validation score first reaches {final} the baseline's whole run",
        }
        kinds = dict.fromkeys(stream.online for stream in self.streams)
        if len(kinds) > 1:
            found[False] += f" ({', '.join(stream.title for stream in self.streams if not stream.online)})"
        what = ", or ".join(found[online] for online in kinds)
        meaning = f"Samples until {what}; the mean over the seeds that reach it, and the number of those that never do."
        summary = "Samples to the baseline's final score"
        title = f"{self.table.title}: {summary.lower()}"
        return _details(summary, method_table(title, self.streams, self.lines[1:], speed_cell), meaning)

    def _averages(self) -> list[Block]:
        """Return the mean over a run of scores that were taken several times."""
        metric = self.streams[0].metric
        runs = [stream.method for stream in self.streams if stream.metric == metric]
        validations = max((len(run.curve(seed, metric)[1]) for run in runs for seed in run.finished), default=0)
        if self.streams[0].online or validations < 2:
            return []
        scores = self._table(values=SeedRuns.averages)
        meaning = (
            "The mean of all validations of a run: it reflects speed and final score at once, with less noise than the "
            "last validation; the baseline at the point that is best at the end."
        )
        return _details("Mean over the run", [*scores.scores(self.lines), *scores.differences()], meaning)


def _title(metric: str) -> str:
    title = metric_title(metric)
    return title[0].upper() + title[1:]


def _headed(heading: str, blocks: Sequence[Block]) -> list[Block]:
    return [Heading(heading), *blocks] if blocks else []


def _details(summary: str, blocks: Sequence[Block], meaning: str = "") -> list[Block]:
    """Return collapsed blocks below their meaning; none of no block."""
    return [Fold(summary, [*([Text(meaning)] if meaning else []), *blocks])] if blocks else []
