"""What says which records belong to which cells of a table."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from .availability import Need
from .cells import Cell, Plan, Scale
from .records import FORMAT, Store
from .tables import Table


def keep_manifest(
    store: Store, table: Table, scale: Scale, chosen: list[Cell], plan: Plan, missing: dict[str, Any]
) -> Path:
    """Write down which records belong to which cells; cells and seeds of earlier commands stay."""
    name = f"{table.name}@{scale.name}" if scale.name else table.name
    before = store.read_manifest(name) or {}
    found = dict(before.get("cells", {}))
    for cell in (cell for cell in chosen if cell.name in plan):
        found[cell.name] = {**found.get(cell.name, {}), **{str(seed): cell.key(seed) for seed in plan[cell.name]}}
    names = {cell.name for cell in chosen}
    left = {cell: why for cell, why in before.get("missing", {}).items() if cell not in names}
    manifest = {
        "format": FORMAT,
        "table": table.name,
        "scale": scale.describe(),
        "seeds": sorted({*before.get("seeds", []), *chain.from_iterable(plan.values())}),
        "cells": found,
        "missing": {**left, **{cell: _reason(why) for cell, why in missing.items() if cell in names}},
    }
    return store.write_manifest(name, manifest)


def _reason(why: Need | str) -> str:
    return why if isinstance(why, str) else f"{why.kind} {why.name}: {why.reason}"
