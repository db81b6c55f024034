"""Rows left out with softmax noise cost no more than the bound that is reported.

With P the prior covariance, J the Jacobian of the coordinates, A = JPJ' and E = F - F_k the part of F left out, let
G = P^1/2 J', M = I + GFG' and M_k = I + GF_kG'. In the prior's metric the changes of state are M^-1 Ge and M_k^-1 Ge,
and the posteriors M^-1 and M_k^-1. From M_k^-1 - M^-1 = M_k^-1 (GEG') M^-1 and M, M_k >= I:

    |change_k - change| <= lambda |change|,   |M_k^-1 - M^-1| <= lambda,   lambda = lambda_max(GEG'),

and lambda is the largest eigenvalue of A^1/2 E A^1/2 too, which its trace tr(EA) bounds.
"""

from __future__ import annotations

import copy
from itertools import product
from typing import NamedTuple

import pytest
import torch
from filtune.optimizers import Categorical, LoKO
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.noise.base import ObservationNoise
from filtune.optimizers.kalman.noise.fixed import LikelihoodCovariance
from torch import Tensor, nn
from torch.func import jacrev

from tests.optimizers.models import FEATURES, covariance_of, drive, labels, mlp, relative, variances
from tests.optimizers.reference import flat, ones_complement, outputs_of

P0 = 0.3


def confident(m: int, sharpness: float, seed: int = 0) -> nn.Module:
    """A classifier whose head has large weights, float64."""
    model = mlp(m, seed)
    with torch.no_grad():
        for p in model[2].parameters():
            p.mul_(sharpness)
    return model


def filter_of(model: nn.Module, tolerance: float, covariance: str = "full", dtype: str = "float64") -> KalmanOptimizer:
    """Softmax noise, P = P0 I."""
    options = {**covariance_of(covariance, 130), "rank_tolerance": tolerance, "dtype": dtype}
    return KalmanOptimizer(model.parameters(), P0, noise="softmax", **options)


class Dense(NamedTuple):
    """A step worked out with matrices, whole and with F_k: the changes of state, the posteriors, and E and A."""

    change: Tensor
    reduced_change: Tensor
    P: Tensor
    reduced_P: Tensor
    E: Tensor
    A: Tensor
    k: int

    @property
    def bound(self) -> float:
        """The largest eigenvalue of EA, which is that of A^1/2 E A^1/2."""
        return float(torch.linalg.eigvals(self.E @ self.A).real.max())


def dense(model: nn.Module, x: Tensor, y: Tensor, tolerance: float) -> Dense:
    """In information form: P^-1 + J'FJ, and J'e; the cut is the same number of directions in every sample."""
    m, B = len(model[2].bias), len(x)
    U, theta = ones_complement(m), flat(model)
    J = jacrev(lambda t: outputs_of(model, x)(t) @ U)(theta).flatten(0, 1)
    p = model(x).detach().softmax(-1)
    e = ((torch.nn.functional.one_hot(y, m) - p) @ U).flatten()
    own = [U.T @ (torch.diag(row) - torch.outer(row, row)) @ U for row in p]
    spectra = [torch.linalg.eigvalsh(F).flip(0).clamp_min(0) for F in own]
    k = next(k for k in range(1, m) if all(float(v[k:].sum()) <= tolerance for v in spectra))
    cut = []
    for F in own:
        values, vectors = torch.linalg.eigh(F)
        cut.append(vectors[:, -k:] @ torch.diag(values[-k:]) @ vectors[:, -k:].T)
    F, F_k = torch.block_diag(*own), torch.block_diag(*cut)
    prior = torch.eye(len(theta), dtype=torch.float64) / P0
    P, reduced = (torch.linalg.inv(prior + J.T @ it @ J) for it in (F, F_k))
    assert J.shape == (B * (m - 1), len(theta))
    return Dense(P @ J.T @ e, reduced @ J.T @ e, P, reduced, F - F_k, P0 * J @ J.T, k)


CASES = list(product([6, 10], [1, 3], [0.3, 0.05, 1e-3]))


