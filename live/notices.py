"""Lines on standard error, of the commands that learn from a stream."""

from __future__ import annotations

import sys


def print_line(text: str) -> None:
    """Print a line to standard error, at once."""
    print(f"filtune: {text}", file=sys.stderr, flush=True)
