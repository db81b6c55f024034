"""The runs of a study that are wanted and not finished."""

from __future__ import annotations

from collections.abc import Sequence

from filtune.experiments.archive import Archive, Pool
from filtune.experiments.composition import grid_points, point_name
from filtune.experiments.escaping import escape_markdown
from filtune.experiments.tables import Row, Table

from .study import StreamResult, compared_rows, study_pool

ALL = "all seeds"


def not_run(table: Table, archive: Archive, streams: Sequence[StreamResult]) -> list[str]:
    """Return one line for each row with runs that are wanted and not finished: its streams, points and seeds."""
    pool, lines = study_pool(table, archive) or Pool({}), []
    for row in compared_rows(table):
        wanted = [stream for stream in streams if row.columns is None or stream.name in row.columns]
        lacking = {stream.title: _lacking(table, archive, pool, row, stream) for stream in wanted}
        texts = [title if text == ALL else f"{title} ({text})" for title, text in lacking.items() if text]
        if texts:
            lines.append(f"{row.title}: {'all streams' if set(lacking.values()) == {ALL} else '; '.join(texts)}")
    return lines


def _lacking(table: Table, archive: Archive, pool: Pool, row: Row, stream: StreamResult) -> str:
    """Return the points and seeds of a row on a stream; empty if none."""
    found = {}
    for point in map(point_name, grid_points(row.grid)):
        cell = "/".join([row.name, stream.name, *([point] if point else [])])
        goes_on = not point or not table.tuning_seeds or cell == stream.rows[row.name].name
        seeds = table.seeds if goes_on else table.tuning_seeds
        records = archive.records(pool.cells.get(cell, {}))
        absent = [str(seed) for seed in seeds if seed not in records]
        failed = [str(seed) for seed in seeds if seed in records and records[seed]["status"] != "finished"]
        seeds_absent = [ALL if len(absent) == len(seeds) else _seeds(absent)] if absent else []
        texts = seeds_absent + ([f"diverged with {_seeds(failed)}"] if failed else [])
        found[point] = ", ".join([*texts, *([escape_markdown(pool.missing[cell])] if cell in pool.missing else [])])
    if set(found.values()) == {ALL}:
        return ALL
    return ", ".join(f"{point}: {text}" if point else text for point, text in found.items() if text)


def _seeds(numbers: Sequence[str]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
