"""Scalars in the event files of TensorBoard."""

from __future__ import annotations

from pathlib import Path

from filtune.lightning_modules.event_files import EVENTS, check_sizes, records
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

    missing = check_sizes(folder, sizes)
    if missing:
        raise DamagedFile(f"{folder / missing[0]}: missing; the run wrote {sizes[missing[0]]} bytes")
    found: Points = {}
    for path in sorted(folder.glob(EVENTS), key=_order):
        for record in records(path):
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
