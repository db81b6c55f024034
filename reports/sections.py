"""A table at one scale: every cell judged, every method compared with AdamW, as the pages show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from filtune.experiments.archive import Archive, Pool, shipped_table, source_tables
from filtune.experiments.records import lower_is_better
from filtune.experiments.tables import Column, Row, Table

from . import formatting
from .agreement import Agreement, Order, column_orders
from .cells import CellResult, Status, judge_cell, with_ratio
from .formatting import reproduce_root
from .plots import Look, looks
from .statistics import MeanStd, with_holm


@dataclass(frozen=True)
class Leaf:
    """A column of figures.

    Attributes:
        column: The table's column.
        metric: The figure.
        lower: Whether less is better.
        backbone: What stands in for the column's model.
    """

    column: Column
    metric: str
    lower: bool
    backbone: str | None = None

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self.column.title.partition(", ")[0]

    @property
    def model(self) -> str:
        """Name of the model, and of the one that ran in its place."""
        model = self.column.title.partition(", ")[2]
        if self.backbone in (None, self.column.backbone):
            return model
        own = formatting.backbone_title(self.backbone)
        return f"{own} for {model or formatting.backbone_title(self.column.backbone)}"

    @property
    def title(self) -> str:
        """Data set and model."""
        return ", ".join(filter(None, [self.data, self.model]))

    @property
    def key(self) -> str:
        """Name of the column of values."""
        return f"{self.column.name}/{self.metric}"


@dataclass
class Section:
    """A table at one scale.

    Attributes:
        table: Its description.
        pool: What was run of it.
        kinds: ``paper``, ``tuned`` or ``ours``, by row.
        leaves: Columns of figures.
        cells: By row and leaf.
        looks: Colour and stroke by row.
        reference: The row of AdamW that each row is compared with.
        orders: Each method against AdamW, by row and leaf; without a row the best of a leaf.
        root: Where the runs lie.
    """

    table: Table
    pool: Pool
    kinds: dict[str, str]
    leaves: list[Leaf]
    cells: dict[tuple[str, str], CellResult]
    looks: dict[str, Look]
    reference: dict[str, str]
    root: str
    orders: dict[tuple[str, str], Order] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Title of the table."""
        return self.table.title

    @property
    def slug(self) -> str:
        """Name in files and addresses."""
        scale = [self.pool.scale.get("backbone"), self.pool.scale.get("max_samples")]
        scale += [f"{key.rpartition('.')[2]}-{value}" for key, value in (self.pool.scale.get("set") or {}).items()]
        return formatting.as_slug("-".join([self.table.name, *(str(word) for word in scale if word)]))

    @property
    def scale_words(self) -> str:
        """The changes against the paper."""
        run = {cell.partition("/")[2].partition("/")[0] for cell in self.pool.cells}
        replaced = dict.fromkeys(column.backbone for column in self.table.columns if column.name in run)
        return formatting.scale_words(self.pool.scale, list(replaced))

    @property
    def timed(self) -> bool:
        """True if it shows times, which compare as ratios only."""
        return "metrics" in self.table.raw

    def names_metric(self, leaf: Leaf) -> bool:
        """Return whether a column is to name its metric, which it shares with no other and its title does not say."""
        said = leaf.metric.startswith("measured_") or leaf.column.chosen_by
        return self.timed or (leaf.metric != self.table.metric and not said)

    def notes(self) -> list[str]:
        """Return remarks on what the paper leaves open, how baselines were tuned, and how few seeds there are."""
        run = [cell for cell in self.cells.values() if cell.point.records]
        few = sorted({cell.ours.count for cell in run if cell.ours and cell.ours.count})
        notes = [str(self.table.raw["notes"])] if self.table.raw.get("notes") else []
        if self.rows("tuned"):
            notes.append(
                "The setting of a tuned row is the best of its grid on these same runs, by the mean over seeds: this "
                "favours the baseline. The cells name it."
            )
        if few and few[0] == 1:
            notes.append("Cells of one seed have no deviation and no test.")
        if any(cell.status is Status.DIVERGED for cell in run):
            notes.append("A diverged seed has no figure; the mean of its cell is that of the others.")
        if self.timed:
            notes.append("Beside a time stands its ratio to AdamW's in the same column: compare these.")
        hidden = [leaf.column.title for leaf in self.leaves if leaf not in self.columns()]
        hidden += [row.title for row in self.table.rows if row.name not in self._attempted(0)]
        if hidden:
            notes.append(f"Not attempted: {'; '.join(dict.fromkeys(hidden))}.")
        return notes

    def rows(self, kind: str = "") -> list[Row]:
        """Return the rows, of a kind or all, with a run or with the reason why there is none."""
        kinds, attempted = {kind} if kind else {*self.kinds.values()}, self._attempted(0)
        return [row for row in self.table.rows if self.kinds[row.name] in kinds and row.name in attempted]

    def columns(self) -> list[Leaf]:
        """Return the columns with a run, or with the reason why there is none."""
        return [leaf for leaf in self.leaves if leaf.key in self._attempted(1)]

    def _attempted(self, place: int) -> set[str]:
        """Return names of the rows (0) or columns (1) of cells that were attempted."""
        found = self.cells.items()
        return {key[place] for key, cell in found if cell.status is not Status.ABSENT or cell.reason}

    def mixed(self) -> bool:
        """Return whether columns differ in their metric."""
        return len({leaf.metric for leaf in self.leaves}) > 1

    def statuses(self) -> dict[tuple[str, str], Status]:
        """Return the status of each of the paper's cells."""
        return {
            key: cell.status for key, cell in self.cells.items() if self.kinds[key[0]] == "paper" and cell.published
        }

    def counts(self) -> Counter[Status]:
        """Return the number of the paper's cells with each status, of those that were attempted."""
        return Counter(status for status in self.statuses().values() if status is not Status.ABSENT)

    @property
    def is_derived(self) -> bool:
        """True if it shows other figures of the runs of another table."""
        return "of" in self.table.raw

    def best(self, leaf: Leaf, published: bool) -> set[str]:
        """Return the rows with the best value of a column, ours or published."""
        shown = {row.name: self.cells.get((row.name, leaf.key)) for row in self.table.rows}
        means = {
            name: formatting.format_metric(sample.mean, leaf.metric)
            for name, cell in shown.items()
            if cell and (sample := cell.published if published else cell.ours)
        }
        if not means:
            return set()
        numbers = {name: float(mean.replace(",", "")) for name, mean in means.items()}
        top = (min if leaf.lower else max)(numbers.values())
        return {name for name, number in numbers.items() if number == top}

    def ordered(self) -> list[Leaf]:
        """Return the columns whose order can be compared."""
        compared = {leaf for _, leaf in self.orders}
        return [leaf for leaf in self.leaves if leaf.key in compared]

    def verdicts(self) -> Counter[Agreement]:
        """Return the number of comparisons with AdamW by agreement with the paper."""
        return Counter(order.verdict for (row, _), order in self.orders.items() if row)

    def command(self, cell: str | None = None) -> str:
        """Return the command that makes the runs, of all cells or one."""
        shown = [point for found in self.cells.values() if found.name == cell for point in found.points]
        seeds = {seed for point in shown for seed in point.records} if cell else self.pool.seeds
        return formatting.reproduce_command(self.table.name, self.pool.scale, cell, seeds, self.table.seeds, self.root)


