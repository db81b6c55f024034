"""A stream of one label makes the filter certain: a known limit of the method, pinned down here.

Observed as probabilities, residual, Jacobian and noise all decay towards zero while a label repeats, and a later
contradicting label meets a Jacobian that has vanished. This is inherent in the paper's choice of observation.

Observed as logits the outputs settle at their target and the Jacobian stays, so that two classes turn round after
hundreds of repetitions. It is no cure for ever: without process noise R goes on decaying and takes p along.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import pytest
import torch
from filtune.optimizers import Categorical, LoKO

from tests.optimizers.models import drive, mlp


class Outcome(NamedTuple):
    """The first contradiction's move over the first step's, whether 50 contradictions turn the prediction, the
    contradicting class's probability before them, and the smallest variance."""

    moved: float
    turned: bool
    probability: float
    p_min: float


@functools.cache
def one_label_stream(observation: str, m: int, dtype: str, noise: str, repeats: int) -> Outcome:
    """Label 0 over and over at one input, then label 1."""
    floating = torch.float64 if dtype == "float64" else torch.float32
    model = mlp(m).to(floating)
    options = {"observation": observation, "noise": noise, "dtype": dtype}
    optimizer = LoKO(model.parameters(), p0=1.0, p0_init="constant", **options)
    x = torch.ones(1, 5, dtype=floating)
    drive(optimizer, model, Categorical, [(x, torch.tensor([0]))])
    first = float(optimizer.stats["update_norm"])
    drive(optimizer, model, Categorical, [(x, torch.tensor([0]))] * (repeats - 1))
    probability, p_min = float(model(x).detach().softmax(-1)[0, 1]), float(optimizer.stats["variance_min"])
    drive(optimizer, model, Categorical, [(x, torch.tensor([1]))])
    moved = float(optimizer.stats["update_norm"]) / first
    drive(optimizer, model, Categorical, [(x, torch.tensor([1]))] * 49)
    assert int(optimizer.stats["nonfinite_steps"]) == 0
    assert float(optimizer.stats["variance_min"]) > 0
    return Outcome(moved, bool(model(x).argmax() == 1), probability, p_min)


@pytest.mark.parametrize(("m", "noise", "dtype"), [(2, "ema-1", "float32"), (4, "ema-2", "float64")])
def test_known_limit_probabilities_hardly_move(m: int, noise: str, dtype: str) -> None:
    outcome = one_label_stream("probabilities", m, dtype, noise, repeats=600)
    assert outcome.moved < 1e-4
    assert not outcome.turned
    assert outcome.p_min > 0.1  # it is the Jacobian that has vanished, not the variance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_classes_observed_as_logits_turn_round(dtype: str) -> None:
    outcome = one_label_stream("logits", 2, dtype, "ema-2", 300)
    assert outcome.moved > 0.1
    assert outcome.turned


@pytest.mark.parametrize(("m", "settled"), [(2, 1 / (1 + math.exp(2))), (4, 1 / (3 + math.e))])
def test_logits_settle_at_their_target(m: int, settled: float) -> None:
    """softmax of the target: a difference of 2, or the one-hot vector."""
    assert one_label_stream("logits", m, "float64", "ema-2", 300).probability == pytest.approx(settled, rel=1e-2)


@pytest.mark.parametrize(("m", "noise"), [pytest.param(2, "ema-1", marks=pytest.mark.slow), (4, "ema-2")])
def test_known_limit_logits_lose_their_variance_in_the_long_run(m: int, noise: str) -> None:
    outcome = one_label_stream("logits", m, "float64", noise, repeats=600)
    assert outcome.p_min < 1e-4
    assert outcome.moved < 1e-2
    assert not outcome.turned


@pytest.mark.parametrize("observation", ["probabilities", "logits"])
def test_saturation_is_said_in_one_line_by_a_restored_filter_too(observation: str) -> None:
    model = mlp(2)
    optimizer, restored = (LoKO(model.parameters(), p0=1.0, observation=observation) for _ in range(2))
    assert optimizer.diagnose() is None  # before the first step
    x = torch.ones(1, 5, dtype=torch.float64)
    drive(optimizer, model, Categorical, [(x, torch.tensor([0]))])
    assert optimizer.diagnose() is None
    drive(optimizer, model, Categorical, [(x, torch.tensor([0]))] * 600)
    restored.load_state_dict(optimizer.state_dict())
    for it in (optimizer, restored):
        if observation == "probabilities":
            assert "saturated" in it.diagnose()
            assert "\n" not in it.diagnose()
        else:
            assert it.diagnose() is None
