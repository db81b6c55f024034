"""The buffered precision is exact until it compresses, and keeps its diagonal for ever."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import EKF, Gaussian
from filtune.optimizers.kalman.covariance import low_rank
from filtune.optimizers.kalman.filter import KalmanOptimizer
from torch import Tensor, nn
from torch.func import jacrev

from tests.optimizers.models import drive, linear, mlp, relative, rounding, values, variances
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


@pytest.mark.parametrize("chunk", [7, low_rank.CHUNK])
@pytest.mark.parametrize("keep", [0, 1, 2])
@pytest.mark.parametrize("B", [1, 3])
def test_the_step_is_exact_and_the_diagonal_of_the_precision_stays_so(
    B: int, keep: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through compressions, of a few columns at a time too, some of a sample's information in the diagonal alone."""
    monkeypatch.setattr(low_rank, "CHUNK", chunk)
    model, r = mlp(3), 0.4
    optimizer = buffered(model, rows_per_sample=keep)
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


def test_a_compression_keeps_the_leading_directions_in_the_metric_of_the_diagonal() -> None:
    """The best approximation of D^1/2 V'V D^1/2 of that rank, by the singular value decomposition."""
    model = mlp(2)
    optimizer, stream = buffered(model, rank=3, buffer_size=4), values(4, 2, 2)
    drive(optimizer, model, Gaussian, stream[:1])
    V, D = optimizer.filter["V"][:4].clone(), 1 / optimizer.filter["precision"]
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
