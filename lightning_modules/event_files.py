"""Event files of TensorBoard, each record checked by its CRC-32C.

A file is a sequence of records: length (uint64), CRC of the length, data, CRC of the data (uint32 each, masked). Of a
process that was killed the last record may be incomplete; everything else that does not match is damage. A file that
was cut between two records is detected by the size it once had, which ``events.json`` and ``summary.json`` state.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .integrity import DamagedFile

EVENTS = "events.out.tfevents.*"
"""Pattern of the names of event files."""


SIZES = "event_bytes"
"""Field of ``summary.json`` and of ``events.json`` with the sizes of the event files in the run's folder."""


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the bytes of each event file in a folder, by name."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob(EVENTS))}


def stated_sizes(content: dict[str, Any]) -> dict[str, int]:
    """Return the sizes that a file states; none where it is of an earlier release, or where they are none."""
    sizes = content.get(SIZES)
    return {str(k): v for k, v in sizes.items() if isinstance(v, int)} if isinstance(sizes, dict) else {}


def sync(folder: Path) -> dict[str, int]:
    """Write the event files of a folder to disk, to survive a power failure, and return their sizes before that."""
    sizes = sizes_of(folder)
    for name in sizes:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    return sizes


def check_sizes(folder: Path, sizes: dict[str, int]) -> list[str]:
    """Check that event files have at least the sizes that they once had, and return the names of those missing.

    Raises:
        DamagedFile: If one is cut short; names it.
    """
    present = {name: size for name, size in sizes.items() if (folder / name).is_file()}
    for name, size in present.items():
        found = (folder / name).stat().st_size
        if found < size:
            raise DamagedFile(f"{folder / name}: cut short; the run wrote {size} bytes, it has {found}")
    return sorted(sizes.keys() - present.keys())


def records(path: Path) -> Iterator[bytes]:
    """Yield the complete records of a file.

    Raises:
        DamagedFile: If a checksum does not match.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    content, place = path.read_bytes(), 0
    while place + 12 <= len(content):
        head = content[place : place + 8]
        length, checksum = struct.unpack("<QI", content[place : place + 12])
        if masked_crc32c(head) != checksum:
            raise DamagedFile(f"{path}: damaged at byte {place}: a checksum does not match")
        end = place + 12 + length
        if end + 4 > len(content):
            return  # a killed process had not written all of it
        if masked_crc32c(content[place + 12 : end]) != struct.unpack("<I", content[end : end + 4])[0]:
            raise DamagedFile(f"{path}: damaged at byte {place + 12}: a checksum does not match")
        yield content[place + 12 : end]
        place = end + 4
