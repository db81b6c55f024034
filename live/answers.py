"""Predictions for the samples of a stream, and learning from them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from filtune.optimizers.kalman.filter import KalmanOptimizer

from .learner import OnlineLearner
from .notices import print_line
from .plain import check_id
from .sources import RawSample, TextFields
from .unique_ids import UniqueIds
from .watching.comparison import Comparison

DROPPED = "early labels dropped"
"""Count of labels that came before their samples, and were dropped for newer ones beyond ``--unique_ids``."""


class Answers:
    """A learner that answers the samples of a stream, and learns from them.

    Args:
        learner: The learner.
        label_column: Column of the label.
        id_column: Column of the id.
        comparison: Other learners that see the same samples.
        uncertainty: Whether an answer has what the filter knows of its uncertainty; it costs about a step.
        unique_ids: Most ids to remember where each names one sample, so that repetitions are not learned from and a
            label may come before its sample; 0 where an id may come again, None for the number of the state.

    Raises:
        ValueError: If the optimizer has no covariance of which an uncertainty could be computed.
    """

    def __init__(
        self,
        learner: OnlineLearner,
        label_column: str,
        id_column: str,
        comparison: Comparison | None = None,
        uncertainty: bool = False,
        unique_ids: int | None = None,
    ) -> None:
        self.learner, self.label_column, self.id_column = learner, label_column, id_column
        self.comparison = Comparison(learner) if comparison is None else comparison
        self.uncertainty, self.ids = uncertainty, UniqueIds(unique_ids)
        if uncertainty and not isinstance(learner.optimizer, KalmanOptimizer):
            raise ValueError(
                f"--uncertainty: {type(learner.optimizer).__name__} has no covariance of the parameters; leave it out "
                "(the entropy is there without it), or take a filter, such as filtune"
            )
        self.inputs = learner.inputs
        if not self.inputs.columns and self.inputs.modality != "table":
            self.inputs.columns = [self.inputs.modality]
        self.counts: Counter[str] = Counter()

    def answer(self, sample: RawSample) -> dict[str, Any]:
        """Return what is answered to a sample; nothing is learned from one that is wrong.

        Raises:
            FloatingPointError: If the optimizer has diverged.
        """
        try:
            answer, change = self._answer(self._row(sample))
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:  # of libraries too; nothing has changed
            return self._bad(error)
        try:
            answer["learned"] = change()
        except ValueError as error:
            return self._bad(error)
        self.counts["learned"] += answer["learned"]
        if answer["learned"] and "id" in answer:
            self.ids.note_learned(answer["id"])
        return answer

    def state(self) -> dict[str, Any]:
        """Return the counts, and the ids where they are unique."""
        return {"counts": dict(self.counts), **({"ids": self.ids.state()} if self.ids.most else {})}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned; says what a smaller number of ids drops."""
        self.counts.update(state["counts"])
        ids, labels = self.ids.load(state.get("ids") or {"learned": [], "early": []})
        self._count_dropped(labels)
        if ids or labels:
            print_line(
                f"--unique_ids {self.ids.most}: the oldest {ids} ids and {labels} early labels of the state are dropped"
            )

    def _bad(self, error: Exception) -> dict[str, Any]:
        self.counts["bad"] += 1
        return {"error": " ".join(str(error).split()) or type(error).__name__}

    def _row(self, sample: RawSample) -> Mapping[str, Any]:
        if sample is None:
            raise ValueError("the line is too long")
        if isinstance(sample, TextFields) and self.inputs.modality == "table":
            kept = (self.label_column, self.id_column)
            return {name: value if name in kept else _number(value) for name, value in sample.items()}
        if isinstance(sample, Mapping):
            return sample
        try:
            row = json.loads(sample)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError("no JSON object with the columns of a sample")
        return row

    def _answer(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[], bool]]:
        """Return the answer, and what the line changes, which returns whether it was learned from."""
        y, id = row.get(self.label_column), row.get(self.id_column)
        if id is not None:
            check_id(id)
        answer: dict[str, Any] = {} if id is None else {"id": id}
        has_label = not self.learner.labels.is_missing(y)
        if has_label:
            self.learner.check_labels([y])
        names = self.inputs.columns or [name for name in row if name not in (self.label_column, self.id_column)]
        is_sample = any(row.get(name) is not None for name in names)
        if not is_sample and (id is None or not has_label):
            sample = repr(names[0]) if names else "a feature"
            raise ValueError(f"the line has neither {sample} nor the label of an earlier id")
        if self.ids.most and id is not None:
            waits = id in self.learner.pending
            if self.ids.is_learned(id) or (waits and is_sample and not has_label):
                return {**answer, "duplicate": True}, self._count_duplicate
            early = self.ids.early_label(id)
            if not is_sample and not waits:
                if early is not None:
                    return {**answer, "duplicate": True}, self._count_duplicate
                return {**answer, "label": y}, partial(self._keep_label, id, y)
            if is_sample and not has_label and early is not None:
                y, has_label = early, True
        if not is_sample:
            return {**answer, "label": y}, partial(self.comparison.apply, lambda each: each.feedback(id, y))
        x = self.inputs.read({name: row.get(name) for name in names})
        prediction = prediction_fields(self.learner, x)
        if self.uncertainty:
            prediction |= describe_uncertainty(self.learner, x, prediction["prediction"])
        others = self.comparison.each(lambda each: prediction_fields(each, x))
        answer |= {**prediction, **({"against": others} if others else {}), **({"label": y} if has_label else {})}
        return answer, partial(self._take, x, y if has_label else None, id, prediction["prediction"])

    def _count_duplicate(self) -> bool:
        self.counts["duplicate"] += 1
        return False

    def _count_dropped(self, labels: int) -> None:
        if labels:
            self.counts[DROPPED] += labels

    def _keep_label(self, id: Any, y: Any) -> bool:
        self._count_dropped(self.ids.keep_label(id, y))
        return False

    def _take(self, x: Any, y: Any, id: Any, prediction: Any) -> bool:
        """Learn from a sample, or let it wait for its label; return whether it was learned from."""
        if y is None and id is not None:
            self.comparison.apply(lambda each: each.wait(x, id, prediction))
        else:
            self.comparison.apply(lambda each: each.learn_one(x, y, id))
        return y is not None


