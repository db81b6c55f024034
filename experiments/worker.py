"""``python -m filtune.experiments.worker fit ...``: the command line in a process that ends with its parent."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from pathlib import Path

import filtune


def environment() -> dict[str, str]:
    """Return the environment in which a worker imports the filtune that is running.

    In a clone that is not installed, its folder is put on ``PYTHONPATH``. A worker imports modules of the current
    folder where this process does, and nowhere else: the folder may hold a user's own ``experiments/``.
    """
    found = dict(os.environ)
    source = Path(filtune.__file__).resolve().parents[1]
    if str(source) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), found.get("PYTHONPATH")]))
    if not any(Path(place or ".").resolve() == Path.cwd() for place in sys.path):
        found["PYTHONSAFEPATH"] = "1"
    return found


def stop_with_parent() -> None:
    """End this process when the one that started it does, however that ends: standard input is a pipe between them.

    Nothing is lost by it: the run goes on from its last checkpoint.
    """

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    stop_with_parent()  # before the imports, which take seconds
    from filtune.cli import main

    main(sys.argv[1:])
