"""R-Kalman is the dense filter with noise (R^-1 + rho I)^-1 and process noise, and refuses an indefinite noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, Gaussian, LoKO, RKalman
from filtune.optimizers.kalman.equations import neumann_noise, regularised_noise
from torch import Tensor, nn

from tests.optimizers.models import drive, labels, linear, mlp, relative, rounding, values
from tests.optimizers.reference import DenseFilter, flat, ones_complement

PROMISE = 1e-10
STEPS = 3


def definite(d: int, seed: int, low: float = -2.0, high: float = 1.0) -> Tensor:
    """A random symmetric matrix with eigenvalues 10^low to 10^high, (d, d)."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    spectrum = torch.logspace(low, high, d, dtype=torch.float64)
    return Q @ torch.diag(spectrum) @ Q.T


def pair(model: nn.Module, d: int, q: float = 0.0, **options: Any) -> tuple[RKalman, DenseFilter]:
    """R-Kalman in float64 and its dense reference."""
    optimizer = RKalman(model.parameters(), process_noise=q, dtype="float64", **options)
    given = {"r0": 0.0, "beta": 0.96, "noise": "ema-2", "rho": 1e-4} | options
    P, R = torch.diag(optimizer.filter["p"]), given["r0"] * torch.eye(d, dtype=torch.float64)
    return optimizer, DenseFilter(flat(model), P, R, given["beta"], given["noise"], q=q, rho=given["rho"])


@pytest.mark.parametrize("rho", [1e-6, 0.1, 1.0, 1e4])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_regularised_noise_is_the_inverse_of_the_inverse(d: int, rho: float) -> None:
    R = definite(d, seed=d)
    expected = torch.linalg.inv(torch.linalg.inv(R) + rho * torch.eye(d, dtype=torch.float64))
    assert relative(regularised_noise(R, rho), expected) <= rounding(20 * d, condition=1e3)
    assert float(torch.linalg.eigvalsh(regularised_noise(R, rho))[0]) > 0
    singular = torch.ones(3, 3, dtype=torch.float64)  # the eigenvalue 3 goes to 3 / (1 + 3 rho), the zeros stay
    assert relative(regularised_noise(singular, rho), singular / (1 + 3 * rho)) <= rounding(60, condition=1e3)


def test_the_defaults_are_algorithm_2_of_the_paper() -> None:
    """R-Kalman as it is, against the dense filter with R0 = 0, beta 0.96, rho 1e-4 and equation 12."""
    model, basis = mlp(3), ones_complement(3)
    optimizer, dense = pair(model, 2)
    for x, y in labels(4, 1, 3):
        dense.observe_probabilities(model, x, y, basis)
        drive(optimizer, model, Categorical, [(x, y)])
    assert relative(flat(model), dense.theta) <= PROMISE


@pytest.mark.parametrize("observed", ["probabilities", "values"])
@pytest.mark.parametrize("B", [1, 3])
def test_without_rho_it_is_loko_to_the_bit(B: int, observed: str) -> None:
    shared = {"p0": 0.3, "p0_init": "constant", "beta": 0.9, "r0": 0.5, "process_noise": 0.001}
    results = []
    for rule, own in ((RKalman, {"rho": 0.0}), (RKalman, {"rho": 0.0, "neumann": True}), (LoKO, {})):
        model = mlp(3)
        optimizer = rule(model.parameters(), **shared, **own).attach(model)
        stream, likelihood = (labels, Categorical) if observed == "probabilities" else (values, Gaussian)
        drive(optimizer, model, likelihood, stream(5, B, 3))
        results.append((flat(model), optimizer.filter["p"], optimizer.filter["R"]))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("m", [3, 6])
def test_any_orthonormal_coordinates_will_do_and_others_will_not(m: int) -> None:
    """Against the dense filter in a rotated basis, and in one whose columns are stretched."""
    model = mlp(m)
    optimizer, rotated = pair(model, m - 1, rho=20.0)
    _, stretched = pair(model, m - 1, rho=20.0)
    prior = flat(model)
    scale = torch.diag(torch.linspace(0.5, 2, m - 1, dtype=torch.float64))
    for x, y in labels(STEPS, 1, m):
        rotated.observe_probabilities(model, x, y, ones_complement(m, seed=5))
        stretched.observe_probabilities(model, x, y, ones_complement(m, seed=5) @ scale)
        drive(optimizer, model, Categorical, [(x, y)])
    assert relative(flat(model), rotated.theta) <= PROMISE
    assert relative(stretched.theta - prior, rotated.theta - prior) > 1e-2


def test_the_neumann_form_is_right_to_the_second_order_in_rho() -> None:
    """R(I + rho R)^-1 - (R - rho R^2) = rho^2 R^3 (I + rho R)^-1."""
    R = definite(4, seed=3)
    cube = R @ R @ R
    for rho in (1e-2, 1e-3, 1e-4):
        approximate, definite_too = neumann_noise(R, rho)
        assert bool(definite_too)
        error = regularised_noise(R, rho) - approximate
        exact = rho**2 * torch.linalg.solve(torch.eye(4, dtype=torch.float64) + rho * R, cube)
        assert (error - exact).abs().max() <= rounding(80) * float(R.abs().max())
        assert float(error.abs().max()) > 0.5 * rho**2 * float(cube.abs().max())


