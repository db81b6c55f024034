"""Scalars in the event files of TensorBoard, each record checked by its CRC-32C.

A file is a sequence of records: length (uint64), CRC of the length, data, CRC of the data (uint32 each, masked). Of a
process that was killed the last record may be incomplete; everything else that does not match is damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from filtune.lightning_modules.integrity import DamagedFile

Points = dict[str, dict[int, float]]
"""Value by step, by tag."""


def read_scalars(folder: Path, sizes: dict[str, int]) -> Points:
    """Return the scalars of all event files in a folder; of a step that was logged twice the later value.

    Args:
        folder: The folder of a run.
        sizes: Least bytes of each event file, by name, as a finished run states them.

    Raises:
        DamagedFile: If one is damaged, cut short or missing; names it.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size < size:
            raise DamagedFile(f"{path}: {'cut short' if path.is_file() else 'missing'}; the run wrote {size} bytes")
    found: Points = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=_order):
        for record in _records(path):
            try:
                event = Event.FromString(record)
            except Exception as error:  # protobuf has an error of its own in each of its implementations
                raise DamagedFile(f"{path}: damaged, a record cannot be read") from error
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def _order(path: Path) -> tuple[int, str]:
    """Sort key of an event file: when it was begun, which its name says."""
    begun = path.name.split(".")[3]
    return (int(begun) if begun.isdigit() else 0), path.name


def _records(path: Path) -> Iterator[bytes]:
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
