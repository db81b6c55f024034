"""The tests that run on a CUDA device where there is one."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from benchmarks.gpu.record import Record

SECONDS = 60
ALONE = False
SMOKE = True

FILES = ["tests/optimizers/test_cuda.py"]


def run_suite(record: Record) -> None:
    """Record the outcome of the tests."""
    record.attempt("tests", run_tests, record)


def run_tests(record: Record) -> dict[str, Any]:
    """Return the counts, and the end of the output where a test failed."""
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-rs", "--tb=short", *FILES],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=max(5.0, record.left()),
    )
    output = process.stdout.decode(errors="replace")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", output)}
    return {"status": process.returncode, **counts, "output": output[-6000:]}
