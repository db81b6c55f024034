"""Texts, or pairs of texts, with labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .samples import BadRow, DataError, SplitRef
from .table import TableDataModule


class TextDataModule(TableDataModule):
    """A stream of texts, or of pairs of texts.

    Args:
        source: A hub id such as ``nyu-mll/glue``; a local folder in the hub's layout; or a file, .csv, .tsv, .json,
            .jsonl, .ndjson or .parquet.
        text_columns: Name of the text column, or names of the two columns of a pair.
        **kwargs: The arguments of every table.

    Raises:
        DataError: If an argument is out of range.
    """

    modality: ClassVar = "text"

    def __init__(self, source: str, text_columns: list[str], **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        if len(text_columns) not in (1, 2):
            raise DataError(f"--data.text_columns: one or two columns are needed, there are {len(text_columns)}")
        self.text_columns = text_columns

    @property
    def inputs(self) -> list[str]:
        """Columns of the texts."""
        return self.text_columns

    def reader(self, table: Dataset, place: SplitRef) -> TextReader:
        """Return the reader of the texts."""
        return TextReader(table, self.text_columns)

    def find_bad_rows(self, table: Dataset) -> list[BadRow]:
        """Return the rows without text, and those that repeat the header.

        Raises:
            DataError: If a column holds no text at all.
        """
        bad_rows = super().find_bad_rows(table)
        for column in self.text_columns:
            texts = table.data.column(column)
            if pa.types.is_null(texts.type) or pa.types.is_string_view(texts.type):
                texts = texts.cast(pa.string())
            if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
                raise DataError(f"--data.text_columns: column {column!r} holds {texts.type}, not text")
            lengths = pc.utf8_length(pc.utf8_trim_whitespace(texts)).fill_null(-1).to_numpy()
            bad_rows += [
                BadRow(row, column, "missing text" if lengths[row] < 0 else "empty text")
                for row in np.flatnonzero(lengths <= 0).tolist()
            ]
        return bad_rows


class TextReader:
    """A reader of texts, or pairs of texts, out of columns.

    Args:
        table: The split.
        columns: The column of the text, or the two columns of a pair.
    """

    def __init__(self, table: Dataset, columns: list[str]) -> None:
        self.table, self.columns = table.select_columns(columns), columns

    def __call__(self, row: int) -> str | tuple[str, str]:
        """Return the text, or the pair of texts, of a row."""
        return self._join(self.table[row])

    def contents(self, rows: np.ndarray) -> Iterator[str | tuple[str, str]]:
        """Yield the texts of some rows."""
        found = self.table[rows]
        return (self._join(dict(zip(found, values, strict=True))) for values in zip(*found.values(), strict=True))

    def _join(self, texts: dict[str, str]) -> str | tuple[str, str]:
        first = texts[self.columns[0]]
        return first if len(self.columns) == 1 else (first, texts[self.columns[1]])
