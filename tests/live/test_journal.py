"""The write-ahead log: whole requests, in order, through torn writes, damage and full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from filtune.live.serving.journal import Journal, LogDamaged, LogNotWritten, payload
from filtune.live.serving.known_ids import KnownIds


def operation(number: int) -> dict[str, Any]:
    return {"op": "learn", "x": f"sample {number} ü\u2028\n", "y": "a", "id": number}


def written(folder: Path, *sizes: int) -> Journal:
    """A log with requests of so many operations."""
    journal = Journal(folder)
    assert not list(journal.read(0))
    for size in sizes:
        journal.append([payload([operation(journal.end + place) for place in range(size)])])
    return journal


def numbers(folder: Path, after: int = 0) -> list[int]:
    """The operations that a new reader finds, after the check that their places are right."""
    found = []
    for first, operations in Journal(folder).read(after):
        assert [each["id"] for each in operations] == list(range(first, first + len(operations)))
        found += [each["id"] for each in operations]
    return found


def test_what_was_appended_is_read_from_any_operation_on(tmp_path: Path) -> None:
    journal = written(tmp_path, 1, 3, 2)
    assert journal.append([payload([operation(6)]), payload([operation(7), operation(8)])]) == 6
    for after in range(10):
        assert numbers(tmp_path, after) == list(range(after, 9))


def test_a_log_cut_at_any_byte_keeps_the_requests_before_it(tmp_path: Path) -> None:
    written(tmp_path, 1, 3, 2)
    (segment,) = tmp_path.iterdir()
    whole = segment.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in sorted({*range(0, len(whole), 11), *(end + step for end in ends[:-1] for step in (-1, 0, 1))}):
        segment.write_bytes(whole[:cut])
        kept = [0, 1, 4, 6][sum(end <= cut for end in ends)]
        assert numbers(tmp_path) == list(range(kept))
        assert segment.stat().st_size == ([0, *ends])[sum(end <= cut for end in ends)]  # cut to whole requests
        journal = Journal(tmp_path)
        list(journal.read(0))
        journal.append([payload([operation(journal.end)])])  # and goes on there
        assert numbers(tmp_path) == list(range(kept + 1))


def test_a_changed_byte_before_the_last_line_is_refused_with_its_place(tmp_path: Path) -> None:
    written(tmp_path, 1, 3, 2)
    (segment,) = tmp_path.iterdir()
    whole = segment.read_bytes()
    second = whole.index(b"\n") + 1
    for place in range(second, second + 40, 3):
        segment.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LogDamaged, match=r"00\.jsonl, line 2: .*head -n 1"):
            numbers(tmp_path)


def test_segments_are_pruned_when_a_snapshot_has_them_and_missing_ones_are_noticed(tmp_path: Path) -> None:
    journal = written(tmp_path, 2, 2)
    journal.rotate()
    journal.append([payload([operation(4), operation(5)])])
    journal.rotate()
    journal.append([payload([operation(6)])])
    assert [int(path.stem) for path in journal.segments()] == [0, 4, 6]
    journal.prune(5)
    assert [int(path.stem) for path in journal.segments()] == [4, 6]
    assert numbers(tmp_path, 5) == [5, 6]
    with pytest.raises(LogDamaged, match="operations 3 to 3 are missing"):
        numbers(tmp_path, 3)
    journal.rotate()
    journal.append([payload([operation(7)])])
    journal.segments()[1].unlink()
    with pytest.raises(LogDamaged, match="operation 6 was expected"):
        numbers(tmp_path, 5)


def test_a_log_that_ends_before_the_snapshot_goes_on_after_it(tmp_path: Path) -> None:
    written(tmp_path, 1, 3)
    journal = Journal(tmp_path)
    assert not list(journal.read(9))
    journal.append([payload([operation(9)])])
    assert numbers(tmp_path, 9) == [9]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    journal = written(tmp_path, 1)
    before = journal.segments()[0].read_bytes()
    real, calls = getattr(os, call), []

    def full(descriptor: int, *data: bytes) -> Any:
        calls.append(call)
        if call == "write" and len(calls) == 1:
            return real(descriptor, data[0][:5])  # a part of it fits
        if len(calls) <= 1 + (call == "write"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, *data)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(LogNotWritten, match="No space left on device; nothing was accepted"):
        journal.append([payload([operation(1)])])
    assert journal.segments()[0].read_bytes() == before
    journal.append([payload([operation(1)])])  # there is room again
    assert numbers(tmp_path) == [0, 1]


def test_what_json_cannot_hold_is_refused_before_it_is_written() -> None:
    for bad in (float("nan"), [float("inf")], "half \ud800", {"x": ["\udfff"]}):
        with pytest.raises(ValueError, match="cannot|surrogate"):
            payload([{"op": "learn", "x": bad, "y": "a"}])


def test_ids_decide_what_becomes_of_labels_in_any_order() -> None:
    ids = KnownIds(most_waiting=2, remembered=3)

    def take(*operations: str) -> list[str]:
        made = [dict(zip(("op", "id"), text.split(), strict=False)) for text in operations]
        return [ids.take(each) for each in made]

    assert take("label a", "wait a", "label a", "label a") == ["unknown", "waiting", "accepted", "duplicate"]
    assert take("learn", "learn") == ["accepted", "accepted"]  # without an id nothing is known of it
    assert take("wait b", "learn b", "label b", "wait b") == ["waiting", "accepted", "duplicate", "duplicate"]
    assert take("wait c", "wait d", "wait c") == ["waiting", "waiting", "duplicate"]
    assert take("wait e", "label c") == ["waiting", "unknown"]  # c was the oldest
    again = KnownIds(2, 3)
    again.load(ids.state())
    assert again.state() == ids.state()
    assert [again.take({"op": "label", "id": id}) for id in "abde"] == ["duplicate"] * 2 + ["accepted"] * 2
    assert again.take({"op": "learn", "id": "a"}) == "accepted"  # beyond what is remembered