def build_section(table: Table, pool: Pool, archive: Archive) -> Section:
    """Return a table at one scale: cells beside the published ones, and the order of the methods."""
    kinds = {row.name: _kind(row) for row in table.rows}
    leaves = [
        Leaf(column, metric, _lower(table, metric), pool.scale.get("backbone"))
        for column in table.columns
        for metric in table.raw.get("metrics", [column.metric or table.metric])
    ]
    chosen_by = {leaf.key: _chooser(table, leaf) for leaf in leaves}
    reference = {row.name: _reference(table, row) for row in table.rows}
    cells = {
        (row.name, leaf.key): judge_cell(
            archive, pool, f"{row.name}/{leaf.column.name}", leaf.metric, leaf.lower,
            _published(table, row, leaf), chosen_by[leaf.key],
        )
        for row in table.rows
        for leaf in leaves
        if row.columns is None or leaf.column.name in row.columns
    }  # fmt: skip
    tests = with_holm([cell.test for cell in cells.values()])
    cells = {key: replace(cell, test=test) for (key, cell), test in zip(cells.items(), tests, strict=True)}
    if "metrics" in table.raw:
        before = dict(cells)
        for (row, leaf), cell in before.items():
            if (reference[row], leaf) in before:
                cells[row, leaf] = with_ratio(cell, before[reference[row], leaf])
    tones = looks([(row.name, row.optimizer, kinds[row.name]) for row in table.rows])
    section = Section(table, pool, kinds, leaves, cells, tones, reference, reproduce_root(archive.roots[0]))
    paper = [row.name for row in table.rows if kinds[row.name] == "paper"]
    titles = {row.name: row.title for row in table.rows}
    for leaf in leaves:
        column = {row: cells[row, leaf.key] for row in paper if (row, leaf.key) in cells}
        orders = column_orders(column, titles, reference, leaf.lower)
        section.orders.update({(row, leaf.key): order for row, order in orders.items()})
    return section


def _kind(row: Row) -> str:
    return "paper" if row.published else "tuned" if row.grid else "ours"


def _lower(table: Table, metric: str) -> bool:
    better = table.raw.get("higher_is_better")
    return lower_is_better(metric) if better is None else not better


def _chooser(table: Table, leaf: Leaf) -> str:
    """Return the metric by which a grid's best point is chosen; of a table of times, that of the table it shows."""
    if "of" not in table.raw:
        return leaf.column.chosen_by or leaf.metric
    own = next(t for t in source_tables(table) if any(column.name == leaf.column.name for column in t.columns))
    column = next(column for column in shipped_table(own.name).columns if column.name == leaf.column.name)
    return column.metric or own.metric


def _reference(table: Table, row: Row) -> str:
    """Return AdamW as the paper has it, with the adapter of the row."""
    adamw = [r for r in table.rows if r.optimizer.startswith("adamw") and r.published]
    same = [r for r in adamw if _adapter(r) == _adapter(row)]
    return (same or adamw or [row])[0].name


def _adapter(row: Row) -> Any:
    return row.set.get("model.backbone.adapter")


def _published(table: Table, row: Row, leaf: Leaf) -> MeanStd | None:
    if not row.published:
        return None
    printed = row.published[table.columns.index(leaf.column)]
    if printed is not None and "metrics" in table.raw:
        printed = printed[table.raw["metrics"].index(leaf.metric)]
    mean, deviation = printed if isinstance(printed, list) else (printed, None)
    return None if mean is None else MeanStd(mean, deviation, table.raw.get("published_seeds"))
