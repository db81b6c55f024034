"""Manifests and records of several folders, read; what cannot be read is named and left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from filtune.experiments import tables
from filtune.experiments.records import FORMAT
from filtune.experiments.tables import Table

Record = dict[str, Any]
_NEEDED: dict[str, dict[str, type]] = {
    "manifest": {"cells": dict, "seeds": list},
    "record": {
        **dict.fromkeys(("key", "status", "task", "backbone", "optimizer"), str),
        **dict.fromkeys(("metrics", "curves", "times", "config"), dict),
        "seed": int,
    },
}


@dataclass
class Pool:
    """The cells of a table that were run at one scale.

    Attributes:
        scale: How it departs from the paper; nothing for the paper's own scale.
        cells: Records' keys by cell and seed.
        missing: Why cells could not be run.
        seeds: The seeds that were asked for.
    """

    scale: dict[str, Any]
    cells: dict[str, dict[int, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seeds: set[int] = field(default_factory=set)


class Archive:
    """What lies in the roots.

    Args:
        roots: Folders with ``manifests`` and ``records``.
        own: Tables that do not ship, which manifests may name.
    """

    def __init__(self, roots: Sequence[Path], own: Sequence[Table] = ()) -> None:
        self.roots, self.own = list(roots), {table.name: table for table in own}
        self.left_out: list[str] = []
        self.pools: dict[str, dict[str, Pool]] = {}
        self.sweeps: list[dict[str, Any]] = []
        self._records: dict[str, Record | None] = {}
        for root in self.roots:
            for path in sorted((root / "manifests").glob("*.json")):
                manifest = self._read(path, "manifest")
                if manifest is not None:
                    self._add(path, manifest)

    def record(self, key: str) -> Record | None:
        """A record, of whichever root has it; none where there is none that can be read."""
        if key not in self._records:
            paths = [root / "records" / f"{key}.json" for root in self.roots]
            found = [self._read(path, "record") for path in paths if path.is_file()]
            self._records[key] = next((record for record in found if record is not None), None)
        return self._records[key]

    def records(self, cells: dict[int, str]) -> dict[int, Record]:
        """The records there are of a cell, by seed."""
        found = {seed: self.record(key) for seed, key in sorted(cells.items())}
        return {seed: record for seed, record in found.items() if record is not None}

    def read_records(self) -> list[Record]:
        """All records that were asked for so far, each once."""
        return [record for record in self._records.values() if record is not None]

    def _read(self, path: Path, kind: str) -> dict[str, Any] | None:
        try:
            content = json.loads(path.read_text())
        except (ValueError, OSError):
            self.left_out.append(f"{path} is half written or no JSON: left out")
            return None
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT:
            self.left_out.append(
                f"{path} is a {kind} of format {version}, this filtune reads {FORMAT}: left out; update filtune"
            )
            return None
        known = content if isinstance(version, int) else {}
        lacking = [name for name, of in _NEEDED[kind].items() if not isinstance(known.get(name), of)]
        if lacking:
            self.left_out.append(f"{path} is no {kind} (what it lacks: {', '.join(lacking)}): left out")
            return None
        return content

    def _add(self, path: Path, manifest: dict[str, Any]) -> None:
        if manifest.get("table") is None:
            self.sweeps.append(manifest | {"name": path.stem})
            return
        try:
            table = self.own.get(manifest["table"]) or load(manifest["table"])
        except ValueError as error:
            self.left_out.append(f"{path}: {error}: left out; --tables FILE names a table of your own")
            return
        scale, of = manifest.get("scale") or {}, sources(table)
        for source in of:
            pool = self.pools.setdefault(source.name, {}).setdefault(json.dumps(scale, sort_keys=True), Pool(scale))
            for cell, keys in manifest["cells"].items():
                if _has(source, cell):
                    pool.cells.setdefault(cell, {}).update({int(seed): key for seed, key in keys.items()})
                    pool.seeds.update(int(seed) for seed in keys)
            for cell, reason in manifest.get("missing", {}).items():
                if _has(source, cell):
                    pool.missing[cell] = reason
        unknown = sorted(cell for cell in manifest["cells"] if not any(_has(source, cell) for source in of))
        if unknown:
            self.left_out.append(f"{path}: {table.name} has no cells {', '.join(unknown)}: left out")


def load(name: str) -> Table:
    """A table or figure by its name, read once.

    Raises:
        ValueError: If there is no such table, naming near ones, or its file is wrong.
    """
    return _load(tables.PAPERS, name)


@cache
def _load(_: Path, name: str) -> Table:
    return tables.load_table(name)


def sources(table: Table) -> list[Table]:
    """The tables whose cells a table or figure shows; itself where it has cells of its own."""
    of = table.raw.get("of")
    return [table] if of is None else [load(name) for name in ([of] if isinstance(of, str) else of)]


def _has(table: Table, cell: str) -> bool:
    row, _, rest = cell.partition("/")
    column = rest.partition("/")[0]
    return any(r.name == row for r in table.rows) and any(c.name == column for c in table.columns)


def value(record: Record, metric: str) -> float | None:
    """A figure of a record by its name; none where it has no such figure."""
    found = {**record["metrics"], **record["times"], "steps_to_convergence": record.get("steps_to_convergence")}
    number = found.get(metric)
    return float(number) if isinstance(number, int | float) and number == number else None
