"""Kinds of files by their first bytes, for those that are not what their name says."""

from __future__ import annotations

BEGINNINGS: dict[bytes, str] = {
    b"version https://git-lfs": "a pointer of Git LFS in place of the file: fetch it with git lfs pull",
    b"<!doctype html": "a web page, such as the error page of a download: download it again",
    b"<html": "a web page, such as the error page of a download: download it again",
    b"pk\x03\x04": "a zip archive, as spreadsheets (.xlsx) are: unpack it, or save it as .csv",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or document (.xls, .doc): save it as .csv",
    b"\x1f\x8b": "compressed with gzip: let its name end in .gz",
    b"bzh": "compressed with bzip2: let its name end in .bz2",
    b"\xfd7zxz": "compressed with xz: let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"par1": "a parquet file: let its name end in .parquet",
    b"%pdf": "a PDF document: save its content as text",
    b"sqlite format 3": "an SQLite database: save the table as .csv",
}
"""Beginnings of files in lower case, what they are, and what to do."""

LENGTH = max(map(len, BEGINNINGS))


def known_beginning(start: bytes, *expected: str) -> str | None:
    """Return what a file is by its first bytes, and the remedy; None where they are of no kind known here.

    Args:
        start: The first bytes of the file, at least :data:`LENGTH` where it has them.
        *expected: Words of the kinds that it should be.
    """
    lowered = start.lstrip().lower()
    for beginning, kind in BEGINNINGS.items():
        if lowered.startswith(beginning) and not any(word in kind for word in expected):
            return kind
    return None
