"""The normalised innovation squared, its interval, and what is forgotten when it is left."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import Categorical, Filtune
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.monitors.nis import MOST, normalised_innovation_squared, remember
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.optimizers.models import drive, labels, mlp, relative, rounding
from tests.optimizers.reference import flat


@given(B=st.integers(1, 3), m=st.integers(2, 5), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_against_the_dense_formula(B: int, m: int, seed: int) -> None:
    """Of probabilities observed through the logits: e'(FAF + F)^-1 e / (B d)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(B, m, generator=generator, dtype=torch.float64)
    observation = Categorical(z).observe(torch.randint(m, (B,), generator=generator))
    n = B * (m - 1)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    A, innovation = root @ root.T, observation.natural()
    F = torch.block_diag(*Categorical(z).covariance())
    S, e = F @ A @ F + F, innovation.residual.flatten()
    tolerance = rounding(1000, condition=float(torch.linalg.cond(S)))
    found = normalised_innovation_squared(innovation, A)
    assert relative(found, e @ torch.linalg.solve(S, e) / n) <= tolerance


def test_its_mean_is_one_where_the_filter_is_right() -> None:
    """Labels drawn from certain predictions, no uncertainty of the parameters: sum_y p_y NIS(y) = 1 exactly."""
    z = torch.randn(1, 4, dtype=torch.float64)
    p = z.softmax(1)[0]
    none = torch.zeros(3, 3, dtype=torch.float64)
    observed = [Categorical(z).observe(torch.tensor([y])).natural() for y in range(4)]
    mean = sum(p[y] * normalised_innovation_squared(observed[y], none) for y in range(4))
    assert float(mean) == pytest.approx(1, rel=1e-12)


def test_the_window_is_a_ring_of_finite_values_within_bounds() -> None:
    values = torch.tensor([5.0, 6.0, 7.0])
    for step, value in enumerate((2.0, torch.inf, torch.nan, 1e9)):
        values = remember(values, torch.tensor(step), torch.tensor(value, dtype=torch.float64))
    assert values.tolist() == [MOST, 6.0, 7.0]


def watched(model: nn.Module, **options: object) -> Filtune:
    options = {"rank": 6, "buffer_size": 2, "nis_window": 20, "p0_init": "constant", "dtype": "float64"} | options
    return Filtune(model.parameters(), **options)


def test_what_was_learnt_is_forgotten_when_the_labels_change() -> None:
    """P^-1 goes back towards the prior's by the share that is kept, and theta stays where it is."""
    kept, forgetful = mlp(2), mlp(2)
    forgetful.load_state_dict(kept.state_dict())
    optimizers = watched(kept), watched(forgetful, forgetting_factor=0.25)
    stream = [(x, (x[:, 0] > 0).long()) for x, _ in labels(300, 1, 2)]
    for optimizer, model in zip(optimizers, (kept, forgetful), strict=True):
        drive(optimizer, model, Categorical, stream)
    assert not bool(optimizers[1].filter["alarm"])
    assert torch.equal(flat(kept), flat(forgetful))
    changed = [(x, 1 - y) for x, y in stream]
    alarmed = False
    for sample in changed:
        before = optimizers[1].filter["precision"].sum() + optimizers[1].filter["V"].square().sum()
        drive(optimizers[1], forgetful, Categorical, [sample])
        alarmed |= bool(optimizers[1].filter["alarm"])
        after = optimizers[1].filter["precision"].sum() + optimizers[1].filter["V"].square().sum()
        if after < before:
            break
    assert alarmed
    prior = optimizers[1].filter["prior"].sum()
    assert float(after - prior) == pytest.approx(0.25 * float(before - prior), rel=0.3)  # the sample adds a little
    assert torch.equal(optimizers[1].filter["nis"], torch.ones_like(optimizers[1].filter["nis"]))


def test_figures_of_a_step() -> None:
    model = mlp(3)
    optimizer = watched(model)
    drive(optimizer, model, Categorical, labels(4, 2, 3))
    stats = optimizer.stats
    assert float(stats["nis_low"]) < 1 < float(stats["nis_high"])
    assert float(stats["nis"]) == float(optimizer.filter["nis"].mean())
    without = watched(mlp(3), nis_window=0)
    drive(without, mlp(3), Categorical, [])
    assert "nis" not in without.filter


def test_forgetting_needs_a_window_and_a_covariance_that_can() -> None:
    with pytest.raises(ValueError, match="forgetting_factor below 1 needs a positive nis_window"):
        watched(mlp(2), forgetting_factor=0.5, nis_window=0)
    with pytest.raises(ValueError, match="forgetting_factor must lie in"):
        watched(mlp(2), forgetting_factor=1.5)
    with pytest.raises(ValueError, match="forgetting_factor is an option of covariance low_rank"):
        KalmanOptimizer(mlp(2).parameters(), 0.1, update="posterior_mode", forgetting_factor=0.5, nis_window=10)
    with pytest.raises(ValueError, match="nis_window needs noise softmax or update posterior_mode"):
        KalmanOptimizer(mlp(2).parameters(), 0.1, nis_window=10)
