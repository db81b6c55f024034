"""CapyMOA's prequential evaluation of a learner."""

from __future__ import annotations

from functools import partial

import pytest

pytest.importorskip("capymoa", reason="CapyMOA is not installed (pip install 'filtune[capymoa]'; it needs Java)")

from capymoa.evaluation import prequential_evaluation
from capymoa.stream.generator import SEA
from filtune.live.adapters.capymoa import CapyMOAClassifier
from filtune.optimizers import AdamW


def test_prequential_evaluation() -> None:
    stream = SEA(function=1)
    model = CapyMOAClassifier(stream.get_schema(), optimizer=partial(AdamW, lr=0.01))
    found = prequential_evaluation(stream, model, max_instances=400)
    assert found.cumulative.accuracy() > 70
    assert found.cumulative.accuracy() == pytest.approx(model.learner.metrics["online_accuracy"], rel=1e-6)
    assert model.learner.steps == 400
