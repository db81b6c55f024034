"""Records of runs on disk: one JSON a run while a study is running, one compressed file a study when it is kept.

A folder of ``filtune reproduce`` or ``filtune sweep`` (a root) holds::

    records/KEY.json      configuration, seed, commit, environment, metrics, curves, times, memory of a run
    manifests/NAME.json   which records belong to which cells of a table or sweep
    runs/KEY/             folders of the runs

:func:`pack` writes the records and manifests of a root into one file ``NAME.jsonl.xz``: JSON lines, of which the first
holds the manifests without their cells, and each further line a record with the cells that it belongs to. Whatever
reads a root reads such a file too, and a root that contains one has its records as well.

Records are written once and never edited. Old names in them are translated in memory when they are read.
"""

from __future__ import annotations

import json
import lzma
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

from filtune.lightning_modules.atomic import atomic_write, sweep_folder
from filtune.lightning_modules.integrity import read_json, sealed
from filtune.lightning_modules.legacy import translate, translate_figure
from filtune.lightning_modules.locks import FolderLock

from .fields import FORMAT, manifest_fault, record_fault
from .keys import record_key

Record = dict[str, Any]
Manifest = dict[str, Any]

PACKED = ".jsonl.xz"
"""End of the name of a packed study."""


class Store:
    """A root: a folder of records, manifests and run folders.

    Args:
        root: The folder; created when something is written.

    Attributes:
        broken: Records that cannot be read, such as half-written ones.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: list[Path] = []
        self._older: dict[str, tuple[Record, str]] | None = None

    def path(self, key: str) -> Path:
        """Return the path of the record with a key."""
        return self.root / "records" / f"{self._find(key)[0]}.json"

    def runs(self, key: str) -> Path:
        """Return the folder of a run, with a folder for each attempt that could not be continued."""
        return self.root / "runs" / self._find(key)[0]

    def _find(self, key: str) -> tuple[str, Record | None]:
        """Return the name under which a run is kept, and its record: a key, numbered where an older run has that name.

        A key leaves out the defaults. Where one has changed since, the record of that name is of another run; it stays
        as it is.
        """
        for name in chain([key], (f"{key}~{n}" for n in count(2))):
            record = self._read_file(self.root / "records" / f"{name}.json")
            if record is None or record_key(record) == key:
                return name, record
        raise AssertionError

    def read(self, key: str) -> Record | None:
        """Return the record of a run, translated to today's names; None where there is none that can be read.

        A record is that of a run whose key its configuration has today, for the configuration says what the defaults
        were. Thus a record is not taken for that of a run with another default, and those of earlier releases and of
        packed studies in the root are found. ``record["key"]`` is the key that the record was written with.
        """
        return self._find(key)[1] or self._read_older().get(key, (None, ""))[0]

    def kept_as(self, key: str) -> str:
        """Return the name of the record of a run, by which manifests name it: its key, but for older records."""
        name, record = self._find(key)
        return name if record else self._read_older().get(key, (None, name))[1]

    def _read_file(self, path: Path) -> Record | None:
        try:
            return translate_record(read_stored(path, "record"))
        except FileNotFoundError:
            return None
        except ValueError:
            self.broken += [path] if path not in self.broken else []
            return None

    def _read_older(self) -> dict[str, tuple[Record, str]]:
        """Return records kept under another name than today's key, by that key; of equal keys the last finished."""
        if self._older is None:
            paths = (self.root / "records").glob("*.json")
            packed = [unpack(path)[1] for path in sorted(self.root.glob(f"*{PACKED}"))]
            found = [(record, path.stem) for path in sorted(paths) if (record := self._read_file(path)) is not None]
            found += [(translate_record(record), record["key"]) for records in packed for record in records]
            found.sort(key=lambda pair: pair[0]["times"].get("finished_at") or "")
            self._older = {record_key(record): (record, name) for record, name in found}
        return self._older

    def read_all(self) -> list[Record]:
        """Return the records that were there when the root was first searched, those of packed studies among them."""
        return [record for record, _ in self._read_older().values()]

    def write(self, record: Record) -> None:
        """Write a record."""
        write_json(self.path(record["key"]), record)

    def read_manifest(self, name: str) -> Manifest | None:
        """Return a manifest; None where there is none.

        Raises:
            ValueError: If it cannot be read: overwritten, it would lose the cells of earlier commands.
        """
        try:
            return read_stored(self.root / "manifests" / f"{name}.json", "manifest")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{error}; delete it: records are found without it") from error

    def write_manifest(self, name: str, manifest: Manifest) -> Path:
        """Write a manifest and return its path."""
        path = self.root / "manifests" / f"{name}.json"
        write_json(path, manifest)
        return path

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Keep other commands from writing into the root.

        Args:
            shared: Whether those that ask for the same may do so, as processes that share a sweep.

        Raises:
            ValueError: If another command is doing so, or there is something else than a folder.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--root: {self.root} cannot be made a folder ({error.strerror}); name another") from error
        with FolderLock(self.root, f"--root {self.root}", "name another folder", shared):
            for folder in (self.root, self.root / "records", self.root / "manifests"):
                sweep_folder(folder)
            yield