def prediction_fields(learner: OnlineLearner, x: Any) -> dict[str, Any]:
    """Return the prediction, and of classes that are exclusive its probability and the entropy of all in nats.

    All are None where a probability is not finite.
    """
    if not learner.labels.likelihood.is_softmax:
        return {"prediction": learner.predict_one(x)}
    found = learner.predict_proba_one(x)
    if not found:
        return {"prediction": None}
    if not all(map(math.isfinite, found.values())):
        return {"prediction": None, "probability": None, "entropy": None}
    best = max(found, key=lambda name: found[name])
    entropy = -sum(p * math.log(p) for p in found.values() if p > 0)
    return {"prediction": best, "probability": found[best], "entropy": entropy}


def describe_uncertainty(learner: OnlineLearner, x: Any, prediction: Any) -> dict[str, Any]:
    """Return the uncertainty that a filter knows: of exclusive classes that of the one predicted."""
    found = learner.uncertainty(x)
    if not learner.labels.likelihood.has_classes:
        return found
    renamed = {"predictive_probability": found.get("probability"), "logit_std": found.get("logit_std")}
    if learner.labels.likelihood.is_softmax:
        chosen = {k: each.get(prediction) if isinstance(each, dict) else each for k, each in renamed.items()}
        return {name: each for name, each in chosen.items() if each is not None}
    return {name: each for name, each in renamed.items() if each}


def _number(text: str | bytes) -> Any:
    """Return the number in a text; None of a blank one, and the text where there is none."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text
