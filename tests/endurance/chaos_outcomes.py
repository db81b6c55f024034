"""Outcomes of a command in a form that can be compared: without times, memory and places."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from filtune.experiments.run_folder import read_run
from safetensors.torch import load_file

EXCLUDED = [
    "seconds, dates and peak memory in summaries, records and checkpoints",
    "bytes and names of event files; of the scalars in them those of times",
    "checksums of files whose content is compared without what is excluded",
    "paths of the temporary folder in exported files and reports",
    "locks, and what is printed",
]
"""What is left out of the comparison; all else is bit-identical."""

_TIMES = ("seconds", "peak_memory_bytes", "event_bytes", "times", "checksum")


def fitted(folder: Path) -> dict[str, Any]:
    """Return the runs of ``fit``: checkpoints in full, summaries, configurations, scalars, and all files' names."""
    runs = sorted(folder.glob("runs/*/*/version_*"))
    found = {}
    for run in runs:
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        checkpoint["filtune"].pop("seconds")
        read = read_run(run)
        scalars = {tag: curve for tag, curve in read.curves.items() if "seconds" not in tag}
        found[str(run.relative_to(folder))] = {
            "checkpoint": checkpoint,
            "summary": _timeless(read.summary),
            "config": {name: value for name, value in read.config.items() if name != "ckpt_path"},
            "scalars": scalars,
            "files": sorted({re.sub(r"tfevents\..*", "tfevents", path.name) for path in run.rglob("*")}),
        }
    return found


def recorded(folder: Path) -> dict[str, Any]:
    """Return the records and manifests of ``sweep`` and ``reproduce``, and the best configuration."""
    root = folder / "root"
    kept = [*root.glob("records/*"), *root.glob("records/.*"), *root.glob("manifests/*"), *root.glob("*.yaml")]
    return {
        str(path.relative_to(root)): _timeless(json.loads(path.read_text()))
        if path.suffix == ".json"
        else path.read_text()
        for path in sorted(kept)
    }


def written(folder: Path) -> dict[str, Any]:
    """Return the files of a report: texts in full, of figures their sizes."""
    out = folder / "out"
    return {
        str(path.relative_to(out)): path.read_text().replace(str(folder), "")
        if path.suffix in (".md", ".tex", ".html")
        else path.stat().st_size
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def exported(folder: Path) -> dict[str, Any]:
    """Return an exported model: tensors and texts; and the names of other files in its folder."""
    out = folder / "out"
    found: dict[str, Any] = {"beside": sorted(path.name for path in folder.iterdir() if path.name.startswith("."))}
    for path in sorted(out.rglob("*")):
        if path.suffix == ".safetensors":
            found[str(path.relative_to(out))] = load_file(path)
        elif path.is_file():
            found[str(path.relative_to(out))] = path.read_text().replace(str(folder), "")
    return found


def predicted(folder: Path) -> dict[str, Any]:
    """Return the bytes of the predictions; and the names of other files in their folder."""
    beside = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    return {"beside": beside, "out.csv": (folder / "out.csv").read_bytes()}


def _timeless(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _timeless(value) for name, value in tree.items() if not any(word in str(name) for word in _TIMES)}
    return [_timeless(value) for value in tree] if isinstance(tree, list) else tree
