"""A report: what was run and on what, the tables, the runs beside them, what was left out."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.experiments.archive import Archive, Pool, find_roots, packed_studies, shipped_table, source_tables
from filtune.experiments.estimate import format_duration
from filtune.experiments.records import Record
from filtune.experiments.tables import Table, load_table, table_names

from filtune.suggestions import suggest

from .cells import Status
from .figures import FigurePlan, Line, plan_curves
from .formatting import reproduce_root
from .layouts import listing_part, section_part
from .listings import Listing, run_listings, sweep_listing
from .page import PagePart
from .panels import panel_plans
from .posterior import posterior_part, posterior_streams
from .sections import Section, build_section
from .study_page import study_part


@dataclass
class Document:
    """A report as a document.

    Attributes:
        parts: What it consists of: lists of runs, studies, and at the end the sections.
        sections: Tables of papers and of studies, at each scale.
        listings: Sweeps and runs.
        records: All runs behind them, each once.
        left_out: What could not be read.
        title: Its title; by default the number of runs.
        commands: That make the runs and the page, of studies, which are on one page with them.
    """

    parts: list[PagePart]
    sections: list[Section]
    listings: list[Listing]
    records: list[Record]
    left_out: list[str]
    title: str = ""
    commands: Sequence[str] | None = None

    @property
    def first_sections(self) -> list[Section]:
        """Tables but those that show other figures of the runs of another table, if there are others."""
        return [section for section in self.sections if not section.is_derived] or self.sections

    def counts(self) -> dict[Status, int]:
        """Return the number of the papers' cells by status; a run as published counts before a scaled-down one."""
        best: dict[tuple[str, str, str], Status] = {}
        for section in self.first_sections:
            for key, status in section.statuses().items():
                name = (section.table.name, *key)
                best[name] = min(best.get(name, status), status, key=[*Status].index)
        total = Counter(best.values())
        return {status: total[status] for status in Status if status is not Status.OURS}

    def facts(self) -> dict[str, str]:
        """Return runs, compute, environment and versions in words."""
        wall = [r["times"].get("wall_seconds") or 0.0 for r in self.records]
        finished = sorted(filter(None, (r["times"].get("finished_at") for r in self.records)))
        seeds = sorted({r["seed"] for r in self.records if r.get("seed") is not None})
        environments = [r.get("environment", {}) for r in self.records]
        return {
            "runs": f"{len(self.records)}" + (f", seeds {', '.join(map(str, seeds))}" if seeds else ""),
            "compute": f"{format_duration(sum(wall))} in all" if any(wall) else "",
            "devices": _several(e.get("device") for e in environments),
            "threads": _several(e.get("threads") for e in environments),
            "precision": _several(e.get("precision") for e in environments),
            "commits": _several((r.get("commit") or "")[:10] for r in self.records),
            "finished": " to ".join(dict.fromkeys([finished[0][:10], finished[-1][:10]])) if finished else "",
            "versions": _several(f"{name} {v}" for e in environments for name, v in (e.get("versions") or {}).items()),
        }


def _several(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))


def assemble(roots: Sequence[Path], wanted: Sequence[str]) -> Document:
    """Read all roots.

    Args:
        roots: Folders of reproduce or sweep, packed studies, or folders of runs.
        wanted: Tables and figures; all there are where none is named.

    Raises:
        ValueError: If there is nothing to report, or a table is not known or was not run.
    """
    chosen = [shipped_table(name) for name in wanted]
    roots = find_roots(roots)
    kept = [root for root in roots if (root / "manifests").is_dir() or packed_studies(root)]
    folders = []
    for root in (root for root in roots if root not in kept):
        runs = [file.parent for file in sorted(root.rglob("config.yaml"))]
        others = [other for other in kept if other.is_relative_to(root)]
        if not runs and not others:
            raise ValueError(
                f"report: no manifest and no run under {root}; `filtune reproduce` and `filtune sweep` leave the one, "
                "`filtune fit` the other"
            )
        folders += [run for run in runs if not any(run.is_relative_to(other) for other in others)]
    archive = Archive(kept, chosen)
    sections = [build_section(table, pool, archive) for table, pool in _tables(archive, chosen)]
    listings = [] if chosen else [sweep_listing(manifest, archive) for manifest in archive.sweeps]
    listings += run_listings(folders, archive.left_out) if folders and not chosen else []
    if chosen and not sections:
        there = suggest("", archive.pools) if archive.pools else "there are none"
        raise ValueError(f"--tables {' '.join(wanted)}: no run of it under {_names(roots)}; of what was run {there}")
    shown = [record for listing in listings for entry in listing.entries for record in entry.records.values()]
    records = {id(record): record for record in [*archive.read_records(), *shown]}
    explained = sections and not archive.left_out  # tables say of each cell why it was not run
    if not records and not explained:
        reason = "; ".join(archive.left_out) or "no run is finished"
        raise ValueError(f"report: nothing to show under {_names(roots)}: {reason}")
    _distinguish([*sections, *listings])
    parts = [listing_part(listing) for listing in listings]
    compared = [section for section in sections if _compares(section)]
    for section in compared:
        try:
            parts.append(study_part(section.table, archive, f"{section.slug}_scores"))
        except ValueError as error:
            archive.leave_out(error)
    plans, document = figure_plans(sections), Document(parts, sections, listings, [*records.values()], archive.left_out)
    for section in sections:
        own, is_first = [plan for place, plan in plans if place is section], section in document.first_sections
        parts.append(section_part(section, own, not is_first or section in compared))
    return document


