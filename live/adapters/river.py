"""A River classifier and regressor: ``river.evaluate``, pipelines, drift detectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from filtune.optimizers import AdamW

from ..learner import OnlineLearner
from . import library
from .build import build_learner

if TYPE_CHECKING:
    import pandas as pd
    from river import base
else:
    base = library("river.base", "river")

FAST = partial(AdamW, lr=1e-2)
"""Optimizer of River's own checks, which take hundreds of steps each."""


class _RiverModel(base.Estimator):
    """Base of classifier and regressor: the learner, built at the first sample."""

    kind = "classification"

    def _start(self, x: Any) -> OnlineLearner:
        """Return the learner; the first sample says how many features there are."""
        if self.learner is None:
            self.learner = build_learner(
                self.kind, x, self.backbone, self.optimizer, getattr(self, "classes", ()), self.seed, self.config,
                self.options,
            )  # fmt: skip
        return self.learner

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"optimizer": FAST}

    def _unit_test_skips(self) -> set[str]:
        """Return the two checks of River's that do not apply.

        A mini-batch is one step of the optimizer, as in ``fit`` and in River's own models that descend a gradient, and
        not one step for each of its rows. And pickles of torch's tensors name their storages by address, so that two of
        the same model are not the same bytes; that a sample which is changed later changes nothing, is a test of ours.
        """
        return {"check_learn_many_matches_learn_one", "check_no_state_aliasing_with_input"}


