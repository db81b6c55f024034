"""Predictions for requests, on the parameters after the last completed step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..core import LearnerCore
from ..model import Snapshot
from .batching import Result, alike
from .samples import longest, read_sample
from .tickets import Answer

MOST_SHAPES = 1000
"""Shapes of images that are known to be taken by the model."""


class ServicePredictor:
    """A predictor for requests, which any number of threads may use.

    Args:
        learner: The learner.
    """

    def __init__(self, learner: LearnerCore) -> None:
        self.learner = learner
        self._shapes: set[Any] = set()

    def predict_together(self, requests: Sequence[Sequence[Any]]) -> list[Result]:
        """Return the predictions for the samples of several requests, or the error of a request.

        All are of the parameters of one moment. Requests of about the same length share a forward pass, in which the
        last bits of an answer may be others than alone.
        """
        snapshot = self.learner.newest()
        found: list[Any] = [self._read(xs) for xs in requests]
        rest = [place for place, each in enumerate(found) if isinstance(each, list)]
        for group in alike([longest(found[place]) for place in rest]):
            places = [rest[each] for each in group]
            results = self._answer([found[place] for place in places], snapshot)
            for place, result in zip(places, results, strict=True):
                found[place] = result
        return found

    def _read(self, xs: Sequence[Any]) -> list[Any] | ValueError:
        try:
            return [read_sample(self.learner, x) for x in xs]
        except ValueError as error:
            return error

    def _answer(self, requests: Sequence[list[Any]], snapshot: Snapshot) -> list[Result]:
        """Return the answers to requests in one forward pass; where it fails, in one for each of them."""
        try:
            answers = iter(self._answers([sample for samples in requests for sample in samples], snapshot))
            return [[next(answers) for _ in samples] for samples in requests]
        except ValueError as error:
            if len(requests) == 1:
                return [error]
            return [self._answer([samples], snapshot)[0] for samples in requests]

    def _answers(self, samples: list[Any], snapshot: Snapshot) -> list[Answer]:
        learner = self.learner
        if learner.has_no_choice(snapshot):
            only = snapshot.classes[0] if snapshot.classes else None
            return [Answer(only, {str(value): 1.0 for value in snapshot.classes})] * len(samples)
        names = [str(value) for value in snapshot.classes]
        found = []
        for part in self._outputs(samples, snapshot):
            rows = part.mean().tolist() if learner.labels.likelihood.has_classes else [None] * len(part.outputs)
            probabilities = [None if row is None else dict(zip(names, row, strict=False)) for row in rows]
            found += list(map(Answer, learner.labels.answers(part), probabilities))
        return found

    def _outputs(self, samples: list[Any], snapshot: Snapshot) -> list[Any]:
        try:
            return self.learner.predicted(samples, snapshot) if samples else []
        except Exception as error:  # of whatever kind, such as a size that the layers cannot take
            raise ValueError(f"x: the model cannot take it: {' '.join(str(error).split())[:200]}") from error

    def check(self, x: Any, is_learned: bool) -> None:
        """Check that a sample can be read, and be learned; of a shape that is new, by a prediction.

        Raises:
            ValueError: If not.
        """
        sample = read_sample(self.learner, x)
        shape = (sample.dtype, *sample.shape) if isinstance(sample, Tensor) else type(sample)
        if not is_learned or self.learner.inputs.modality == "text" or shape in self._shapes:
            return
        self._answers([sample], self.learner.newest())  # whether the model can take it, only the model can say
        if len(self._shapes) < MOST_SHAPES:
            self._shapes.add(shape)
