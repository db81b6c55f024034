"""The runs of a study that are wanted and not finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from filtune.experiments.archive import Archive, Pool
from filtune.experiments.composition import grid_points, point_name
from filtune.experiments.tables import Row, Table

from .study import StreamResult, compared_rows, study_pool

ALL = "all seeds"


def not_run(table: Table, archive: Archive, streams: Sequence[StreamResult]) -> list[str]:
    """Return one line for each row with runs that are wanted and not finished: its streams, points and seeds."""
    pool, lines = study_pool(table, archive) or Pool({}), []
    for row in compared_rows(table):
        wanted = [stream for stream in streams if row.columns is None or stream.name in row.columns]
        lacking = {stream.title: _lacking(table, archive, pool, row, stream) for stream in wanted}
        texts = [f"{title} ({text})" if text != ALL else title for title, text in lacking.items() if text]
        if texts:
            whole = set(lacking.values()) == {ALL}
            lines.append(f"{row.title}: {'all streams' if whole else '; '.join(texts)}")
    return lines


def _lacking(table: Table, archive: Archive, pool: Pool, row: Row, stream: StreamResult) -> str:
    """The points and seeds of a row on a stream; empty if none."""
    points = {
        point_name(point): _unfinished(table, archive, pool, row, stream, point) for point in grid_points(row.grid)
    }
    if set(points.values()) == {ALL}:
        return ALL
    return ", ".join(f"{name}: {text}" if name else text for name, text in points.items() if text)


def _unfinished(
    table: Table, archive: Archive, pool: Pool, row: Row, stream: StreamResult, point: dict[str, Any]
) -> str:
    """The seeds of a point that are wanted and not finished; empty if none."""
    cell = "/".join([row.name, stream.name, *([point_name(point)] if point else [])])
    goes_on = not point or not table.tuning_seeds or cell == stream.runs(row.name).name
    seeds = table.seeds if goes_on else table.tuning_seeds
    records = archive.records(pool.cells.get(cell, {}))
    absent = [str(seed) for seed in seeds if seed not in records]
    failed = [str(seed) for seed in seeds if seed in records and records[seed]["status"] != "finished"]
    texts = [
        (ALL if len(absent) == len(seeds) else f"seeds {', '.join(absent)}") if absent else "",
        f"diverged with seeds {', '.join(failed)}" if failed else "",
        pool.missing.get(cell, ""),
    ]
    return ", ".join(text for text in texts if text)
