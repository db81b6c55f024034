"""Tables from the hub, a folder laid out like the hub's, a folder of images, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from pyarrow import csv

from .samples import DataError

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def load_splits(source: str, name: str | None, texts: Sequence[str] = ()) -> dict[str, Dataset]:
    """Return all splits of a source; a file has the one split ``train``.

    Args:
        source: Hub id, folder or file.
        name: Configuration of a hub data set.
        texts: Columns of a CSV file to read as text, whatever they look like.

    Raises:
        DataError: If there is no such source or configuration, or it cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if name is not None:
            raise DataError(f"--data.name: {source} is a file and has no configuration {name!r}; leave the name out")
        return {"train": _read_file(path, texts)}
    if path.is_dir():
        return _read_folder(str(path), source, name)
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or path.suffix in {**_BUILDERS, **_DELIMITERS}:
        kind = "file" if path.suffix in {**_BUILDERS, **_DELIMITERS} else "folder"
        raise DataError(f"--data.source: dataset {kind} not found: {source}")
    _look_up(source)
    return _read_folder(source, source, name)


def _read_folder(location: str, source: str, name: str | None) -> dict[str, Dataset]:
    try:
        with _quiet(Path(location).is_dir()):
            return dict(datasets.load_dataset(location, name))
    except Exception as error:  # each builder raises errors of its own
        _explain_name(location, source, name)
        raise _unreadable(source, error) from error


def _read_file(path: Path, texts: Sequence[str]) -> Dataset:
    try:
        if path.suffix in _DELIMITERS:
            return Dataset(_read_csv(path, texts))
        if path.suffix in _BUILDERS:
            with _quiet(True):
                return datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train")
    except Exception as error:  # each builder raises errors of its own
        raise _unreadable(str(path), error) from error
    known = ", ".join([*_DELIMITERS, *_BUILDERS])
    raise DataError(f"--data.source: {path} is of an unknown type; a file must end in one of {known}")


def _read_csv(path: Path, texts: Sequence[str]) -> pa.Table:
    # not the builder of datasets: it turns integers into floats where one is missing, and the text "NA" into nothing
    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(delimiter=_DELIMITERS[path.suffix], newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string())),
    )


def _look_up(source: str) -> None:
    """Check that the hub can be reached, which ``load_dataset`` would try for half a minute."""
    cached = Path(datasets.config.HF_DATASETS_CACHE) / source.replace("/", "___")
    try:
        HfApi().dataset_info(source, timeout=10)
    except RepositoryNotFoundError as error:
        raise DataError(f"--data.source: the hub has no data set {source!r}, or it is not public") from error
    except Exception as error:  # of the HTTP library, whichever it is
        if not cached.is_dir():
            raise DataError(
                f"--data.source: the hub could not be reached for {source!r}; name a local folder laid out like the "
                "hub's instead, as in --data.source path/to/folder"
            ) from error


def _explain_name(location: str, source: str, name: str | None) -> None:
    try:
        names = datasets.get_dataset_config_names(location)
    except Exception:  # the first error says more
        return
    if (name is None and len(names) > 1) or (name is not None and name not in names):
        wrong = "needs a configuration" if name is None else f"has no configuration {name!r}"
        raise DataError(f"--data.name: {source} {wrong}; choose of {', '.join(names)}")


def _unreadable(source: str, error: Exception) -> DataError:
    cause = str(error.__cause__ or error) or type(error).__name__
    return DataError(f"--data.source: {source} cannot be read: {cause[:300]}")


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
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
