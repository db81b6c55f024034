"""Records of a part: results and errors by name, in a file that is written after each of them."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Record:
    """The results of a part, and what it may use.

    Args:
        path: JSON to write.
        device: Where it runs.
        seconds: Time that the part may take.
        quick: Whether to run every entry once at a tiny size, to see that it works.
        smoke: Whether to look for errors rather than to measure.
    """

    path: Path
    device: torch.device
    seconds: float
    quick: bool = False
    smoke: bool = False
    entries: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cuda(self) -> bool:
        """True if the device is a CUDA device."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Return the seconds that are left to the part."""
        return self.seconds - (time.monotonic() - self.start)

    def attempt(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Record what a function returns, or the last lines of its error; nothing runs once the time is up.

        Args:
            name: Name of the entry.
            function: Returns what JSON can hold.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            The result; None after an error.
        """
        if self.left() <= 0:
            self.put(name, {"skipped": "no time left"})
            return None
        begun, result = time.monotonic(), None
        try:
            result = function(*args, **kwargs)
            found = result if isinstance(result, dict) else {"result": result}
        except Exception as error:
            found = {"error": describe_error(error)}
        self.put(name, {**found, "wall_seconds": round(time.monotonic() - begun, 2)})
        return result

    def clean(self) -> None:
        """Give the device's memory back."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def put(self, name: str, value: Any) -> None:
        """Record a value, and write the file."""
        with self.lock:
            self.entries[name] = value
            write_results(self.path, self.entries)
        short = json.dumps(value, default=str)
        print(f"  {name}: {short[:300]}", flush=True)


def describe_error(error: BaseException) -> list[str]:
    """Return the type and message of an error, and the frames nearest to it, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.line}" for frame in frames]
    message = str(error).strip().splitlines()[:12]
    return [*places, f"{type(error).__name__}: {' | '.join(message)}"[:1500]]


def write_results(path: Path, value: Any) -> None:
    """Write a file as a whole, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, default=str) + "\n")
    os.replace(partial, path)