def test_the_filter_uses_the_neumann_form() -> None:
    """Against the dense filter with R - rho R^2 in place of its noise, where that differs from the exact form."""
    results = []
    for neumann in (True, False):
        model = mlp(3)
        optimizer = RKalman(model.parameters(), rho=0.4, neumann=neumann, noise="identity", r0=0.5, dtype="float64")
        used = 0.5 - 0.4 * 0.25 if neumann else 0.5 / (1 + 0.4 * 0.5)
        P = torch.diag(optimizer.filter["p"])
        dense = DenseFilter(flat(model), P, used * torch.eye(2).double(), noise="constant")
        for x, y in labels(STEPS, 2, 3):
            dense.observe_probabilities(model, x, y, ones_complement(3))
            drive(optimizer, model, Categorical, [(x, y)])
        assert relative(flat(model), dense.theta) <= PROMISE
        results.append(flat(model))
    assert relative(*results) > 1e-6


def test_the_neumann_form_knows_where_it_is_indefinite() -> None:
    R = definite(3, seed=1, high=0.5)
    largest = float(torch.linalg.eigvalsh(R)[-1])
    for factor, expected in ((0.999, True), (1.001, False), (5.0, False)):
        approximate, holds = neumann_noise(R, factor / largest)
        assert bool(holds) == expected
        assert (float(torch.linalg.eigvalsh(approximate)[0]) > 0) == expected
    assert not bool(neumann_noise(torch.full((3, 3), float("nan")), 0.1)[1])


@pytest.mark.parametrize("q", [0.0, 0.01])
@pytest.mark.parametrize("B", [1, 2])
def test_where_it_is_indefinite_nothing_changes_and_the_failure_names_step_and_remedy(B: int, q: float) -> None:
    model, stream = mlp(3), values(5, B, 3)
    optimizer = RKalman(
        model.parameters(),
        rho=0.3,
        neumann=True,
        noise="ema-1",
        r0=0.5,
        beta=0.9,
        process_noise=q,
        divergence_threshold=1e9,
    )
    drive(optimizer, model, Gaussian, stream[:2])
    assert optimizer.check_divergence() is None
    kept = {name: optimizer.filter[name].clone() for name in ("p", "R")}
    before, (x, y) = flat(model), stream[2]
    drive(optimizer, model, Gaussian, [(x, y + 20.0)])  # R takes in ee' / 10, of size 40
    assert torch.equal(flat(model), before)
    assert all(torch.equal(optimizer.filter[name], value) for name, value in kept.items())
    drive(optimizer, model, Gaussian, stream[3:])
    assert not torch.equal(flat(model), before)
    message = optimizer.check_divergence()
    assert message is not None
    assert "at step 3" in message
    assert "--optimizer.neumann false" in message
    assert "\n" not in message
    assert int(optimizer.filter["nonfinite_steps"]) == 1


def test_it_is_refused_even_where_the_innovation_covariance_is_definite() -> None:
    """rho r0 = 1.05: the noise is -0.105, and HPH' of size ten hides it in S."""
    model = mlp(3)
    optimizer = RKalman(model.parameters(), p0=10.0, rho=0.5, neumann=True, noise="identity", r0=2.1)
    before, p = flat(model), optimizer.filter["p"].clone()
    drive(optimizer, model, Gaussian, values(2, 1, 3))
    assert int(optimizer.filter["nonfinite_steps"]) == 2
    assert torch.equal(flat(model), before)
    assert torch.equal(optimizer.filter["p"], p)


@pytest.mark.parametrize("rule", [LoKO, RKalman])
def test_variance_that_is_not_observed_grows_by_q(rule: type) -> None:
    """Features of zero: the weights are not seen, the bias is."""
    q, steps = 0.003, 5
    model = linear(2)
    optimizer = rule(model.parameters(), p0=0.2, p0_init="constant", process_noise=q, dtype="float64")
    drive(optimizer, model, Gaussian, [(torch.zeros(1, 5).double(), y) for _, y in values(steps, 1, 2)])
    weight, bias = optimizer.variance()
    assert (weight - (0.2 + steps * q)).abs().max() <= rounding(2 * steps)
    assert bool((bias < 0.2).all())


def test_with_process_noise_the_filter_goes_on_learning() -> None:
    """A scalar random walk observed with noise r: p settles at the root of the Riccati equation, not at zero."""
    q, r, settled = 0.04, 0.5, {}
    for noise in (0.0, q):
        model = nn.Linear(1, 1, bias=False).double()
        optimizer = LoKO(
            model.parameters(), p0=1.0, p0_init="constant", noise="identity", r0=r, process_noise=noise, dtype="float64"
        )
        drive(optimizer, model, Gaussian, [(torch.ones(1, 1).double(), torch.zeros(1, 1))] * 200)
        settled[noise] = float(optimizer.filter["p"])
    prior = q / 2 + (q**2 / 4 + q * r) ** 0.5  # p- = p- r / (p- + r) + q
    # the error shrinks by (r / (p- + r))^2 = 0.57 a step
    assert settled[q] == pytest.approx(prior * r / (prior + r), rel=1e-12)
    assert settled[0.0] == pytest.approx(1 / (1 + 200 / r), rel=1e-12)


def test_softmax_noise_needs_no_r0() -> None:
    """The paper's R0 = 0 is R-Kalman's default; softmax noise has no R0."""
    model = mlp(3)
    drive(RKalman(model.parameters(), noise="softmax"), model, Categorical, labels(1, 1, 3))
