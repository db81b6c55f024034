"""A CapyMOA classifier: its prequential evaluation runs a learner next to CapyMOA's own, for which it needs Java."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import library
from .build import build_learner

if TYPE_CHECKING:
    from capymoa import base
else:
    base = library("capymoa.base", "capymoa")


class CapyMOAClassifier(base.Classifier):
    """A classifier of CapyMOA: a small network on the attributes, which is fine-tuned sample by sample.

    Attributes are read as numbers by position; that of a nominal one is the index of its value.

    Args:
        schema: The schema of the stream, with its classes.
        random_seed: Seed of random weights and of each step.
        optimizer: A class, a ``functools.partial`` of one, or a name; by default Filtune.
        backbone: Its options; by default a small network on numbers, ``mlp``.
        **options: Further arguments of :class:`OnlineLearner`.

    Attributes:
        learner: The learner.
    """

    def __init__(
        self, schema: Any, random_seed: int = 1, optimizer: Any = None, backbone: Any = None, **options: Any
    ) -> None:
        super().__init__(schema, random_seed)
        first = [0.0] * schema.get_num_attributes()
        classes = list(range(schema.get_num_classes()))
        self.learner = build_learner(
            "classification", first, backbone, optimizer, classes, random_seed, options=options
        )

    def train(self, instance: Any) -> None:
        """Learn from an instance; one without a label (-1) is left."""
        if instance.y_index >= 0:
            self.learner.learn_one(instance.x, instance.y_index)

    def predict_proba(self, instance: Any) -> np.ndarray:
        """Return the probabilities of the classes, (m,), in the order of the schema."""
        return np.array([*self.learner.predict_proba_one(instance.x).values()])