class RiverClassifier(_RiverModel, base.MiniBatchClassifier):
    """A classifier of River: a backbone that is fine-tuned sample by sample.

    ``x`` is a dict of features. For a backbone of texts or images it is a dict with the column ``columns=["text"]``, or
    the text or image itself. Classes may come as the stream goes on.

    Args:
        backbone: Its name or options; by default a small network on numbers, ``mlp``.
        optimizer: A class, a ``functools.partial`` of one, or a name; by default Filtune.
        classes: The classes in their order, as a tuple; or ``open`` for those of the labels that come.
        config: A configuration of ``fit`` in place of backbone, optimizer and seed.
        drift_detector: A detector of River, such as ``drift.ADWIN()``. Before each sample is learned from it gets 1 if
            the prediction for it is wrong, and else 0.
        on_drift: What a detected drift does: ``record`` counts it; ``restart`` also builds the learner anew, from its
            first weights, with the classes known so far. The statistics of the features are kept.
        seed: Seed of random weights and of each step.
        **options: Further arguments of :class:`OnlineLearner`, or of its ``from_config``.

    Attributes:
        learner: The learner; None before the first sample.
        drifts: How many drifts the detector has detected.
        last_drift: How many samples there had been at the last one; None for none.

    Raises:
        ValueError: If ``on_drift`` is unknown, or ``restart`` has no detector.
    """

    def __init__(
        self,
        backbone: Any = None,
        optimizer: Any = None,
        classes: Sequence[Any] | str = "open",
        config: Any = None,
        drift_detector: Any = None,
        on_drift: Literal["record", "restart"] = "record",
        seed: int = 0,
        **options: Any,
    ) -> None:
        if on_drift not in ("record", "restart"):
            raise ValueError(f"on_drift: must be 'record' or 'restart', got {on_drift!r}")
        if on_drift == "restart" and drift_detector is None:
            raise ValueError("on_drift: 'restart' needs a drift_detector, such as river.drift.ADWIN()")
        self.backbone, self.optimizer, self.classes, self.config = backbone, optimizer, classes, config
        self.drift_detector, self.on_drift, self.seed, self.options = drift_detector, on_drift, seed, options
        self.learner: OnlineLearner | None = None
        self.drifts, self.samples, self.last_drift = 0, 0, None

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: Any, y: Any) -> None:
        """Learn from a sample; one without a label (None) is counted and left."""
        learner = self._start(x)
        if self.drift_detector is not None and not learner.labels.is_missing(y):
            learner = self._watch(learner, x, y)
        learner.learn_one(x, y)
        self.samples += 1

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learn from the rows of a frame in one step; drift detectors see them one by one."""
        rows, labels = _rows(X), y.tolist()
        if not rows:
            return
        learner = self._start(rows[0])
        if self.drift_detector is not None:
            for row, label in zip(rows, labels, strict=True):
                learner = self._watch(learner, row, label)
        learner.learn_many(rows, labels)
        self.samples += len(rows)

    def predict_one(self, x: Any, **_: Any) -> Any:
        """Return the most probable class; None before there is one."""
        return self._start(x).predict_one(x)

    def predict_proba_one(self, x: Any, **_: Any) -> dict[Any, float]:
        """Return the probability of each class known; of none before the first label, unless they were named."""
        return _normalized(self._start(x).predict_proba_one(x))

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return the probabilities of the classes for the rows of a frame, one column for each class."""
        frame = library("pandas", "river").DataFrame
        rows = _rows(X)
        if not rows:
            return frame(index=X.index)
        learner = self._start(rows[0])
        found = [_normalized(row) for row in learner.predict_proba_many(rows)]
        return frame(found, index=X.index, columns=learner.classes)

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Return the most probable class for the rows of a frame."""
        rows = _rows(X)
        found = self._start(rows[0]).predict_many(rows) if rows else []
        return library("pandas", "river").Series(found, index=X.index, dtype=None if found else object)

    def _watch(self, learner: OnlineLearner, x: Any, y: Any) -> OnlineLearner:
        """Show the error of the prediction to the drift detector, and do what a drift does."""
        self.drift_detector.update(int(learner.predict_one(x) != learner.labels.given(y)))
        if not self.drift_detector.drift_detected:
            return learner
        self.drifts, self.last_drift = self.drifts + 1, self.samples
        if self.on_drift == "record":
            return learner
        classes, features = learner.classes, learner.inputs.features
        self.learner = None
        fresh = self._start(x)
        if learner.labels.takes_new:
            with fresh.lock:
                fresh.add_classes([y for y in classes if y not in fresh.classes])
        if features.size == fresh.inputs.features.size:
            fresh.inputs.features = features
        return fresh


class RiverRegressor(_RiverModel, base.MiniBatchRegressor):
    """A regressor of River: a backbone that is fine-tuned sample by sample, on targets in running units.

    Args:
        backbone: Its name or options; by default a small network on numbers, ``mlp``.
        optimizer: A class, a ``functools.partial`` of one, or a name; by default Filtune.
        config: A configuration of ``fit`` in place of backbone, optimizer and seed.
        seed: Seed of random weights and of each step.
        **options: Further arguments of :class:`OnlineLearner`, or of its ``from_config``.

    Attributes:
        learner: The learner; None before the first sample that was learned from.
    """

    kind = "regression"

    def __init__(
        self, backbone: Any = None, optimizer: Any = None, config: Any = None, seed: int = 0, **options: Any
    ) -> None:
        self.backbone, self.optimizer, self.config, self.seed, self.options = backbone, optimizer, config, seed, options
        self.learner: OnlineLearner | None = None

    def learn_one(self, x: Any, y: Any) -> None:
        """Learn from a sample; one without a target (None, NaN) is counted and left."""
        self._start(x).learn_one(x, y)

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learn from the rows of a frame in one step."""
        if len(X):
            rows = _rows(X)
            self._start(rows[0]).learn_many(rows, y.tolist())

    def predict_one(self, x: Any) -> float:
        """Return the predicted number; 0 before the first target."""
        return 0.0 if self.learner is None else float(self.learner.predict_one(x))

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Return the predicted numbers for the rows of a frame."""
        found = [0.0] * len(X) if self.learner is None else self.learner.predict_many(_rows(X))
        return library("pandas", "river").Series(found, index=X.index, dtype=float)


def _rows(X: pd.DataFrame) -> list[dict[Any, Any]]:
    return X.to_dict("records")


def _normalized(probabilities: dict[Any, float]) -> dict[Any, float]:
    """Return probabilities whose sum is 1 to double precision, where those of float32 are 1 to 1e-7."""
    total = sum(probabilities.values())
    return {name: value / total for name, value in probabilities.items()}
