"""LoFi is the full filter but for what it drops, and every covariance's algebra is that of its matrix."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import EKF, Gaussian
from filtune.optimizers.kalman.blocks import BlockJacobian, DenseBlock
from filtune.optimizers.kalman.covariance import Covariance
from torch import Tensor
from torch.func import jacrev

from tests.optimizers.models import (
    COVARIANCES,
    covariance_of,
    drive,
    linear,
    mlp,
    relative,
    rounding,
    values,
    variances,
)
from tests.optimizers.reference import flat, outputs_of

PROMISE = 1e-10


def precision_of(optimizer: EKF) -> Tensor:
    """P^-1 of low-rank, (n, n)."""
    state = optimizer.filter
    return torch.diag(state["precision"]) + state["V"].T @ state["V"]


@pytest.mark.parametrize("B", [1, 2])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_low_rank_takes_the_exact_step_and_keeps_the_diagonal_and_the_leading_directions(rank: int, B: int) -> None:
    """From its own prior each step is that of the full filter; what is dropped of P^-1 is off its diagonal."""
    model, r = mlp(2), 0.4
    optimizer = EKF(model.parameters(), rank=rank, p0=0.5, noise="identity", r0=r, dtype="float64")
    for x, y in values(6, B, 2):
        prior, upsilon, V = (
            precision_of(optimizer),
            optimizer.filter["precision"].clone(),
            optimizer.filter["V"].clone(),
        )
        H = jacrev(outputs_of(model, x))(flat(model)).flatten(0, 1)
        e = (y - outputs_of(model, x)(flat(model))).detach().flatten()
        exact, before = prior + H.T @ H / r, flat(model)
        drive(optimizer, model, Gaussian, [(x, y)])
        # the precision's condition number is within (1 / p0 + |H|^2 / r) p0
        tolerance = rounding(2000, condition=float(torch.linalg.cond(exact)))
        assert relative(flat(model) - before, torch.linalg.solve(exact, H.T @ e / r)) <= tolerance
        assert relative(precision_of(optimizer).diagonal(), exact.diagonal()) <= rounding(2000)
        kept_part = optimizer.filter["V"].T @ optimizer.filter["V"]
        stacked = torch.cat([V, H / r**0.5])
        _, S, right = torch.linalg.svd(stacked, full_matrices=False)
        best = right[:rank].T @ torch.diag(S[:rank].square()) @ right[:rank]
        assert relative(kept_part, best) <= 1e-10
        assert bool((optimizer.filter["precision"] >= upsilon).all())
        assert relative(variances(optimizer), torch.linalg.inv(precision_of(optimizer)).diagonal()) <= tolerance


@pytest.mark.parametrize(("B", "m"), [(1, 1), (2, 2)])
def test_low_rank_is_the_full_filter_while_it_has_seen_no_more_rows_than_its_rank(B: int, m: int) -> None:
    rank = 6
    results = {}
    for covariance in ("full", "low_rank"):
        model = mlp(m)
        optimizer = EKF(model.parameters(), **covariance_of(covariance, rank), p0=0.5, dtype="float64")
        stream, results[covariance] = values(rank // (B * m) + 2, B, m), []
        for sample in stream:
            drive(optimizer, model, Gaussian, [sample])
            results[covariance].append((flat(model), variances(optimizer)))
    same = [
        max(relative(a, b) for a, b in zip(full, low, strict=True)) <= PROMISE
        for full, low in zip(results["full"], results["low_rank"], strict=True)
    ]
    # the change of state is exact one step longer than the posterior
    assert same == [True] * (rank // (B * m)) + [False] * 2


def test_low_rank_of_rank_n_is_the_full_filter_for_ever() -> None:
    results = []
    for covariance in ("full", "low_rank"):
        model = linear(2)
        optimizer = EKF(
            model.parameters(),
            **covariance_of(covariance, 12),
            p0=0.5,
            process_noise=1e-3,
            noise="ema-1",
            dtype="float64",
        )
        drive(optimizer, model, Gaussian, values(30, 2, 2))
        results.append((flat(model), variances(optimizer)))
    assert relative(results[0][0], results[1][0]) <= PROMISE
    assert relative(results[0][1], results[1][1]) <= PROMISE


def state_after(covariance: str, steps: int = 4, rank: int = 3) -> tuple[Covariance, dict[str, Tensor], Tensor]:
    """A covariance with its tensors after some steps, and P as a matrix."""
    model = linear(3)
    optimizer = EKF(model.parameters(), **covariance_of(covariance, rank), p0=0.5, noise="identity", dtype="float64")
    drive(optimizer, model, Gaussian, values(steps, 2, 3))
    kept_state = optimizer._covariance.select(optimizer.filter)
    if covariance in ("low_rank", "buffered"):
        return optimizer._covariance, kept_state, torch.linalg.inv(precision_of(optimizer))
    blocks = [kept_state["p"].diag()] if covariance == "diagonal" else [b for P in kept_state.values() for b in P]
    return optimizer._covariance, kept_state, torch.block_diag(*blocks)


def matrix(covariance: Covariance, state: dict[str, Tensor]) -> Tensor:
    """P, from HPH' with the identity for H."""
    identity = torch.eye(covariance.n, dtype=torch.float64)
    return covariance.project(state, BlockJacobian([(slice(0, covariance.n), DenseBlock(identity))]))[0]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_projection_prediction_and_variance_are_those_of_the_matrix(covariance: str) -> None:
    """HPH', P + q I and diag P; for low-rank by Woodbury's identity against the dense inverse."""
    it, state, P = state_after(covariance)
    tolerance = rounding(400, condition=float(torch.linalg.cond(P)))
    assert relative(matrix(it, state), P) <= tolerance
    assert relative(it.variance(state), P.diagonal()) <= tolerance
    for q in (1e-3, 0.5, 100.0):
        predicted = it.predict(state, q)
        assert predicted.keys() == state.keys()
        assert relative(matrix(it, predicted), P + q * torch.eye(len(P), dtype=torch.float64)) <= tolerance
        assert relative(it.variance(predicted), P.diagonal() + q) <= tolerance
    assert relative(matrix(it, state), P) <= tolerance  # the state itself has not been touched
