"""Checksums within the files of a run, by which damage is detected when they are read.

A checkpoint is a ZIP archive, whose comment holds the SHA-256 of all bytes before it. A JSON file has the SHA-256 of
its content in the field ``checksum``, a YAML file in a comment, its first line. Each file is thus checked by itself: no
second file can be missing or of another moment. A file of an earlier release has no checksum; of an archive the CRC-32
of each member is then checked, which torch does not do.

That a file has a checksum is stated a second time, elsewhere in the file, so that damage of the checksum itself does
not end the check: a YAML file ends with a comment, a summary has a field of the same age.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

from .runs import EVENT_SIZES, PREDICTIONS, SUMMARY
from .yaml_loader import load_yaml, parse_yaml

CHECKSUM = "checksum"
"""Field of a JSON file with the checksum of the others."""

_MARK = b"filtune sha256 "
_COMMENT = len(_MARK) + 64
_END_OF_DIRECTORY = b"PK\x05\x06"
_YAML_WORDS = "sha256 of the content"
_YAML_MARK = f"# {_YAML_WORDS}: "
_YAML_END = "# the first line has the checksum of these settings"

_YOUNGER = {SUMMARY: "event_bytes", EVENT_SIZES: "event_bytes", PREDICTIONS: "worst"}
"""By name of a JSON file, a field that no release wrote without the checksum."""


class DamagedFile(ValueError):
    """A file of a run is damaged, or was changed after it was written."""


def seal_archive(file: IO[bytes]) -> None:
    """Append the checksum to a ZIP archive that has just been written, as its comment.

    Args:
        file: The archive, open for reading and writing.

    Raises:
        ValueError: If the archive has a comment already.
    """
    end = file.seek(-22, 2)
    record = file.read(22)
    if record[:4] != _END_OF_DIRECTORY or record[20:] != b"\0\0":
        raise ValueError("the archive has a comment already")
    file.seek(end + 20)
    file.write(struct.pack("<H", _COMMENT) + _MARK)
    digest = _digest(file, file.tell())
    file.seek(0, 2)
    file.write(digest)


def check_archive(path: Path) -> None:
    """Check a ZIP archive by its checksum, or where it has none by the CRC-32 of each member.

    Raises:
        DamagedFile: If it is damaged.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _COMMENT))
        comment = file.read()
        if comment.startswith(_MARK):
            if _digest(file, size - 64) != comment[-64:]:
                raise DamagedFile("its SHA-256 is another than when it was written")
            return
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
                sealed = bool(archive.comment)
        except Exception as error:  # zipfile raises anything, NotImplementedError among others, on a damaged archive
            raise DamagedFile(f"no complete archive: {error}") from error
        if damaged or sealed:
            raise DamagedFile(f"the CRC-32 of its member {damaged} is wrong" if damaged else "its checksum is damaged")


def _digest(file: IO[bytes], size: int) -> bytes:
    found, left = hashlib.sha256(), size
    file.seek(0)
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        found.update(block)
        left -= len(block)
    return found.hexdigest().encode()


def content_checksum(content: Any) -> str:
    """Return the SHA-256 of a tree of plain values, whatever the order of its keys."""
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    except TypeError:  # keys of several types have no order, and some are none of JSON's
        text = repr(_ordered(content))
    return hashlib.sha256(text.encode()).hexdigest()


def _ordered(tree: Any) -> Any:
    """Return a tree whose mappings are lists of pairs, in the order of the keys' type and text."""
    if isinstance(tree, dict):
        return sorted(((type(key).__name__, repr(key), _ordered(value)) for key, value in tree.items()), key=repr)
    return [_ordered(value) for value in tree] if isinstance(tree, list | tuple) else repr(tree)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with its checksum, the last field."""
    plain = {name: value for name, value in content.items() if name != CHECKSUM}
    # the checksum is that of what a reader will see: NaN, tuples and keys that are no strings read back as others
    return {**plain, CHECKSUM: content_checksum(json.loads(json.dumps(plain)))}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file whose content is an object, and check it; its checksum is left out.

    Raises:
        DamagedFile: If it is cut short, damaged, changed, or no such file; names it.
        OSError: If it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: damaged or cut short, no JSON ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: damaged, or no file of filtune: its content is not an object")
    checksum = content.pop(CHECKSUM, None)
    is_sealed = checksum is not None or _YOUNGER.get(path.name) in content or _ends_with_checksum(content)
    if is_sealed and checksum != content_checksum(content):
        raise DamagedFile(f"{path}: damaged, or changed after it was written: its checksum does not match")
    return content


def _ends_with_checksum(content: dict[str, Any]) -> bool:
    """Return whether the last field is the checksum of the others, under a damaged name."""
    *others, last = content.items() or [("", None)]
    is_digest = isinstance(last[1], str) and re.fullmatch("[0-9a-f]{64}", last[1]) is not None
    return is_digest and last[1] == content_checksum(dict(others))


def sealed_yaml(text: str) -> str:
    """Return the text of a YAML file with the checksum of its content in the first line."""
    end = "" if text.endswith("\n") else "\n"
    return f"{_YAML_MARK}{content_checksum(parse_yaml(text))}\n{text}{end}{_YAML_END}\n"


def read_yaml(path: Path) -> Any:
    """Read a YAML file, and check it by the checksum in its first line, if it was written with one.

    Raises:
        DamagedFile: If it is cut short, damaged, changed, or no YAML; names it.
        OSError: If it cannot be read.
    """
    try:
        text, content = load_yaml(path, str(path))
    except ValueError as error:
        raise DamagedFile(f"{error}; or the file is damaged") from error
    if isinstance(content, dict) and not all(isinstance(key, str) for key in content):
        key = next(key for key in content if not isinstance(key, str))
        raise DamagedFile(f"{path}: damaged, or no configuration of a run: it has the key {key!r}")
    first, last = text.partition("\n")[0], text.rstrip("\n").rpartition("\n")[2]
    is_sealed = _YAML_WORDS in first or last.rstrip() == _YAML_END
    if is_sealed and first.rstrip() != _YAML_MARK + content_checksum(content):
        raise DamagedFile(
            f"{path}: damaged, or changed after it was written: its checksum does not match; to change a "
            "configuration, change a copy of it without its first and last line"
        )
    return content


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