def read_stored(path: Path, kind: Literal["record", "manifest"]) -> dict[str, Any]:
    """Return a record or manifest, as it was written.

    Raises:
        ValueError: If it cannot be read, or is none; names what is wrong.
    """
    content = read_json(path)
    fault = (record_fault if kind == "record" else manifest_fault)(content)
    if not fault and kind == "record" and content["key"] != path.stem.partition("~")[0]:
        fault = f"it is the record of {content['key']}"
    if fault:
        raise ValueError(f"{path}: damaged, or no {kind}: {fault}")
    return content


def translate_record(record: Record) -> Record:
    """Return a record in today's names of options and metrics; the original is left as it is."""
    found = dict(record)
    if isinstance(record.get("config"), dict):
        found["config"] = translate(record["config"])
    if isinstance(record.get("metrics"), dict):
        found["metrics"] = {translate_figure(name): value for name, value in record["metrics"].items()}
    return found


def metric_of(record: Record, name: str) -> float | None:
    """Return a metric or a time of a record by its name; None where it has none, no finite number, or diverged.

    A run that diverged has what was measured until then, which is no result.
    """
    if record["status"] == "diverged":
        return None
    found = {**record["metrics"], **record["times"], "steps_to_convergence": record.get("steps_to_convergence")}
    number = found.get(translate_figure(name))
    return float(number) if isinstance(number, int | float) and math.isfinite(number) else None


def lower_is_better(metric: str) -> bool:
    """Return whether a metric is better the lower it is: a loss, an error, a deviance, a time."""
    falling = "loss error deviance mae rmse seconds steps_to_convergence online_l1 nll brier ece forgetting"
    return any(word in metric for word in falling.split())


def pack(roots: list[Path], target: Path) -> int:
    """Write the records and manifests of roots into one file and return the number of records.

    Args:
        roots: Folders of ``filtune reproduce`` or ``filtune sweep``, or packed studies.
        target: The file; its name ends in ``.jsonl.xz``.

    Raises:
        ValueError: If the name ends otherwise, two roots have different manifests of one name, or there is no record.
    """
    if not target.name.endswith(PACKED):
        raise ValueError(f"--pack {target}: the name is to end in {PACKED}")
    manifests: dict[str, Manifest] = {}
    records: dict[str, Record] = {}
    for root in roots:
        found, kept = unpack(root) if root.is_file() else _read_root(root)
        for name, manifest in found.items():
            if manifests.setdefault(name, manifest) != manifest:
                raise ValueError(f"--pack: {root} has another manifest {name} than the roots before it")
        records |= {record["key"]: record for record in kept}
    if not records:
        raise ValueError(f"--pack: no record under {' '.join(map(str, roots))}")
    write_packed(target, manifests, list(records.values()))
    return len(records)


