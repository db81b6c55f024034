"""Options that the commands which make runs have in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_run_options(parser: argparse.ArgumentParser, root: str) -> None:
    """Where runs are kept, and how they are made."""
    parser.add_argument(
        "--local",
        action="append",
        default=[],
        metavar="ID=FOLDER",
        help="where data or weights of a hub id lie on this machine, such as nyu-mll/glue=data/glue; may be repeated",
    )
    parser.add_argument("--root", type=Path, default=Path(root), help=f"where runs are kept (default: {root})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of each run (default: all cores, shared out)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be run, and run nothing")


def read_folders(pairs: list[str]) -> dict[str, str]:
    """Folders by hub id.

    Raises:
        ValueError: If one is not ID=FOLDER, or there is no such folder.
    """
    folders = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals:
            raise ValueError(f"--local {pair}: is to be ID=FOLDER, such as --local nyu-mll/glue=data/glue")
        if not Path(folder).expanduser().is_dir():
            raise ValueError(f"--local {pair}: there is no folder {folder}")
        folders[name] = folder
    return folders


def read_workers(options: argparse.Namespace) -> tuple[int, int]:
    """Runs at a time, and threads of each.

    Raises:
        ValueError: If one is not positive.
    """
    threads = (os.cpu_count() or 1) // max(options.jobs, 1) if options.threads is None else options.threads
    for name, value in (("jobs", options.jobs), ("threads", max(threads, 1) if options.threads is None else threads)):
        if value < 1:
            raise ValueError(f"--{name} {value}: must be at least 1")
    return options.jobs, max(threads, 1)
