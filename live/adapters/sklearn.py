"""scikit-learn's interface: ``fit``, ``partial_fit``, ``predict``, ``predict_proba``, in its pipelines and searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Self

from ..learner import OnlineLearner
from . import library
from .build import build_learner, takes_numbers

if TYPE_CHECKING:
    from sklearn import base
    from sklearn.utils import multiclass, validation
else:
    base = library("sklearn.base", "sklearn")
    multiclass, validation = (
        library("sklearn.utils.multiclass", "sklearn"),
        library("sklearn.utils.validation", "sklearn"),
    )
    if not hasattr(validation, "validate_data"):
        raise ImportError("scikit-learn 1.6 or newer is needed: pip install 'filtune[sklearn]'")


class _SklearnModel(base.BaseEstimator):
    """Base of classifier and regressor."""

    kind = "classification"

    def __init__(
        self,
        backbone: Any = None,
        optimizer: Any = None,
        epochs: int = 1,
        batch_size: int = 1,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.backbone, self.optimizer, self.epochs = backbone, optimizer, epochs
        self.batch_size, self.seed, self.options = batch_size, seed, options

    def _samples(self, X: Any, reset: bool) -> Sequence[Any]:
        """Return checked numbers (N, F), or texts and images as they are."""
        if not takes_numbers(self.backbone, self.options):
            return list(X)
        return validation.validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")

    def _targets(self, X: Any, y: Any, reset: bool) -> tuple[Sequence[Any], np.ndarray]:
        """Return checked samples and their labels."""
        if not takes_numbers(self.backbone, self.options):
            return list(X), np.asarray(y)
        options: dict[str, Any] = {"reset": reset, "dtype": "numeric", "ensure_all_finite": "allow-nan"}
        return validation.validate_data(self, X, y, y_numeric=self.kind == "regression", **options)

    def _learn(self, samples: Sequence[Any], labels: list[Any]) -> Self:
        for start in range(0, len(labels), self.batch_size):
            part = slice(start, start + self.batch_size)
            self.learner_.learn_many(samples[part], labels[part])
        return self

    def _build(self, first: Any, classes: Sequence[Any] | str = ()) -> OnlineLearner:
        return build_learner(self.kind, first, self.backbone, self.optimizer, classes, self.seed, options=self.options)

    def _predictions(self, X: Any) -> list[Any]:
        validation.check_is_fitted(self, "learner_")
        return self.learner_.predict_many(self._samples(X, reset=False))

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: a missing value is allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class SklearnClassifier(base.ClassifierMixin, _SklearnModel):
    """A classifier of scikit-learn: a backbone that is fine-tuned sample by sample.

    ``X`` is an array or frame of numbers (N, F), NaN where a value is missing; for another backbone a list of texts, of
    pairs of texts or of images.

    Args:
        backbone: Its name or options; by default a small network on numbers, ``mlp``.
        optimizer: A class, a ``functools.partial`` of one, or a name; by default Filtune.
        epochs: How often ``fit`` goes through the samples, in their order.
        batch_size: Samples of one step.
        seed: Seed of random weights and of each step.
        options: Further arguments of :class:`OnlineLearner`.

    Attributes:
        classes_: The classes, sorted; the columns of ``predict_proba``.
        learner_: The learner.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from all samples in their order, with a model built anew."""
        samples, y = self._targets(X, y, reset=True)
        multiclass.check_classification_targets(y)
        classes = np.unique(y)
        self.learner_ = self._build(samples[0], classes.tolist() if len(classes) > 1 else "open")
        for _ in range(self.epochs):
            self._learn_classes(samples, y)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Learn from further samples.

        Args:
            X: The samples.
            y: Their classes.
            classes: All classes, at the first call; without them, labels become classes as they come.
        """
        is_first = not hasattr(self, "learner_")
        samples, y = self._targets(X, y, reset=is_first)
        multiclass.check_classification_targets(y)
        if is_first:
            known = [] if classes is None else np.unique(classes).tolist()
            self.learner_ = self._build(samples[0], known if len(known) > 1 else "open")
        return self._learn_classes(samples, y)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each sample, (N,)."""
        return np.asarray(self._predictions(X), dtype=getattr(self, "classes_", np.empty(0)).dtype)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, (N, m), in the order of ``classes_``."""
        validation.check_is_fitted(self, "learner_")
        found = self.learner_.predict_proba_many(self._samples(X, reset=False))
        rows = np.array([[row[name] for name in self.classes_.tolist()] for row in found])
        return rows / rows.sum(1, keepdims=True)

    def _learn_classes(self, samples: Sequence[Any], y: np.ndarray) -> Self:
        self._learn(samples, y.tolist())
        self.classes_ = np.unique(np.asarray(self.learner_.classes))
        return self


class SklearnRegressor(base.RegressorMixin, _SklearnModel):
    """A regressor of scikit-learn: a backbone that is fine-tuned sample by sample.

    Targets are learned in running units. ``X`` is an array or frame of numbers (N, F), NaN where a value is missing;
    for another backbone a list of texts, of pairs of texts or of images.

    Args:
        backbone: Its name or options; by default a small network on numbers, ``mlp``.
        optimizer: A class, a ``functools.partial`` of one, or a name; by default Filtune.
        epochs: How often ``fit`` goes through the samples, in their order.
        batch_size: Samples of one step.
        seed: Seed of random weights and of each step.
        options: Further arguments of :class:`OnlineLearner`.

    Attributes:
        learner_: The learner.
    """

    kind = "regression"

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from all samples in their order, with a model built anew."""
        samples, y = self._targets(X, y, reset=True)
        self.learner_ = self._build(samples[0])
        for _ in range(self.epochs):
            self._learn(samples, y.tolist())
        return self

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Learn from further samples."""
        is_first = not hasattr(self, "learner_")
        samples, y = self._targets(X, y, reset=is_first)
        if is_first:
            self.learner_ = self._build(samples[0])
        return self._learn(samples, y.tolist())

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers, (N,)."""
        return np.asarray(self._predictions(X), dtype=float)