def write_packed(target: Path, manifests: dict[str, Manifest], records: list[Record]) -> None:
    """Write a packed study: records as they are, in the order of the manifests, each with the cells it belongs to."""
    places: dict[str, list[dict[str, str]]] = {}
    for name, manifest in manifests.items():
        for cell, keys in manifest["cells"].items():
            row, column, point = [*cell.split("/", 2), "", ""][:3]
            for key in keys.values():
                places.setdefault(key, []).append({"study": name, "row": row, "column": column, "point": point})
    order = {key: place for place, key in enumerate(places)}
    rows = [{**record, "cells": places.get(record["key"], [])} for record in records]
    rows.sort(key=lambda row: order.get(row["key"], len(order)))
    heads = {name: {**manifest, "cells": list(manifest["cells"])} for name, manifest in manifests.items()}
    lines = [{"format": FORMAT, "kind": "study", "manifests": heads}, *rows]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    with atomic_write(target, "wb") as file:
        file.write(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def unpack(path: Path, left_out: list[str] | None = None) -> tuple[dict[str, Manifest], list[Record]]:
    """Return the manifests by name and the records of a packed study, as they were written.

    Args:
        path: The file.
        left_out: Where to say what cannot be read, one line each: the other manifests and records are returned.

    Raises:
        ValueError: If the file is no packed study, or one of a newer format; without ``left_out`` also if a manifest
            or record in it cannot be read.
    """
    faults: list[str] = []
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            head, *rows = [json.loads(line) for line in file]
        given = head["manifests"]
        heads = {name: {**given[name], "cells": dict.fromkeys(given[name]["cells"])} for name in given}
    except (lzma.LZMAError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a packed study, or damaged") from error
    if head.get("format") != FORMAT:
        raise ValueError(f"{path}: a study of format {head.get('format')}, this filtune reads {FORMAT}; update filtune")
    manifests, records = {}, []
    for name, manifest in heads.items():
        manifest["cells"] = {cell: {} for cell in manifest["cells"]}
        if fault := manifest_fault(manifest):
            faults.append(f"{path}, manifest {name}: {fault}")
        else:
            manifests[name] = manifest
    for number, row in enumerate(rows, 2):
        if fault := record_fault(row) or _place(row, manifests, heads):
            faults.append(f"{path}, line {number}: {fault}")
        else:
            records.append(row)
    if faults and left_out is None:
        raise ValueError(faults[0])
    if left_out is not None:
        left_out.extend(faults)
    return manifests, records


def _place(row: Record, manifests: dict[str, Manifest], heads: dict[str, Any]) -> str:
    """Enter a packed record into the cells that it names; what is wrong with these, if anything."""
    found = []
    try:
        for place in row["cells"]:
            cell = "/".join(filter(None, (place["row"], place["column"], place["point"])))
            if place["study"] in manifests:
                found.append(manifests[place["study"]]["cells"][cell])
            elif place["study"] not in heads:
                return f"cells names the study {place['study']!r}, which the file does not have"
    except (KeyError, TypeError) as error:
        return f"cells is no list of cells of the file's studies ({type(error).__name__}: {error})"
    for cell in found:
        cell[str(row["seed"])] = row["key"]
    return ""


def _read_root(root: Path) -> tuple[dict[str, Manifest], list[Record]]:
    """Return the manifests and records of a folder, as they are.

    Raises:
        ValueError: If one cannot be read; a packed study is to be complete.
    """
    content: dict[str, dict[str, Any]] = {}
    for kind in ("manifest", "record"):
        for path in sorted((root / f"{kind}s").glob("*.json")):
            try:
                content.setdefault(kind, {})[path.stem] = read_stored(path, kind)
            except ValueError as error:
                raise ValueError(f"--pack: {path} cannot be read; delete it, or repeat its run") from error
    # manifests name a record by its file, which is not its key where an older record has that name
    records = [{**found, "key": name} for name, found in content.get("record", {}).items()]
    return content.get("manifest", {}), records


_LEAVES = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")


def _one_line(leaf: re.Match) -> str:
    """Return a list of plain values on one line: curves have hundreds."""
    return "[" + re.sub(r"\n\s+", " ", leaf[1]) + "]"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    with atomic_write(path) as file:
        file.write(_LEAVES.sub(_one_line, json.dumps(sealed(content), indent=1)) + "\n")
