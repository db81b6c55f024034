"""The cache of prepared tables: keyed by what the files hold, so that a changed file is never taken for an old one.

The ``datasets`` library keys its cache by the path, the size and the modification time of a file. All three may stay
while the content changes.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import datasets
import pyarrow.parquet as pq

from .beginnings import LENGTH, known_beginning
from .samples import DataError
from .shown import shown

_BLOCK = 1 << 20


def content_cache(files: Sequence[Path]) -> Path:
    """Return the folder for what is prepared from some files, named by their content.

    Raises:
        DataError: If it cannot be written.
    """
    digest = blake2b(digest_size=16)
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return writable_cache() / "filtune" / digest.hexdigest()


def writable_cache() -> Path:
    """Return the folder of the library's cache.

    Raises:
        DataError: If it cannot be written.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise _not_writable(error) from error


@contextmanager
def cache_errors(source: str) -> Iterator[None]:
    """Report errors of the library in one line: of the cache where it cannot be written, else of the source.

    Raises:
        DataError: If the block raises any error.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each builder raises errors of its own
        for cause in _causes(error):
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise _not_writable(cause) from error
        cause = error.__cause__ or error
        said = " ".join(str(cause).split())
        said = said if " " in said else f"{type(cause).__name__} {said}".strip()
        raise DataError(
            f"--data.source: {source} cannot be read: {said[:300].rstrip('.')}; correct it, or name another"
        ) from error


def check_parquet(path: Path) -> None:
    """Check what the library says nothing clear about: a file of another kind, no rows, or a column twice.

    Raises:
        DataError: If so.
    """
    with path.open("rb") as file:
        kind = known_beginning(file.read(LENGTH), "parquet")
    if kind:
        raise DataError(f"--data.source: {path} is {kind}")
    found = pq.read_metadata(path)
    names = found.schema.to_arrow_schema().names
    twice = [name for name in names if names.count(name) > 1]
    if twice or (found.num_row_groups and not found.num_rows):
        wrong = f"has the column {shown(repr(twice[0]))} twice; rename one" if twice else "has no rows; name another"
        raise DataError(f"--data.source: {path} {wrong}")


@contextmanager
def quiet_reading(local: bool) -> Iterator[None]:
    """Suppress progress bars of local files, and log lines about errors that are raised anyway."""
    bars, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    if local:
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, each once: one may be raised from itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _not_writable(error: OSError) -> DataError:
    return DataError(
        f"HF_DATASETS_CACHE: the cache folder {datasets.config.HF_DATASETS_CACHE} cannot be written "
        f"({error.strerror or error}); set this variable to a folder that can"
    )
