"""The labels of a learner: as they are given, as targets, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from filtune.optimizers.likelihoods import Likelihood, likelihood_of
from filtune.optimizers.likelihoods.tasks import Coding, label_name
from torch import Tensor

from .plain import MOST_SHOWN, check_class, shortened

MOST_CLASSES = 1000
"""Classes of a learner that takes new ones: a stream of numbers in place of labels would grow it without bound."""


class Labels:
    """A translator between labels and targets.

    A label is the class itself, never its position: of the classes ``["neg", "pos"]`` the label is ``"pos"``, of
    ``[0, 1]`` it is 1. Predictions return the class as it was given.

    Args:
        kind: The kind of task.
        classes: The classes known, in the order of their outputs; empty where labels are numbers.
        options: What else it takes to read labels, such as the separator of a list.
        takes_new: Whether a label that is not among them becomes a class.

    Raises:
        ValueError: If two classes have the same name, or new ones cannot be taken.
    """

    def __init__(
        self, kind: str, classes: Sequence[Any] = (), options: Mapping[str, str] | None = None, takes_new: bool = False
    ) -> None:
        self.kind, self.options, self.takes_new = kind, dict(options or {}), takes_new
        self.likelihood: type[Likelihood] = likelihood_of(kind)
        if takes_new and not self.likelihood.is_softmax:
            raise ValueError(f"new_classes: a {kind} task has no classes that could be added; leave new_classes out")
        self.values = [plain_label(value) for value in classes]
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"classes: {next(name for name in names if names.count(name) > 1)!r} is there twice")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(str(label_name(value)) for value in self.values)

    @property
    def coding(self) -> Coding:
        """The encoding of the labels."""
        return Coding(self.names, self.options)

    def is_missing(self, y: Any) -> bool:
        """Return whether a label is missing: None, NaN or blank text."""
        y = plain_label(y)
        return not isinstance(y, list) and label_name(y) is None and y not in (float("inf"), float("-inf"))

    def new_among(self, labels: Sequence[Any]) -> list[Any]:
        """Return the labels that are not among the classes, each once, in their order; none where none are taken.

        Raises:
            ValueError: If one can be no class, differs from a class in blanks alone, or there would be more than
                :data:`MOST_CLASSES`.
        """
        if not self.takes_new:
            return []
        known, spelled = set(self.names), {" ".join(name.split()): name for name in self.names}
        found = {}
        for y in map(plain_label, labels):
            check_class("y", y)
            if label_name(y) is None:
                raise ValueError(f"y: {shortened(y)} is no class")
            name = str(label_name(y))
            alike = spelled.setdefault(" ".join(name.split()), name)
            if name not in known and name != alike:
                raise ValueError(
                    f"y: {shortened(name)} differs from the class {shortened(alike)} in blanks alone; write it so, or "
                    "name both by classes=[...]"
                )
            found[name] = y
        new = [y for name, y in found.items() if name not in known]
        if new and len(known) + len(new) > MOST_CLASSES:
            raise ValueError(
                f"y: {str(new[0])!r} would be class {MOST_CLASSES + 1}; the labels look like numbers, for which the "
                "task is a regression"
            )
        return new

    def encode(self, labels: Sequence[Any]) -> Tensor:
        """Return the targets of labels, (B,) or (B, m).

        Raises:
            ValueError: Naming the first label that is none.
        """
        plain = [plain_label(y) for y in labels]
        if self.likelihood.is_softmax:
            for y in plain:
                check_class("y", y)
        found = self.likelihood.encode(plain, self.coding)
        for place in sorted(found.bad):
            reason, detail = found.bad[place]
            if len(detail) > MOST_SHOWN:
                detail = shortened(plain[place])
            more = "; new_classes='add' takes it as a new one" if self.likelihood.is_softmax and detail else ""
            raise ValueError(f"y: {' '.join(part for part in (detail, reason) if part)}{more}")
        return found.targets

    def given(self, y: Any) -> Any:
        """Return a label as predictions give it: the class as it was given first."""
        return dict(zip(self.names, self.values, strict=True)).get(str(label_name(plain_label(y))), plain_label(y))

    def answers(self, likelihood: Likelihood) -> list[Any]:
        """Return the predictions of a batch: classes, lists of classes, or numbers."""
        answer = likelihood.answer()
        if self.likelihood.is_softmax:
            return [self.values[i] for i in answer.tolist()]
        if self.values:
            return [[self.values[i] for i in row.nonzero().flatten().tolist()] for row in answer]
        return answer.reshape(len(answer), -1).squeeze(1).tolist()

    def by_class(self, values: Tensor) -> list[dict[Any, float]]:
        """Return a dict by class for each row of values, (B, m)."""
        return [dict(zip(self.values, row, strict=False)) for row in values.tolist()]


def plain_label(y: Any) -> Any:
    """Return a label as a plain value: the number in an array or tensor of one element, a list of an iterable."""
    if isinstance(y, Tensor):
        y = y.item() if y.numel() == 1 else y.tolist()
    elif type(y).__module__ == "numpy":
        y = y.item() if y.size == 1 else y.tolist()
    return list(y) if isinstance(y, set | frozenset | tuple) else y


def class_list(classes: Any) -> Any:
    """Return classes as they may be given, such as an array, as a list of plain values; a text or None as it is.

    Raises:
        ValueError: If they have no order, or one of them can be no class.
    """
    if classes is None or isinstance(classes, str):
        return classes
    if (
        isinstance(classes, Mapping | set | frozenset)
        or not isinstance(classes, Iterable)
        or getattr(classes, "ndim", 1) == 0
    ):
        raise ValueError(f"classes: a list is needed, or 'open'; got {shortened(classes)}")
    values = [plain_label(value) for value in classes]
    for value in values:
        check_class("classes", value)
        if label_name(value) is None:
            raise ValueError(f"classes: {shortened(value)} is a missing label, not a class")
    return values


def as_saved(values: Sequence[Any]) -> list[Any]:
    """Return labels as a checkpoint may hold them: numbers and texts, anything else as its name."""
    return [value if isinstance(value, str | int | float | bool) else str(value) for value in values]
