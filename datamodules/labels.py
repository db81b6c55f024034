"""From a column of labels to classes or values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset
from torch import Tensor

from .errors import DataError, Fault
from .task import Kind

_TYPES = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_null,
)


@dataclass(frozen=True)
class LabelCodec:
    """How labels become targets.

    Args:
        kind: Classification or regression.
        classes: Names of the classes, in the order of their targets; empty for regression.
        column: The column of labels.
    """

    kind: Kind
    classes: tuple[str, ...]
    column: str

    @classmethod
    def infer(
        cls,
        table: Dataset,
        column: str,
        task: Literal["auto", "classification", "regression"] = "auto",
        classes: Sequence[str] | None = None,
    ) -> LabelCodec:
        """Infer the kind of task and the classes, where they are not given.

        Float labels are values; declared classes keep their names; strings, booleans and integers are classes, sorted.

        Raises:
            DataError: If the column has no labels, or contradicts what is given.
        """
        labels = _labels(table, column)
        kind: Kind
        if task != "auto":
            kind = task
        else:
            kind = "regression" if pa.types.is_floating(labels.type) and not classes else "classification"
        if kind == "regression":
            if classes:
                raise DataError(
                    "--data.classes: a regression task has none; leave them out, or set another --data.task"
                )
            return cls(kind, (), column)
        if classes is None:
            classes = _declared(table, column) or _found(labels)
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise DataError(
                f"--data.label_column: a classification needs two different classes at least, column {column!r} has "
                f"{', '.join(classes) or 'none'}; choose another column, or set --data.task or --data.classes"
            )
        return cls(kind, tuple(classes), column)

    def encode(self, table: Dataset) -> tuple[Tensor, list[Fault]]:
        """Targets of all rows, (rows,), int64 or float32, and the rows that have none."""
        labels = _labels(table, self.column)
        if self.kind == "regression":
            return self._values(labels)
        names = _declared(table, self.column)
        encoded = labels.dictionary_encode()
        found = [_name(value, names) for value in encoded.dictionary.to_pylist()]
        found.append(None)
        index: dict[str | None, int] = {name: target for target, name in enumerate(self.classes)}
        lookup = np.array([index.get(name, -1) for name in found], dtype=np.int64)
        codes = encoded.indices.fill_null(len(found) - 1).to_numpy()
        targets = lookup[codes]
        faults = []
        for row in np.flatnonzero(targets < 0).tolist():
            name = found[codes[row]]
            wrong = "missing label" if name is None else f"label not among the classes {_listing(self.classes)}"
            faults.append(Fault(row, self.column, wrong, "" if name is None else repr(name)))
        return torch.from_numpy(targets), faults

    def _values(self, labels: pa.Array) -> tuple[Tensor, list[Fault]]:
        column = labels.to_pandas()
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        with np.errstate(over="ignore"):
            targets = values.astype(np.float32)
        faults = []
        for row in np.flatnonzero(~np.isfinite(targets)).tolist():
            value = labels[row].as_py()
            if _name(value, ()) is None and not (isinstance(value, float) and math.isinf(value)):
                faults.append(Fault(row, self.column, "missing label"))
            else:
                faults.append(Fault(row, self.column, "label is not a finite number", repr(value)))
        return torch.from_numpy(targets), faults


def _labels(table: Dataset, column: str) -> pa.Array:
    labels = table.data.column(column).combine_chunks()
    if not any(is_known(labels.type) for is_known in _TYPES):
        raise DataError(
            f"--data.label_column: column {column!r} holds neither numbers nor strings alone but "
            f"{table.features[column]}; choose another column, or correct the data"
        )
    return labels


def _declared(table: Dataset, column: str) -> tuple[str, ...]:
    feature = table.features[column]
    return tuple(feature.names) if isinstance(feature, ClassLabel) else ()


def _found(labels: pa.Array) -> tuple[str, ...]:
    values = [value for value in labels.unique().to_pylist() if _name(value, ()) is not None]
    return tuple(str(_name(value, ())) for value in sorted(values))


def _name(value: Any, names: Sequence[str]) -> str | None:
    """Name of the class that a raw label means; none where the label is missing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float):
        return (str(int(value)) if value.is_integer() else repr(value)) if math.isfinite(value) else None
    if not names or isinstance(value, str):
        return str(value)
    if value == -1:
        return None
    return names[value] if 0 <= value < len(names) else f"number {value}"


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