def assemble_studies(
    studies: Sequence[str], roots: Sequence[Path], output: Path, title: str | None = None, posterior: Path | None = None
) -> Document:
    """Return the document of studies, in the order in which they are named.

    Args:
        studies: Studies by name or path.
        roots: Folders of ``filtune reproduce``, or packed studies.
        output: Path of the page.
        title: Title of the page; that of the first study by default.
        posterior: JSON of ``filtune report --evaluate``, which becomes a part.

    Raises:
        ValueError: If there is nothing to compare.
    """
    tables = [load_table(study) for study in studies]
    archive = Archive(roots, tables)
    try:
        parts = [study_part(table, archive, f"{output.stem}_{table.name}") for table in tables]
    except ValueError as error:
        raise ValueError("; ".join([str(error), *archive.left_out])) from error
    parts += [posterior_part(posterior)] if posterior else []
    commands = study_commands(studies, roots, output, title, posterior)
    return Document(parts, [], [], archive.read_records(), archive.left_out, title or tables[0].title, commands)


def study_commands(
    studies: Sequence[str], roots: Sequence[Path], output: Path, title: str | None, posterior: Path | None
) -> list[str]:
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
    return [*lines, " ".join(["filtune report", *named, "--study", *studies, *words])]


def _compares(section: Section) -> bool:
    """Return whether a section is of a study whose method was run at its own scale."""
    method = (section.table.raw.get("comparison") or {}).get("method")
    cells = (cell for (row, _), cell in section.cells.items() if row == method)
    return not section.pool.scale and any(cell.point.finished for cell in cells)


def _distinguish(parts: Sequence[Section | Listing]) -> None:
    """Add numbers to listings whose pages would have one name, such as sweeps of one name in several roots."""
    taken: set[str] = set()
    for part in parts:
        if isinstance(part, Listing):
            names = (part.slug, *(f"{part.slug}-{number}" for number in range(2, len(parts) + 2)))
            part.slug = next(name for name in names if name not in taken)
        taken.add(part.slug)


def _names(roots: Sequence[Path]) -> str:
    return " ".join(map(str, roots))


def _tables(archive: Archive, chosen: list[Table]) -> list[tuple[Table, Pool]]:
    """Return the tables with any run, at each scale: those with cells of their own, and those that show them."""
    named = [table for asked in chosen for table in ([asked] if _is_table(asked) else source_tables(asked))]
    tables = {table.name: table for table in named} or _known(archive)
    found = []
    for table in tables.values():
        scales = {scale for source in source_tables(table) for scale in archive.pools.get(source.name, {})}
        for scale in sorted(scales, key=lambda scale: (len(scale), scale)):
            pools = [archive.pools.get(source.name, {}).get(scale) for source in source_tables(table)]
            pool = merged([pool for pool in pools if pool])
            if _concerns(table, pool):
                found.append((table, pool))
    return found


def _known(archive: Archive) -> dict[str, Table]:
    names = [*archive.pools, *(name for name in table_names() if name not in archive.pools)]
    return {name: table for name in sorted(names) if _is_table(table := shipped_table(name))}


def _is_table(table: Table) -> bool:
    return table.raw.get("kind", "table") == "table"


def _concerns(table: Table, pool: Pool) -> bool:
    """Return whether any cell of a table was asked for."""
    rows, columns = {row.name for row in table.rows}, {column.name for column in table.columns}
    return any(cell.split("/")[0] in rows and cell.split("/")[1] in columns for cell in [*pool.cells, *pool.missing])


def merged(pools: list[Pool]) -> Pool:
    """Return the cells of several tables at one scale."""
    total = Pool(pools[0].scale)
    for pool in pools:
        total.cells.update(pool.cells)
        total.missing.update(pool.missing)
        total.seeds.update(pool.seeds)
    return total


def figure_plans(sections: list[Section]) -> list[tuple[Section, FigurePlan]]:
    """Return the figures over the cells of the sections, each with the first section that has them.

    They are those that a table describes itself, and the papers' figures over the cells of tables.
    """
    found = [(section, plan) for section in sections for plan in panel_plans(section)]
    figures = [table for name in table_names() if not _is_table(table := shipped_table(name))]
    for figure in figures:
        names = [source.name for source in source_tables(figure)]
        scales: dict[str, list[Section]] = {}
        for section in sections:
            if section.table.name in names:
                scales.setdefault(str(section.pool.scale), []).append(section)
        found += [(group[0], _plan(figure, group)) for group in scales.values()]
    return found


def _plan(figure: Table, group: list[Section]) -> FigurePlan:
    lines = {}
    leaves = {}
    for section in group:
        leaves.update({leaf.column.name: leaf for leaf in section.leaves})
        for row in section.table.rows:
            if any(row.name == chosen.name for chosen in figure.rows):
                line = lines.setdefault(row.name, Line(row.title, section.looks[row.name], {}))
                for leaf in section.leaves:
                    cell = section.cells.get((row.name, leaf.key))
                    if cell and cell.point.records:
                        line.records[leaf.column.name] = list(cell.point.records.values())
    run = [leaves[column.name] for column in figure.columns if column.name in leaves]
    columns = [(leaf.column.name, leaf.title, leaf.metric) for leaf in run]
    name = f"{group[0].slug}_{figure.name.rpartition('.')[2]}"
    return plan_curves(name, figure.title, columns, figure.raw["curves"], list(lines.values()))
