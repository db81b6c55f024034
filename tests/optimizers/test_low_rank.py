"""LoFi is the full filter but for what it drops, and every covariance's algebra is that of its matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, Gaussian
from filtune.optimizers.kalman.blocks import BlockJacobian, DenseBlock
from filtune.optimizers.kalman.covariance import Covariance, low_rank
from filtune.optimizers.kalman.filter import KalmanOptimizer
from torch import Tensor, nn
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


def precision_of(optimizer: KalmanOptimizer, pending: bool = False) -> Tensor:
    """P^-1, (n, n), and what waits to go into its diagonal."""
    state = optimizer.filter
    whole = torch.diag(state["precision"]) + state["V"].T @ state["V"]
    return whole + torch.diag(state["pending"]) if pending and "pending" in state else whole


def buffered(model: nn.Module, **options: object) -> EKF:
    options = {"rank": 3, "buffer_size": 5, "p0": 0.5, "noise": "identity", "r0": 0.4, "dtype": "float64"} | options
    return EKF(model.parameters(), covariance="low_rank", **options)


@pytest.mark.parametrize(
    ("chunk", "options"),
    [
        *((chunk, {"rows_per_sample": keep}) for chunk in (60, low_rank.CHUNK) for keep in (0, 1, 2)),
        *((low_rank.CHUNK, {"buffer_size": 0, "rank": rank}) for rank in (1, 3, 8)),
    ],
)
@pytest.mark.parametrize("B", [1, 3])
def test_the_step_is_exact_and_the_diagonal_of_the_precision_stays_so(
    B: int, chunk: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through compressions, of a few columns at a time too, some of a sample's information in the diagonal alone."""
    monkeypatch.setattr(low_rank, "CHUNK", chunk)
    model, r = mlp(3), 0.4
    optimizer = buffered(model, **options)
    exact = torch.full((len(flat(model)),), 2.0, dtype=torch.float64)
    for x, y in values(12, B, 3):
        prior, before = precision_of(optimizer), flat(model)
        H = jacrev(outputs_of(model, x))(before).flatten(0, 1)
        e = (y - outputs_of(model, x)(before)).detach().flatten()
        drive(optimizer, model, Gaussian, [(x, y)])
        posterior = prior + H.T @ H / r
        tolerance = rounding(2000, condition=float(torch.linalg.cond(posterior)))
        assert relative(flat(model) - before, torch.linalg.solve(posterior, H.T @ e / r)) <= tolerance
        exact += H.square().sum(0) / r
        assert relative(precision_of(optimizer, pending=True).diagonal(), exact) <= rounding(4000)
        assert relative(variances(optimizer), torch.linalg.inv(precision_of(optimizer)).diagonal()) <= tolerance
        gram = optimizer.filter["V"] / optimizer.filter["precision"] @ optimizer.filter["V"].T
        assert relative(optimizer.filter["gram"], gram) <= rounding(4000)


@pytest.mark.parametrize("buffer_size", [4, 0])
def test_a_compression_keeps_the_leading_directions(buffer_size: int) -> None:
    """The best approximation of that rank by the singular value decomposition: of D^1/2 V'V D^1/2; LoFi's, of V'V."""
    model = mlp(2)
    optimizer, stream = buffered(model, rank=3, buffer_size=buffer_size), values(4, 2, 2)
    drive(optimizer, model, Gaussian, stream[:1])
    V = optimizer.filter["V"][: int(optimizer.filter["filled"])].clone()
    D = 1 / optimizer.filter["precision"] if buffer_size else torch.ones(V.shape[1], dtype=V.dtype)
    x = stream[1][0]
    H = jacrev(outputs_of(model, x))(flat(model)).flatten(0, 1)
    drive(optimizer, model, Gaussian, stream[1:2])
    assert int(optimizer.filter["filled"]) == 3
    _, S, right = torch.linalg.svd(torch.cat([V, H / 0.4**0.5]) * D.sqrt(), full_matrices=False)
    best = right[:3].T @ torch.diag(S[:3].square()) @ right[:3]
    kept = optimizer.filter["V"][:3] * D.sqrt()
    assert relative(kept.T @ kept, best) <= PROMISE
    assert not optimizer.filter["V"][3:].any()


def test_a_sample_adds_its_leading_directions() -> None:
    """Those of D^1/2 H'Z', and the diagonal of the others waits."""
    model = mlp(4)
    optimizer, (x, y) = buffered(model, rows_per_sample=2), values(1, 1, 4)[0]
    H = jacrev(outputs_of(model, x))(flat(model)).flatten(0, 1) / 0.4**0.5
    drive(optimizer, model, Gaussian, [(x, y)])
    _, S, right = torch.linalg.svd(H, full_matrices=False)
    rest = right[2:].T @ torch.diag(S[2:].square()) @ right[2:]
    assert int(optimizer.filter["filled"]) == 2
    V = optimizer.filter["V"][:2]
    assert relative(V.T @ V, H.T @ H - rest) <= PROMISE
    assert relative(optimizer.filter["pending"], rest.diagonal()) <= PROMISE


@pytest.mark.parametrize("B", [1, 2])
def test_a_linear_model_is_ridge_regression(B: int) -> None:
    """With every direction kept, through compressions that leave out nothing but zeros."""
    model, stream, r = linear(1), values(30, B, 1), 0.3
    theta = flat(model)
    optimizer = buffered(model, rank=len(theta), buffer_size=2, r0=r)
    X = torch.cat([jacrev(outputs_of(model, x))(theta)[:, 0] for x, _ in stream])
    y = torch.cat([y for _, y in stream])[:, 0]
    drive(optimizer, model, Gaussian, stream)
    precision = 2 * torch.eye(len(theta), dtype=torch.float64) + X.T @ X / r
    mean = torch.linalg.solve(precision, 2 * theta + X.T @ y / r)
    tolerance = rounding(60 * 40, condition=float(torch.linalg.cond(precision)) * 100)
    assert tolerance < 1e-9
    assert relative(flat(model), mean) <= tolerance
    assert relative(precision_of(optimizer), precision) <= tolerance


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
