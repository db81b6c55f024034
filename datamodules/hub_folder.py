"""Folders laid out like the hub's, and the hub itself: which files are of which split, and their tables."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import datasets
from datasets import Dataset, DatasetBuilder, Features

from .cache import check_parquet, content_cache, writable_cache
from .samples import DataError
from .shown import shown_list

_PART = re.compile(r"\d+-of-\d+|\d+")
"""Numbers of the parts of a table."""

_FREE = {"name", "version", "data_dir", "data_files", "description", "sep", "features"}
"""Options of a builder that do not change how a row is read by ours."""


class HubFolder:
    """A configuration of a data set on the hub, or in a folder laid out like the hub's.

    Args:
        location: Hub id or folder.
        name: The configuration; none where there is only one.

    Raises:
        DataError: If there is no such configuration, naming those there are.
    """

    def __init__(self, location: str, name: str | None) -> None:
        self.location, self.name = location, name
        self._builder: DatasetBuilder | None = None
        try:
            if Path(location).is_dir():
                with tempfile.TemporaryDirectory() as unused:  # listing files needs no cache
                    self._builder = datasets.load_dataset_builder(location, name, cache_dir=unused)
        except Exception as error:
            self._explain_name(error)
            raise

    @property
    def features(self) -> Features | None:
        """Types that the folder declares."""
        return None if self._builder is None else self._builder.info.features

    @property
    def kind(self) -> str:
        """The builder that reads the files, such as ``parquet`` or ``imagefolder``."""
        return type(self._builder).__module__.rpartition(".")[2]

    def load(self) -> dict[str, Dataset]:
        """Return the tables of all splits, prepared in the cache."""
        writable_cache()
        if self._builder is None:
            try:
                return dict(datasets.load_dataset(self.location, self.name))
            except Exception as error:
                self._explain_name(error)
                raise
        files = sorted(file for found in self._files().values() for file in found)
        for file in files:
            if file.suffix.lower() == ".parquet":
                check_parquet(file)
        return dict(datasets.load_dataset(self.location, self.name, cache_dir=str(content_cache(files))))

    def text_files(self, endings: Sequence[str], ending: Callable[[Path], str]) -> dict[str, list[Path]] | None:
        """Return the files of every split, where all are text files of plain options that ours can read.

        Args:
            endings: The endings of files that can be read.
            ending: Gives the ending of a file.

        Raises:
            DataError: If some can be read so and others cannot.
        """
        builder = self._builder
        if builder is None or self.kind not in ("csv", "json"):
            return None
        config, plain = builder.config, type(builder.config)()
        options = {option.name for option in dataclasses.fields(config)} - _FREE
        usual = getattr(config, "sep", ",") in (",", "\t")
        if not usual or any(getattr(config, option) != getattr(plain, option) for option in options):
            return None
        files = self._files()
        found = [file for listed in files.values() for file in listed]
        others = [file for file in found if ending(file) not in endings]
        if 0 < len(others) < len(found):
            raise DataError(
                f"--data.source: {self.location} has files of several kinds, such as {others[0]}; name one of them"
            )
        return None if others else files

    def files_left(self, tables: Iterable[Path]) -> tuple[str, ...]:
        """Return a note on the tables of the folder that are of no split; the names of files decide that."""
        if self._builder is None or self._builder.config.name != "default":
            return ()
        read = {file.resolve() for found in self._files().values() for file in found}
        left = [table.name for table in tables if table.resolve() not in read]
        more = " ..." if len(left) > 5 else ""
        said = f"{len(left)} files of no split ({', '.join(left[:5])}{more}): their names decide that"
        return (said,) if left else ()

    def joined_files(self) -> tuple[str, ...]:
        """Return a remark on the files that are read as one table, unless they are the numbered parts of one."""
        said = []
        for split, files in self._files().items():
            stems = {_PART.sub("", file.name) for file in files}
            if len(stems) > 1:
                names = shown_list(sorted(file.name for file in files), 5)
                said.append(f"{len(files)} files read as one split {split!r} ({names})")
        return tuple(said)

    def _files(self) -> dict[str, list[Path]]:
        """Return the files of every split.

        Raises:
            DataError: If a split has none.
        """
        assert self._builder is not None
        named = self._builder.config.data_files or {}
        files = {str(split): [Path(file) for file in found] for split, found in named.items()}
        if not files or not all(files.values()):
            lacking = next((split for split, found in files.items() if not found), "train")
            raise DataError(
                f"--data.source: {self.location} has no files of the split {lacking!r}; correct what its README.md "
                "says of data_files, or name a file"
            )
        return files

    def _explain_name(self, error: Exception) -> None:
        try:
            names = datasets.get_dataset_config_names(self.location)
        except Exception:  # the first error says more
            return
        if (self.name is None and len(names) > 1) or (self.name is not None and self.name not in names):
            wrong = "needs a configuration" if self.name is None else f"has no configuration {self.name!r}"
            raise DataError(f"--data.name: {self.location} {wrong}; choose from {', '.join(names)}") from error
