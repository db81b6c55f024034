"""Manifests and records as ``filtune reproduce`` leaves them, made up."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import yaml
from filtune.experiments.composition import grid_points, point_name
from filtune.experiments.tables import Table, load_table


def record(key: str, seed: int, metrics: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A record of a run whose loss falls and whose accuracy rises to what ``metrics`` say."""
    rng = random.Random(key)
    steps = list(range(50, 2001, 50))
    final = metrics.get("online_accuracy", 80.0)
    accuracy = [50 + (final - 50) * min(1.0, step / 1500) + rng.gauss(0, 0.5) for step in steps]
    loss = [0.7 - 0.4 * min(1.0, step / 1500) + rng.gauss(0, 0.01) for step in steps]
    curves = {"online/accuracy": [steps, accuracy], "online/loss": [steps, loss]}
    curves |= {
        f"val/{name[4:]}": [[500, 1000, 2000], [number - 5, number - 2, number]]
        for name, number in metrics.items()
        if name[:4] == "val_"
    }
    return {
        "format": 1, "key": key, "status": "finished", "reason": None, "seed": seed, "task": "sst2",
        "backbone": "minilm", "optimizer": "AdamW", "config": {"seed_everything": seed}, "samples": 2000,
        "steps": 2000, "train_rows": 6920, "val_rows": 872, "metrics": metrics, "curves": curves,
        "steps_to_convergence": 1200 + 10 * seed, "trainable_parameters": 74498, "total_parameters": 22787586,
        "times": {"wall_seconds": 61.0, "seconds_per_step": 0.025, "mean_seconds_per_step": 0.026,
                  "finished_at": "2026-11-23T13:00:00+00:00"},
        "peak_memory_bytes": 900000000,
        "environment": {"device": "x86_64", "threads": 1, "precision": "32-true", "versions": {"torch": "2.15.0"}},
        "commit": "0123456789abcdef", **changes,
    }  # fmt: skip


def key_of(*parts: object) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def keep(root: Path, found: dict[str, Any]) -> None:
    """Write a record."""
    (root / "records").mkdir(parents=True, exist_ok=True)
    (root / "records" / f"{found['key']}.json").write_text(json.dumps(found))


def manifest(root: Path, table: str | None, made: dict[str, dict[int, dict[str, Any]]], **changes: Any) -> Path:
    """Write records and the manifest that names them."""
    for records in made.values():
        for found in records.values():
            keep(root, found)
    content = {
        "format": 1, "table": table, "scale": {}, "seeds": sorted({s for records in made.values() for s in records}),
        "cells": {cell: {str(s): found["key"] for s, found in records.items()} for cell, records in made.items()},
        "missing": {}, **changes,
    }  # fmt: skip
    path = root / "manifests" / f"{table or 'sweep'}{'@scaled' if content['scale'] else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def runs(cell: str, values: list[float], metric: str = "online_accuracy", **changes: Any) -> dict[int, dict[str, Any]]:
    """Records of a cell by seed, one a value."""
    return {
        seed: record(key_of(cell, seed, metric), seed, {metric: number}, **changes)
        for seed, number in enumerate(values)
    }


def own_table(folder: Path, **changes: Any) -> Path:
    """The file of a small table: two columns, a filter, AdamW as published and tuned."""
    content = {
        "title": "A small table", "kind": "table", "metric": "online_accuracy", "published_seeds": 3,
        "seeds": [0, 1, 2],
        "columns": [
            {"name": "a", "title": "A, net", "task": "sst2", "backbone": "roberta_base"},
            {"name": "b", "title": "B, net", "task": "cola", "backbone": "roberta_base"},
        ],
        "rows": [
            {"name": "loko", "title": "LoKO", "optimizer": "loko", "published": [[80.0, 1.0], [70.0, 1.0]]},
            {"name": "adamw", "title": "AdamW", "optimizer": "adamw", "published": [[75.0, 1.0], [74.0, 1.0]]},
            {"name": "tuned", "title": "AdamW, tuned", "optimizer": "adamw", "grid": {"optimizer.lr": [0.1, 0.2]}},
        ],
        **changes,
    }  # fmt: skip
    path = folder / "papers" / "own" / "table.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def cell_names(table: Table) -> list[str]:
    """All cells of a table, with the points of grids."""
    return [
        "/".join([row.name, column, *([point_name(point)] if point else [])])
        for row in table.rows
        for column in (row.columns or [column.name for column in table.columns])
        for point in grid_points(row.grid)
    ]


def whole_table(root: Path, name: str, seeds: int = 2, scale: dict[str, Any] | None = None) -> Table:
    """All cells of a shipped table, near the published figures."""
    table = load_table(name)
    columns = {column.name: i for i, column in enumerate(table.columns)}
    rows = {row.name: row for row in table.rows}
    made: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in cell_names(table):
        row, column = cell.split("/")[:2]
        printed = (rows[row].published or [None] * len(columns))[columns[column]]
        mean = 80.0 if printed is None else printed[0] if isinstance(printed, list) else printed
        metric = table.columns[columns[column]].metric or table.metric
        rng = random.Random(cell)
        made[cell] = {
            seed: record(key_of(name, cell, seed, str(scale)), seed, {metric: mean + rng.gauss(0, 0.5)})
            for seed in range(seeds)
        }
    manifest(root, name, made, scale=scale or {})
    return table
