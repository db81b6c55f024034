"""``python -m filtune.experiments.worker fit ...``: the command line in a process that ends with its parent."""

from __future__ import annotations

import os
import signal
import sys
import threading


def stop_with_parent() -> None:
    """End this process when the one that started it ends, however it ends: standard input is a pipe between them.

    The run resumes from its last checkpoint.
    """

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a cluster's warning that time runs out, for the process above
    stop_with_parent()  # before the imports, which take seconds
    from filtune.cli import main

    main(sys.argv[1:])
