"""Encoding of a column of labels as targets.

This is the only file of ``datamodules`` that looks up a likelihood (:func:`likelihood_of`, the registry alone): the
likelihood defines the meaning of labels, so that a new one is a single file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset
from filtune.optimizers.likelihoods import Likelihood, likelihood_of
from filtune.optimizers.likelihoods.tasks import Coding
from torch import Tensor

from .samples import BadRow, DataError
from .shown import shown, shown_list

_SCALARS = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_null,
)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def likelihood_for(kind: str) -> type[Likelihood]:
    """Return the likelihood of a kind of task.

    Raises:
        DataError: If there is none.
    """
    try:
        return likelihood_of(kind)
    except ValueError as error:
        raise DataError(f"--data.task: {error}") from None


@dataclass(frozen=True)
class LabelCodec:
    """Encoding of the labels of a column as targets.

    Args:
        kind: The kind of task.
        coding: The classes, and what else the likelihood found out about the labels.
        column: The column of labels.
    """

    kind: str
    coding: Coding
    column: str

    @classmethod
    def infer(cls, table: Dataset, column: str, task: str = "auto", classes: Sequence[str] | None = None) -> LabelCodec:
        """Infer the kind of task and the classes, where they are not given.

        Float labels are values; declared classes keep their names; strings, booleans and integers are classes, sorted.

        Raises:
            DataError: If the column has no labels, or contradicts what is given.
        """
        labels = _plain(table.data.column(column))
        kind = task
        if task == "auto":
            kind = "regression" if pa.types.is_floating(labels.type) and not classes else "classification"
        likelihood = likelihood_for(kind)
        _check_type(table, column, labels.type, likelihood)
        if not likelihood.has_classes:
            if classes:
                raise DataError(f"--data.classes: a {kind} task has none; leave them out, or set another --data.task")
            return cls(kind, likelihood.infer([]), column)
        names = list(classes) if classes is not None else declared_classes(table, column) or None
        values = [] if names is not None and not likelihood.takes_lists else _distinct(labels)[0]
        try:
            return cls(kind, likelihood.infer(values, names), column)
        except ValueError as error:
            if classes is not None:
                raise DataError(f"--data.classes: {error}; got {shown_list(names or []) or 'none'}") from None
            found = names if names is not None else [str(value) for value in values if value not in (None, "")]
            raise DataError(
                f"--data.label_column: {error}, column {column!r} has {shown_list(found) or 'none'}; choose "
                "another column, or set --data.task or --data.classes"
            ) from None

    @property
    def outputs(self) -> int:
        """Number of model outputs m."""
        return likelihood_for(self.kind).count_outputs(self.coding)

    def encode(self, table: Dataset) -> tuple[Tensor, list[BadRow]]:
        """Return the targets of all rows, (rows,) or (rows, m), and the rows that have none."""
        likelihood = likelihood_for(self.kind)
        values, codes = _distinct(_plain(table.data.column(self.column)))
        names = declared_classes(table, self.column) if likelihood.has_classes else []
        encoded = likelihood.encode([_named(value, names) for value in values], self.coding)
        bad = np.zeros(len(values), dtype=bool)
        bad[list(encoded.bad)] = True
        bad_rows = []
        for row in np.flatnonzero(bad[codes]).tolist():
            reason, detail = encoded.bad[int(codes[row])]
            bad_rows.append(BadRow(row, self.column, reason, shown(detail)))
        return encoded.targets[torch.from_numpy(codes)], bad_rows

    def scales_targets(self, targets: Tensor, choice: str) -> bool:
        """Return whether targets, (N,), are learned in running units.

        Args:
            targets: Those of all rows of the split, so that the length of the stream does not decide.
            choice: ``running``, ``none``, or ``auto`` to ask the likelihood.
        """
        if choice != "auto":
            return choice == "running"
        good = targets[targets.isfinite()] if targets.is_floating_point() and targets.dim() == 1 else targets
        return likelihood_for(self.kind).needs_scaling(good)

    def choose_metrics(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        """Return the validation metrics asked for, else those that the likelihood takes.

        Raises:
            DataError: If a metric does not exist for this kind of task.
        """
        likelihood = likelihood_for(self.kind)
        known = likelihood.metrics(self.outputs)
        unknown = [metric for metric in asked or () if metric not in known]
        if unknown:
            raise DataError(f"--data.metrics: a {self.kind} task has no {unknown[0]!r}; choose from {', '.join(known)}")
        return tuple(asked or likelihood.validation_metrics)


def class_name(value: Any) -> str:
    """Return the name of a class as it was given; a whole number, as YAML reads 1, is the text of it.

    Raises:
        DataError: If it is anything else, whose text YAML has changed.
    """
    if isinstance(value, str) or type(value) is int:
        return str(value)
    raise DataError(
        f"--data.classes: {shown(repr(value))} is no text but a {type(value).__name__}; write it in quotes, as in "
        """'["true", "1.0"]'"""
    )


def refuse_similar(classes: Sequence[str], column: str, title: str) -> None:
    """Refuse classes that differ in case, in blanks around them, or in the way their accents are encoded alone.

    Raises:
        DataError: Naming the first two.
    """
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(normalize("NFKC", name).casefold().strip(), name)
        if other != name:
            raise DataError(
                f"--data.label_column: {title}: column {column!r} has the classes {shown(repr(other))} and "
                f"{shown(repr(name))}, which differ in case, blanks or encoding alone; make them one in the data, or "
                "name all classes with --data.classes to keep both"
            )


def _check_type(table: Dataset, column: str, kind: pa.DataType, likelihood: type[Likelihood]) -> None:
    if any(is_known(kind) for is_known in _SCALARS):
        return
    if any(is_known(kind) for is_known in _LISTS) and any(is_known(kind.value_type) for is_known in _SCALARS):
        if likelihood.takes_lists:
            return
        remedy = "set --data.task multilabel where a row has several labels, or choose another column"
    else:
        remedy = "choose another column, or correct the data"
    raise DataError(
        f"--data.label_column: column {column!r} holds neither numbers nor strings alone but "
        f"{table.features[column]}; {remedy}"
    )


def _plain(labels: pa.ChunkedArray) -> pa.Array:
    """Return labels in one piece, decimals as floats and views as strings."""
    array = labels.combine_chunks()
    if pa.types.is_decimal(array.type):
        return array.cast(pa.float64())
    return array.cast(pa.string()) if pa.types.is_string_view(array.type) else array


def _distinct(labels: pa.Array) -> tuple[list[Any], np.ndarray]:
    """Return the distinct labels as Python values, and the place of every row's among them, (rows,)."""
    if any(is_list(labels.type) for is_list in _LISTS):
        places: dict[Any, int] = {}
        rows = [None if value is None else tuple(value) for value in labels.to_pylist()]
        codes = [places.setdefault(value, len(places)) for value in rows]
        return list(places), np.array(codes, dtype=np.int64)
    if pa.types.is_null(labels.type):
        return [None], np.zeros(len(labels), dtype=np.int64)
    encoded = labels.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    return [*values, None], encoded.indices.fill_null(len(values)).to_numpy().astype(np.int64)


def declared_classes(table: Dataset, column: str) -> list[str]:
    """Return the names of classes that the data declares, also those of the entries of lists."""
    feature = table.features[column]
    inner = feature if isinstance(feature, ClassLabel) else getattr(feature, "feature", None)
    return list(inner.names) if isinstance(inner, ClassLabel) else []


def _named(value: Any, names: Sequence[str]) -> Any:
    """Return a label with the numbers of declared classes replaced by their names; -1 stands for none."""
    if not names or value is None or isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return tuple(_named(each, names) for each in value)
    return None if value == -1 else names[value] if 0 <= value < len(names) else f"number {value}"