@pytest.mark.parametrize(("m", "B", "tolerance"), CASES)
def test_the_update_is_the_dense_one_with_the_leading_directions_and_keeps_its_bound(
    m: int, B: int, tolerance: float
) -> None:
    model, (x, y) = confident(m, 6.0), labels(1, B, m)[0]
    expected, before = dense(model, x, y, tolerance), flat(model)
    optimizer = filter_of(model, tolerance)
    drive(optimizer, model, Categorical, [(x, y)])
    change, P = flat(model) - before, optimizer.filter["P0"][0]
    if expected.k + 2 < m - 1:
        assert relative(change, expected.reduced_change) <= 1e-11
        assert relative(P, expected.reduced_P) <= 1e-11
        assert int(optimizer.stats["rows"]) == B * (expected.k + 2)
        # P = P0 I: the prior's metric is Euclid's, divided by P0
        lost = float(torch.linalg.matrix_norm(P - expected.P, ord=2)) / P0
        trace = float(torch.trace(expected.E @ expected.A))
        assert 0 < float((change - expected.change).norm()) <= expected.bound * float(expected.change.norm())
        assert 0 < lost <= expected.bound * (1 + 1e-9)
        assert expected.bound <= trace * (1 + 1e-9)
    else:  # no fewer rows than all: nothing is cut
        assert "rows" not in optimizer.stats
        assert relative(P, expected.P) <= 1e-11
        assert relative(change, expected.change) <= 1e-11


@pytest.mark.parametrize("covariance", ["diagonal", "full", "block_per_neuron", "low_rank"])
def test_a_tiny_tolerance_changes_nothing(covariance: str) -> None:
    """Nothing is dropped: the same update through other coordinates."""
    results = []
    for tolerance in (0.0, 1e-14):
        model = confident(10, 1.0)
        optimizer = filter_of(model, tolerance, covariance)
        drive(optimizer, model, Categorical, labels(4, 2, 10))
        assert "rows" not in optimizer.stats
        results.append((flat(model), variances(optimizer)))
    assert relative(results[0][0], results[1][0]) <= 1e-11
    assert relative(results[0][1], results[1][1]) <= 1e-11


@pytest.mark.parametrize("covariance", ["diagonal", "block_per_neuron", "low_rank"])
def test_every_covariance_makes_the_same_first_move(covariance: str) -> None:
    """From P = P0 I all make the full filter's move, and their variance is the diagonal of its posterior."""
    model, (x, y) = confident(10, 6.0), labels(1, 2, 10)[0]
    expected, before = dense(model, x, y, 0.05), flat(model)
    optimizer = filter_of(model, 0.05, covariance)
    drive(optimizer, model, Categorical, [(x, y)])
    assert int(optimizer.stats["rows"]) == 2 * (expected.k + 2)
    assert relative(flat(model) - before, expected.reduced_change) <= 1e-11
    p = variances(optimizer)
    assert relative(p, expected.reduced_P.diagonal()) <= 1e-11


