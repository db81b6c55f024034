"""The interval of the NIS has the documented level for what is observed: by simulation of consistent filters."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filtune.optimizers import Bernoulli, Categorical, Filtune, Gaussian, Poisson
from filtune.optimizers.kalman.monitors.nis import (
    LIMIT,
    NIS,
    interval,
    judge,
    normalised_innovation_squared,
    without_target,
)
from filtune.optimizers.kalman.rows import RowSelection
from filtune.optimizers.likelihoods.base import Likelihood
from scipy.stats import chi2, gamma, norm
from torch import Tensor

LEVEL = norm.sf(LIMIT)
"""Probability with which a consistent filter is above the interval: 0.0005."""

WINDOW = 100


def exceedance(values: np.ndarray, probabilities: np.ndarray, high: float, runs: int = 200_000) -> float:
    """How often the mean of independent choices among values (w, k) is above a bound; in numpy."""
    generator = np.random.default_rng(0)
    total = np.zeros(runs)
    for own, q in zip(values, probabilities, strict=True):
        total += generator.choice(own, size=runs, p=q)
    return float((total / len(values) > high).mean())


# every confidence with few classes and with many, with and without uncertainty; the other half is slow
@pytest.mark.parametrize(
    ("m", "confidence", "uncertain"),
    [
        pytest.param(m, confidence, uncertain, marks=() if (m == 2) == (uncertain == 0) else pytest.mark.slow)
        for m in (2, 4)
        for confidence in (0.6, 0.9, 0.95, 0.99, 0.999999)
        for uncertain in (0.0, 2.0)
    ],
)
def test_the_level_of_classes(m: int, confidence: float, uncertain: float) -> None:
    """Windows of samples whose confidence is near this one; labels come from the predictive distribution.

    The sum is discrete: at 0.99 a window has one error on average, and a bound between two counts of errors has the
    level of the next count. The level is reached within a factor of three from above.
    """
    generator = torch.Generator().manual_seed(m)
    values, probabilities, cumulants = [], [], []
    for _ in range(WINDOW):
        p_top = confidence + (1 - confidence) * 0.2 * (torch.rand((), generator=generator).double() - 0.5)
        p = torch.cat([p_top.view(1), ((1 - p_top) / (m - 1)).expand(m - 1)])
        likelihood = Categorical(p.log().unsqueeze(0))
        A = uncertain * torch.eye(m - 1, dtype=torch.float64)
        observed = [likelihood.observe(torch.tensor([y])) for y in range(m)]
        values.append([float(normalised_innovation_squared(o.natural(), A).clamp_max(25)) for o in observed])
        basis = observed[0].natural().cotangents[0].double()
        probabilities.append(likelihood.predictive((basis.T @ A @ basis).unsqueeze(0))[0].numpy())
        value = normalised_innovation_squared(observed[0].natural(), A)
        cumulants.append(judge(observed[0], observed[0].natural(), A, value)[1])
    high = float(interval(torch.stack(cumulants, 1))[1])
    q = np.array(probabilities)
    found = exceedance(np.array(values), q / q.sum(1, keepdims=True), high)
    assert found <= 3 * LEVEL


@pytest.mark.parametrize(("kind", "outputs"), [(Bernoulli, -3.0), (Bernoulli, 0.5), (Poisson, -2.0), (Poisson, 1.5)])
def test_the_level_of_labels_that_occur_together_and_of_counts(kind: Any, outputs: float) -> None:
    z = torch.full((1, 2), outputs, dtype=torch.float64)
    likelihood: Likelihood = kind(z)
    none = torch.zeros(2, 2, dtype=torch.float64)
    runs, total = 40_000, torch.zeros(40_000, dtype=torch.float64)
    torch.manual_seed(0)
    for _ in range(WINDOW):
        target = likelihood.at(z.expand(runs, -1)).sample().double()
        total += ((target - likelihood.mean()).square() / likelihood.covariance()[0].diagonal()).mean(1)
    observation = likelihood.observe(likelihood.sample())
    innovation = observation.natural()
    cumulants = judge(observation, innovation, none, normalised_innovation_squared(innovation, none))[1]
    high = float(interval(cumulants.unsqueeze(1).expand(3, WINDOW))[1])
    deviation = (LEVEL / runs) ** 0.5
    assert float((total / WINDOW > high).double().mean()) <= 3 * LEVEL + 3 * deviation


@pytest.mark.parametrize("skewness", [0.5, 1, 3, 5, 7, 10, 15, 20, 30, 40, 100, 1000])
def test_the_upper_bound_is_the_quantile_of_a_gamma_distribution_and_does_not_fall(skewness: float) -> None:
    """Within five per cent up to a skewness of 40, and above all quantiles from there on."""
    cumulants = torch.tensor([[3.0], [1.0], [skewness]], dtype=torch.float64)
    found = float(interval(cumulants)[1]) - 3
    exact = max(gamma.isf(LEVEL, 4 / g**2) * g / 2 - 2 / g for g in (skewness, min(skewness, 40)))
    assert exact * 0.95 <= found
    assert found <= exact * 1.05 or skewness > 40


@pytest.mark.parametrize("top_k", [0, 1])
@pytest.mark.parametrize("gap", [8.0, 14.0, 17.0, 30.0, 300.0])
def test_a_filter_that_is_sure_and_right_raises_no_alarm(gap: float, top_k: int) -> None:
    model = torch.nn.Linear(2, 4)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.0, gap, 0.0, 0.0]))
    optimizer = Filtune(model.parameters(), nis_window=8, forgetting_factor=0.5, top_k=top_k)
    for x in torch.randn(12, 1, 2, generator=torch.Generator().manual_seed(0)):
        optimizer.step(lambda x=x: Categorical(model(x)).observe(torch.tensor([1])))
        assert not optimizer.filter["alarm"]
    assert optimizer.stats["nis_high"] >= optimizer.stats["nis"]


@pytest.mark.parametrize("d", [1, 3])
def test_for_values_it_is_chi_square(d: int) -> None:
    observation = Gaussian(torch.zeros(1, d).double()).observe(torch.ones(1, d).double())
    A = torch.eye(d, dtype=torch.float64)
    cumulants = judge(observation, observation.natural(), A, torch.ones(()))[1]
    low, high = interval(cumulants.unsqueeze(1).expand(3, WINDOW))
    n = WINDOW * d
    exact = [chi2.ppf(q, n) / n for q in (LEVEL, 1 - LEVEL)]
    assert [float(low), float(high)] == pytest.approx(exact, rel=0, abs=0.3 / n)


def test_the_moments_of_counts_are_those_of_their_distribution() -> None:
    rates = torch.tensor([[0.1, 1.0, 7.0]], dtype=torch.float64)
    found = Poisson(rates.log()).square_cumulants()[:, 0]
    for i, rate in enumerate(rates[0].tolist()):
        y = np.arange(200)
        q = np.exp(y * np.log(rate) - rate - np.cumsum(np.log(np.maximum(y, 1))))
        square = (y - rate) ** 2
        mean = (q * square).sum()
        expected = [mean, (q * (square - mean) ** 2).sum(), (q * (square - mean) ** 3).sum()]
        assert found[:, i].tolist() == pytest.approx(expected, rel=1e-9)


def alarms(top_k: int) -> tuple[int, int]:
    """Alarms of a monitor over windows of labels drawn from the predictions, and how many windows."""
    from filtune.optimizers.kalman.rows import RowSelection

    monitor, torch_state = NIS(nis_window=20), torch.zeros(1, dtype=torch.float64)
    state: dict[str, Tensor] = {**monitor.start(torch_state, []), "steps": torch.zeros((), dtype=torch.int64)}
    z = torch.tensor([[4.0, 0.0, 0.0, 0.0, -1.0, -1.0]], dtype=torch.float64)
    count, windows, select = 0, 60, RowSelection(top_k)
    for step in range(20 * windows):
        likelihood = Categorical(z)
        observation = likelihood.observe(likelihood.sample())
        innovation = select(observation)
        monitor.before(state, SimpleNamespace(uses_alarm=True), observation)  # type: ignore[arg-type]
        d = innovation.residual.shape[1]
        monitor.after(state, innovation, torch.zeros(d, d, dtype=torch.float64))
        state["steps"] += 1
        count += bool(state["alarm"]) if step % 20 == 19 else 0
    return count, windows


@pytest.mark.parametrize("top_k", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_the_monitor_itself_raises_no_false_alarms(top_k: int) -> None:
    """60 independent windows: two alarms or more have a probability of 0.0005 at the level of 0.0005."""
    torch.manual_seed(0)
    count, _ = alarms(top_k)
    assert count <= 1


@pytest.mark.parametrize(
    ("B", "confidence"),
    [
        pytest.param(B, confidence, marks=[] if (B, confidence) in {(4, 0.99), (16, 0.999)} else pytest.mark.slow)
        for B in (1, 4, 16)
        for confidence in (0.7, 0.99, 0.999)
    ],
)
def test_batches_of_classes_raise_no_alarm(B: int, confidence: float) -> None:
    """What enters the average and what is expected of it are cut at the same size, sample by sample."""
    torch.manual_seed(0)
    z = torch.tensor([[math.log(confidence / (1 - confidence)), 0.0]], dtype=torch.float64).expand(B, -1)
    likelihood, none = Categorical(z), torch.zeros(B, B, dtype=torch.float64)
    values, cumulants = [], []
    for _ in range(20 * WINDOW):
        observation = likelihood.observe((torch.rand(B) > confidence).long())
        innovation = observation.natural()
        value = normalised_innovation_squared(innovation, none)
        value, expected = judge(observation, innovation, none, value)
        values.append(float(value.clamp_max(25)))
        cumulants.append(expected)
    high = float(interval(torch.stack(cumulants[:WINDOW], 1))[1])
    alarms = (np.array(values).reshape(20, WINDOW).mean(1) > high).sum()
    assert alarms <= 1  # at 0.0005 a window, two of twenty have a probability of 5e-5
    mean, variance, _ = torch.stack(cumulants).mean(0).tolist()
    assert abs(np.mean(values) - mean) <= 4 * math.sqrt(variance / len(values))  # four standard errors


@pytest.mark.parametrize(
    ("confidence", "uncertain", "top_k"),
    [
        pytest.param(confidence, uncertain, top_k, marks=() if (top_k == 1) == (i % 2 == j) else pytest.mark.slow)
        for j, confidence in enumerate((0.3, 0.99))
        for i, uncertain in enumerate((0.0, 0.5, 4.0, 100.0))
        for top_k in (1, 2)
    ],
)
def test_with_top_k_the_level_does_not_depend_on_the_label_that_is_distinguished(
    confidence: float, uncertain: float, top_k: int
) -> None:
    """Ten samples, ten times over, with labels from the predictive, drawn from the outputs' normal distribution.

    The label adds a direction where it is none of the k classes; with that among what is tested, a wide posterior was
    above the interval in 6 to 37 of a hundred windows. What remains is that the monitor has the predictive by a rule of
    the third degree: with the outputs' standard deviation at 10 it expects 0.26 of a class that has 0.35.
    """
    generator = torch.Generator().manual_seed(top_k)
    select, values, probabilities, cumulants = RowSelection(top_k), [], [], []
    for _ in range(10):
        rest = torch.rand(5, generator=generator, dtype=torch.float64)
        p = torch.cat([torch.tensor([confidence], dtype=torch.float64), (1 - confidence) * rest / rest.sum()])
        likelihood, own = Categorical(p.log().unsqueeze(0)), []
        for y in range(len(p)):
            observation = likelihood.observe(torch.tensor([y]))
            seen = select(observation)
            innovation, A = without_target(seen, uncertain * torch.eye(seen.residual.numel(), dtype=torch.float64))
            own.append(judge(observation, innovation, A, normalised_innovation_squared(innovation, A)))
            torch.testing.assert_close(own[0][1], own[-1][1])  # what is expected does not depend on what came
        values.append([float(value) for value, _ in own])
        cumulants.append(own[0][1])
        steps = torch.randn(4000, top_k, generator=generator, dtype=torch.float64) @ innovation.cotangents[0]
        probabilities.append((p.log() + uncertain**0.5 * steps).softmax(1).mean(0).numpy())
    high = float(interval(torch.stack(cumulants * 10, 1))[1])
    found = exceedance(np.array(values * 10), np.array(probabilities * 10), high, runs=20_000)
    assert found <= (3 * LEVEL if uncertain < 1 else 0.02)
