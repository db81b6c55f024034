"""Records and manifests of several roots together; what cannot be read is named and left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from . import tables
from .records import PACKED, Manifest, Record, read_stored, translate_record, unpack
from .tables import Table


@dataclass
class Pool:
    """The cells of a table that were run at one scale.

    Attributes:
        scale: How it departs from the paper; empty for the paper's own scale.
        cells: Records' keys by cell and seed.
        missing: Why cells could not be run.
        seeds: The seeds that were asked for.
    """

    scale: dict[str, Any]
    cells: dict[str, dict[int, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seeds: set[int] = field(default_factory=set)


class Archive:
    """The manifests and records of roots.

    Args:
        roots: Folders with ``manifests`` and ``records``, and packed studies.
        own: Tables that do not ship, which manifests may name.

    Attributes:
        pools: By table and scale.
        sweeps: Manifests of sweeps.
        left_out: One line about each file that could not be read.
    """

    def __init__(self, roots: Sequence[Path], own: Sequence[Table] = ()) -> None:
        self.roots, self.own = list(roots), tables.tables_by_name(own)
        self.left_out: list[str] = []
        self.pools: dict[str, dict[str, Pool]] = {}
        self.sweeps: list[dict[str, Any]] = []
        self._records: dict[str, Record | None] = {}
        self._packed: dict[str, Record] = {}
        for root in self.roots:
            for path in packed_studies(root):
                self._unpack(path)
            for path in sorted((root / "manifests").glob("*.json")):
                manifest = self._read(path, "manifest")
                if manifest is not None:
                    self._add(path, manifest)

    def record(self, key: str) -> Record | None:
        """Return a record of whichever root has it, in today's names; None where there is none that can be read."""
        if key not in self._records:
            paths = [root / "records" / f"{key}.json" for root in self.roots]
            read = (self._read(path, "record") for path in paths if path.is_file())
            found = next((record for record in read if record is not None), self._packed.get(key))
            self._records[key] = translate_record(found) if found else None
        return self._records[key]

    def records(self, cells: dict[int, str]) -> dict[int, Record]:
        """Return the records there are of a cell, by seed; one that is of another seed is left out."""
        found = {seed: record for seed, key in sorted(cells.items()) if (record := self.record(key)) is not None}
        for seed, record in found.items():
            if record["seed"] != seed:
                self.leave_out(f"record {cells[seed]}: it is of seed {record['seed']}, the manifest has seed {seed}")
        return {seed: record for seed, record in found.items() if record["seed"] == seed}

    def read_records(self) -> list[Record]:
        """Return all records that were asked for so far, each once."""
        return [record for record in self._records.values() if record is not None]

    def leave_out(self, reason: object) -> None:
        """Report, once, what is left out and why."""
        if (line := f"{reason}: left out") not in self.left_out:
            self.left_out.append(line)

    def _unpack(self, path: Path) -> None:
        faults: list[str] = []
        try:
            manifests, records = unpack(path, faults)
        except (ValueError, OSError) as error:
            self.leave_out(error)
            return
        for fault in faults:
            self.leave_out(fault)
        self._packed.update({record["key"]: record for record in records})
        for name, manifest in manifests.items():
            self._add(path, manifest, name)

    def _read(self, path: Path, kind: Literal["record", "manifest"]) -> dict[str, Any] | None:
        try:
            return read_stored(path, kind)
        except (ValueError, OSError) as error:
            self.leave_out(error)
            return None

    def _add(self, path: Path, manifest: Manifest, name: str = "") -> None:
        if manifest.get("table") is None:
            self.sweeps.append(manifest | {"name": name or path.stem})
            return
        try:
            table = self.own.get(manifest["table"]) or shipped_table(manifest["table"])
        except (ValueError, OSError) as error:
            self.left_out.append(f"{path}: {error}: left out; --tables FILE names a table of your own")
            return
        if table.is_of_another_file(manifest.get("file"), path.parents[0 if name else 1]):
            self.leave_out(f"{path}: it is of another table {table.name}, of the file {manifest.get('file')}")
            return
        scale, of = manifest.get("scale") or {}, source_tables(table)
        for source in of:
            pool = self.pools.setdefault(source.name, {}).setdefault(json.dumps(scale, sort_keys=True), Pool(scale))
            for cell, keys in manifest["cells"].items():
                if _has(source, cell):
                    pool.cells.setdefault(cell, {}).update({int(seed): key for seed, key in keys.items()})
                    pool.seeds.update(int(seed) for seed in keys)
            for cell, reason in (manifest.get("missing") or {}).items():
                if _has(source, cell):
                    pool.missing[cell] = reason
        unknown = sorted(cell for cell in manifest["cells"] if not any(_has(source, cell) for source in of))
        if unknown:
            self.leave_out(f"{path}: {table.name} has no cells {', '.join(unknown)}")


def find_roots(paths: Sequence[Path]) -> list[Path]:
    """Return the roots that paths hold: each path itself, or the roots below it, such as those of ``runs``.

    A folder that is no root is kept beside the roots below it, for it may hold runs of ``filtune fit`` as well.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        below = [] if _is_root(path) else sorted(place.parent for place in path.rglob("manifests") if place.is_dir())
        for root in [*below, path]:
            found.setdefault(root.resolve(), root)
    return list(found.values())


def _is_root(path: Path) -> bool:
    return (path / "manifests").is_dir() or bool(packed_studies(path))


def packed_studies(root: Path) -> list[Path]:
    """Return the packed studies of a root: itself where it is one, else those in the folder."""
    return [root] if root.is_file() else sorted(root.glob(f"*{PACKED}"))


def shipped_table(name: str) -> Table:
    """Return a table or figure by its name, read once.

    Raises:
        ValueError: If there is no such table, naming near ones, or its file is wrong.
    """
    return _read_table(tables.PAPERS, name)


@cache
def _read_table(_: Path, name: str) -> Table:
    return tables.load_table(name)


def source_tables(table: Table) -> list[Table]:
    """Return the tables whose cells a table or figure shows; itself where it has cells of its own."""
    return table.sources or [table]


def _has(table: Table, cell: str) -> bool:
    row, _, rest = cell.partition("/")
    column = rest.partition("/")[0]
    return any(r.name == row for r in table.rows) and any(c.name == column for c in table.columns)