@pytest.mark.parametrize("B", [1, 2])
def test_the_reported_error_averages_to_the_trace_over_all_signs(B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """x'JPJ'x over the 2^j sign patterns of the j directions left out has the mean tr(EA), exactly."""
    m, tolerance = 6, 0.1
    x, y = labels(1, B, m, seed=3)[0]
    expected = dense(confident(m, 8.0), x, y, tolerance)
    left_out = m - 1 - expected.k
    assert left_out in (3, 4)
    errors = []
    for pattern in product([0, 1], repeat=left_out * B):
        signs = torch.tensor(pattern).view(B, left_out)
        monkeypatch.setattr(torch, "randint", lambda *args, signs=signs, **kwargs: signs)
        model = confident(m, 8.0)
        optimizer = filter_of(model, tolerance, "diagonal")
        drive(optimizer, model, Categorical, [(x, y)])
        errors.append(float(optimizer.stats["row_error"]))
    assert max(errors) > 1.1 * min(errors)
    assert sum(errors) / len(errors) == pytest.approx(float(torch.trace(expected.E @ expected.A)), rel=1e-10)


def test_as_many_rows_are_cut_as_the_tolerance_allows_and_none_where_that_saves_none() -> None:
    """For every k a tolerance between what k - 1 and k directions leave out: k + 2 rows, while fewer than d."""
    m, (x, y) = 8, labels(1, 1, 8)[0]
    p = confident(m, 4.0)(x).detach().softmax(-1)[0]
    U = ones_complement(m)
    spectrum = torch.linalg.eigvalsh(U.T @ (torch.diag(p) - torch.outer(p, p)) @ U)
    left_out = spectrum.cumsum(0).flip(0).tolist()  # by 0, 1, ... directions
    for k in range(1, m - 1):
        model = confident(m, 4.0)
        optimizer = filter_of(model, (left_out[k - 1] + left_out[k]) / 2, "diagonal")
        drive(optimizer, model, Categorical, [(x, y)])
        assert int(optimizer.stats.get("rows", m - 1)) == min(k + 2, m - 1), k


def test_rows_fall_as_the_model_becomes_confident() -> None:
    rows = []
    for sharpness in (1.0, 3.0, 10.0, 30.0, 300.0):
        model = confident(20, sharpness)
        optimizer = filter_of(model, 0.02, "diagonal")
        drive(optimizer, model, Categorical, labels(1, 1, 20))
        rows.append(int(optimizer.stats.get("rows", 19)))
    assert rows[0] == 19
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == 3  # one direction, the residual, the probe


def first_moves(model: nn.Module, m: int, p0: float, seed: int) -> tuple[Tensor, Tensor, KalmanOptimizer]:
    """The first change of state with all rows and with 1e-2 of F's trace left out, and the second's optimizer."""
    (x, y), changes, before = labels(1, 1, m, seed)[0], [], copy.deepcopy(model.state_dict())
    prior = flat(model)
    for tolerance in (0.0, 1e-2):
        model.load_state_dict(before)
        optimizer = LoKO(model.parameters(), p0, "constant", noise="softmax", rank_tolerance=tolerance, dtype="float64")
        drive(optimizer, model, Categorical, [(x, y)])
        changes.append(flat(model) - prior)
    return changes[0], changes[1], optimizer


@pytest.mark.parametrize("m", [10, 100])
def test_a_confident_classifier_loses_little(m: int) -> None:
    """A linear head sure of its label, the prior variance 0.01 of a head: 4e-4 of the update in the median.

    lambda is within tr(E) lambda_max(A), here 1e-2 * 0.01 (|x|^2 + 1).
    """
    rows, errors = [], []
    for seed in range(10):
        torch.manual_seed(seed)
        model = nn.Linear(FEATURES, m).double()
        with torch.no_grad():
            model.weight.mul_(12)
        whole, cut, optimizer = first_moves(model, m, 1e-2, seed)
        (x, _) = labels(1, 1, m, seed)[0]
        errors.append(float((cut - whole).norm() / whole.norm()))
        assert errors[-1] <= 1e-2 * 1e-2 * float(x.square().sum() + 1)
        rows.append(int(optimizer.stats.get("rows", m - 1)))
    assert sorted(errors)[5] <= 4e-4
    assert sum(rows) / len(rows) < 0.6 * (m - 1)


def test_float32_follows_float64() -> None:
    results = []
    for dtype in ("float32", "float64"):
        model = confident(10, 6.0)
        optimizer = filter_of(model, 0.05, "diagonal", dtype)
        drive(optimizer, model, Categorical, labels(5, 2, 10))
        results.append(variances(optimizer))
    assert relative(*results) <= 1e-4


def test_a_noise_of_ones_own_may_leave_out_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is that its covariance is the likelihood's, not its name."""
    monkeypatch.setattr(ObservationNoise, "registry", dict(ObservationNoise.registry))

    class Own(LikelihoodCovariance):
        name = "own"

    models = [confident(4, 1.0) for _ in range(2)]
    for model, noise in zip(models, ("own", "softmax"), strict=True):
        torch.manual_seed(0)  # the probe's signs
        optimizer = KalmanOptimizer(model.parameters(), P0, noise=noise, rank_tolerance=0.1, covariance="diagonal")
        drive(optimizer, model, Categorical, labels(3, 2, 4))
    assert torch.equal(flat(models[0]), flat(models[1]))
    with pytest.raises(ValueError, match="rank_tolerance needs noise softmax, own: .*; got identity"):
        KalmanOptimizer(models[0].parameters(), P0, noise="identity", rank_tolerance=0.1)
