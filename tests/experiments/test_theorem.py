"""Theorem 4.3: its network, its update, and its bounds; the measurement is in test_measurements.py."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from filtune.experiments.measurements import two_layer
from filtune.experiments.measurements.theorem import bounds, check_claims, follow, network
from filtune.experiments.measurements.two_layer import TwoLayer
from filtune.experiments.streams import build_data
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

EPS = torch.finfo(torch.float64).eps

seeds = st.integers(0, 99)
rhos = st.sampled_from((0.0, 1e-4, 1e-2, 1.0))


@cache
def digits(samples: int, width: int, seed: int) -> TwoLayer:
    data = {"class_path": "filtune.datamodules.DigitsDataModule", "init_args": {"max_samples": samples}}
    return network(build_data(data, seed), width, seed)


class Linear(TwoLayer):
    """The same without tanh: every slope is one."""

    def outputs(self, W: Tensor) -> Tensor:
        return self.X @ W.mT @ self.a / math.sqrt(len(self.a))

    def slopes(self, W: Tensor) -> Tensor:
        return torch.ones(len(self.X), len(self.a), dtype=torch.float64)

    def mean_slopes(self, V: Tensor, W: Tensor) -> Tensor:
        return self.slopes(W)


def linear(seed: int) -> Linear:
    net = digits(8, 6, seed)
    return Linear(net.X, net.y, net.a, net.W0)


def rounding(net: TwoLayer, step: dict[str, float]) -> float:
    """Most that rounding adds to the next error.

    A sum of m products of at most |a tanh| <= 1 (linear: |w'x|, a few), over sqrt(m), is off by m eps sqrt(m), N such
    sums by sqrt(N) times that; the solution of the system by N eps kappa of the error, with a constant of 10.
    """
    N, m = net.X.shape[0], len(net.a)
    return 10 * EPS * (math.sqrt(N) * m**1.5 + N * step["kappa"] * step["error"])


def dense(net: TwoLayer, W: Tensor) -> Tensor:
    """H by automatic differentiation, (N, n)."""
    return torch.func.jacrev(net.outputs)(W).flatten(1)


@given(seed=seeds, rho=st.floats(1e-3, 1))
@settings(max_examples=10)
def test_the_update_is_the_damped_natural_gradient(seed: int, rho: float) -> None:
    """H'(G + rho~ I)^-1 e = (H'H + rho~ I)^-1 H'e with rho~ = rho |H'e|^2."""
    net = digits(5, 6, seed)
    H, e = dense(net, net.W0), net.outputs(net.W0) - net.y
    damping = rho * (H.mT @ e).square().sum()
    F = H.mT @ H
    expected = torch.linalg.solve(F + damping * torch.eye(len(F), dtype=F.dtype), H.mT @ e)
    # n eps times the condition number of the dense system, (lambda_max + rho~) / rho~
    condition = float(1 + torch.linalg.matrix_norm(F, 2) / damping)
    difference = (net.W0 - two_layer.update(net, net.W0, rho)).flatten() - expected
    assert float(difference.norm() / expected.norm()) < len(F) * EPS * condition


@given(seed=seeds)
@settings(max_examples=10)
def test_jacobians_in_closed_form(seed: int) -> None:
    net = digits(5, 7, seed)
    generator = torch.Generator().manual_seed(seed)
    V = net.W0 + torch.randn(net.W0.shape, dtype=torch.float64, generator=generator)
    H, S, v = dense(net, net.W0), net.slopes(net.W0), torch.randn(5, dtype=torch.float64, generator=generator)
    # sums of at most 7 * 64 terms of size one: 448 eps = 1e-13
    close: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(net.pull(S, v).flatten(), H.mT @ v, **close)
    torch.testing.assert_close(net.gram(S, S), H @ H.mT, **close)
    torch.testing.assert_close(net.norm(S), torch.linalg.matrix_norm(H, 2), **close)
    # 40 nodes: tanh' is analytic up to i pi / 2, and the pre-activations move by a few
    nodes, weights = np.polynomial.legendre.leggauss(40)
    points = [(w / 2, (x + 1) / 2) for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)]
    mean = torch.stack([weight * net.slopes(net.W0 + s * (V - net.W0)) for weight, s in points]).sum(0)
    torch.testing.assert_close(net.mean_slopes(net.W0, V), mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net.mean_slopes(net.W0, net.W0), S, **close)
    moved = net.outputs(V) - net.outputs(net.W0)
    torch.testing.assert_close(float(v @ moved), float((net.pull(net.mean_slopes(net.W0, V), v) * (V - net.W0)).sum()))


@given(seed=seeds, rho=rhos, width=st.sampled_from((16, 64)))
@settings(max_examples=20)
def test_bounds_hold_at_every_step(seed: int, rho: float, width: int) -> None:
    net = digits(8, width, seed)
    start, taken = two_layer.least(net), follow(net, rho, 8)
    C = two_layer.stability(net, max(step["deviation"] for step in taken))
    for step in taken:
        bound, slack = bounds(step, C, start), rounding(net, step)
        assert step["next"] <= bound["known"] + slack
        # |Hbar - H_k| <= |Hbar - H0| + |H_k - H0|
        assert bound["known"] <= bound["tight"] + slack
        assert step["next"] <= bound["paper"] + slack
        assert bound["paper"] >= 2 * step["error"]


@given(seed=seeds)
@settings(max_examples=20)
def test_a_linear_model_is_solved_in_one_step(seed: int) -> None:
    net = linear(seed)
    (step,) = follow(net, 0.0, 1)
    assert step["deviation"] == step["change"] == 0
    assert step["next"] <= rounding(net, step)
    bound = bounds(step, 0.0, two_layer.least(net))
    assert bound["tight"] == 0
    assert bound["paper"] == pytest.approx(2 * step["error"])


@given(seed=seeds, rho=st.sampled_from((1e-4, 1e-2, 1.0)))
@settings(max_examples=20)
def test_of_a_linear_model_the_tight_bound_is_the_slowest_direction(seed: int, rho: float) -> None:
    net = linear(seed)
    G = net.X @ net.X.mT
    (step,) = follow(net, rho, 1)
    values, vectors = torch.linalg.eigh(G)
    e = net.outputs(net.W0) - net.y
    shrunk = step["damping"] / (values + step["damping"]) * (vectors.mT @ e)
    assert step["next"] == pytest.approx(float(shrunk.norm()), rel=1e-9, abs=rounding(net, step))
    kept = step["damping"] / (float(values[0]) + step["damping"])
    assert bounds(step, 0.0, float(values[0]))["tight"] == pytest.approx(kept * step["error"], rel=1e-9)


def test_the_printed_steps_of_the_proof_that_do_not_hold() -> None:
    # 1 - t < 1 / (1 + t): the truncated inverse moves the outputs by less, not by more
    net = linear(0)
    (step,) = follow(net, 1e-4, 1)
    found = check_claims(step, 0.0, two_layer.least(net), two_layer.radius(net))
    assert not found["truncation"]
    # both sides of a bound must scale alike: |(3)| is of degree three in the error
    net = digits(8, 64, 0)
    large = replace(net, y=1e4 * net.y)
    (step,) = follow(large, 1.0, 1)
    found = check_claims(step, 1.0, two_layer.least(large), two_layer.radius(large))
    assert not found["term_3_paper"]
    assert found["term_3"]


@given(seed=seeds)
@settings(max_examples=10)
def test_what_is_known_of_C_is_in_order(seed: int) -> None:
    net, generator = digits(8, 32, seed), torch.Generator().manual_seed(seed)
    least = max(two_layer.drawn(net, 3, generator), two_layer.climbed(net, 10, generator))
    assert 0 < least <= two_layer.certain(net)
    taken = follow(net, 0.0, 5)
    inside = all(step["distance"] <= two_layer.radius(net) for step in taken)
    assert not inside or two_layer.stability(net, max(s["deviation"] for s in taken)) <= two_layer.certain(net)
