"""The runs of a study that are wanted and not finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from filtune.experiments.archive import Archive, Pool
from filtune.experiments.composition import grid_points, point_name
from filtune.experiments.tables import Row, Table

from .study import StreamResult, compared_rows, study_pool


def not_run(table: Table, archive: Archive, streams: Sequence[StreamResult]) -> list[str]:
    """Return one line for each row with runs that are wanted and not finished: its streams, points and seeds."""
    pool, lines = study_pool(table, archive) or Pool({}), []
    for row in compared_rows(table):
        lacking = []
        for stream in streams:
            if row.columns is None or stream.name in row.columns:
                found = (_unfinished(table, archive, pool, row, stream, point) for point in grid_points(row.grid))
                if absent := [text for text in found if text]:
                    lacking.append(f"{stream.title} ({'; '.join(absent)})")
        if lacking:
            lines.append(f"{row.title}: {', '.join(lacking)}")
    return lines


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
        pool.missing.get(cell, ""),
        ("all seeds" if len(absent) == len(seeds) else f"seeds {', '.join(absent)}") if absent else "",
        f"seeds {', '.join(failed)} diverged" if failed else "",
    ]
    text = ", ".join(text for text in texts if text)
    return f"{point_name(point)}: {text}" if point and text else text
