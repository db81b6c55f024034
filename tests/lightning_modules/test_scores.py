"""Scores of probabilities against torchmetrics and scikit-learn, and the prequential metrics that hold them."""

from __future__ import annotations

import pytest
import torch
from filtune.lightning_modules.metrics import Prequential
from filtune.lightning_modules.scores import BINS, ProbabilityScores
from filtune.optimizers import Categorical, Filtune, LoKO
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torchmetrics.classification import MulticlassCalibrationError

from tests.conftest import Task
from tests.optimizers.models import labels, mlp


@given(m=st.integers(2, 7), n=st.integers(1, 60), seed=st.integers(0, 10**6), sharpness=st.floats(0.1, 8))
@settings(max_examples=60)
def test_against_torchmetrics_and_scikit_learn(m: int, n: int, seed: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = (sharpness * torch.randn(n, m, generator=generator, dtype=torch.float64)).softmax(1)
    y = torch.randint(m, (n,), generator=generator)
    scores = ProbabilityScores()
    for part in torch.arange(n).split(7):
        scores.update(p[part], y[part])
    found = {name: float(value) for name, value in scores.compute("").items()}
    own = p.gather(1, y[:, None])[:, 0]
    assert found["nll"] == pytest.approx(-float(own.log().mean()), rel=1e-12)
    if float(own.min()) > 1e-12:  # scikit-learn clips there
        assert found["nll"] == pytest.approx(log_loss(y, p, labels=range(m)), rel=1e-9)
    one_hot = torch.nn.functional.one_hot(y, m)
    assert found["brier"] == pytest.approx(float((p - one_hot).square().sum(1).mean()), rel=1e-9, abs=1e-15)
    if float(p.max()) > 0.999:  # float32 may round it to one, of which torchmetrics makes a bin of its own
        return
    reference = MulticlassCalibrationError(m, n_bins=BINS, norm="l1")
    reference.update(p, y)
    # torchmetrics counts in float32
    assert found["ece"] == pytest.approx(100 * float(reference.compute()), abs=1e-3)


def test_a_class_held_impossible_costs_much_but_not_everything() -> None:
    scores = ProbabilityScores()
    scores.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert 700 < float(scores.compute("")["nll"]) < 709  # -ln of the smallest normal number


@pytest.mark.parametrize("classes", [2, 4])
def test_predictive_scores_are_those_of_the_filters_predictions(classes: int) -> None:
    online, by_hand = Prequential(Task(outputs=classes)), ProbabilityScores()
    model = mlp(classes)
    optimizer = Filtune(model.parameters())
    for x, y in labels(20, 2, classes):
        observation = optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        p = optimizer.predictive()
        online.update(observation, p)
        by_hand.update(p, y)
    figures = online.compute()
    assert {"online/nll", "online/brier", "online/ece"} < set(figures)
    for name, value in by_hand.compute("online/predictive_").items():
        assert torch.equal(figures[name], value)


def test_no_predictive_scores_without_uncertainty() -> None:
    online, model = Prequential(Task(outputs=3)), mlp(3)
    optimizer = LoKO(model.parameters())
    x, y = labels(1, 2, 3)[0]
    online.update(optimizer.step(lambda: Categorical(model(x)).observe(y)), optimizer.predictive())
    assert not any("predictive" in name for name in online.compute())
