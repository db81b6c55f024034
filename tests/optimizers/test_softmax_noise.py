"""Softmax noise where probabilities underflow, and after a long stream of one label."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch
from filtune.optimizers import EKF, Categorical, LoKO
from filtune.optimizers.kalman.filter import KalmanOptimizer
from torch import Tensor, nn

from tests.optimizers.models import covariance_of, drive, labels, mlp, relative, rounding, variances
from tests.optimizers.reference import flat


def optimizer_of(covariance: str, model: nn.Module, **options: object) -> KalmanOptimizer:
    """LoKO for the diagonal, EKF for the others."""
    options = {"noise": "softmax", "p0": 0.3, "p0_init": "constant", "dtype": "float64"} | options
    if covariance == "diagonal":
        return LoKO(model.parameters(), **options).attach(model)
    return EKF(model.parameters(), **covariance_of(covariance, 130), **options)


class Logits(nn.Module):
    """Outputs that are the parameters themselves."""

    def __init__(self, z: list[float], dtype: torch.dtype) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.tensor(z, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.z.expand(len(x), -1)


def exact(z: list[float], label: int, p0: float) -> tuple[list[float], list[float]]:
    """One step of the diagonal filter of three probabilities, in 1,000 digits: change of the logits, and variance.

    Two of the probabilities are observed, with the noise diag(y) - yy' of the two: the filter does not depend on
    which, nor on the basis. At logits of +-1e3 probabilities of e^-2000 are distinguished from zero, and R is
    still regular.
    """
    with localcontext() as context:
        context.prec = 1000
        powers = [Decimal(v).exp() for v in z]
        y = [power / sum(powers) for power in powers]
        H = [[y[i] * ((i == j) - y[j]) for j in range(3)] for i in range(2)]
        e, p = [(label == i) - y[i] for i in range(2)], Decimal(p0)
        S = [[sum(H[i][j] * p * H[k][j] for j in range(3)) + H[i][k] for k in range(2)] for i in range(2)]
        determinant = S[0][0] * S[1][1] - S[0][1] * S[1][0]
        inverse = [[S[1][1] / determinant, -S[0][1] / determinant], [-S[1][0] / determinant, S[0][0] / determinant]]
        K = [[sum(p * H[k][j] * inverse[k][i] for k in range(2)) for i in range(2)] for j in range(3)]
        change = [float(sum(K[j][i] * e[i] for i in range(2))) for j in range(3)]
        variance = [float(p - sum(K[j][i] * H[i][j] for i in range(2)) * p) for j in range(3)]
    return change, variance


SATURATED = [[50.0, -50.0, 0.0], [-50.0, -50.0, 50.0], [1e3, -1e3, 0.0], [0.0, 1e3, 1e3], [0.5, -1.0, 0.2]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("z", SATURATED, ids=str)
def test_it_is_right_where_probabilities_underflow(z: list[float], label: int, dtype: str) -> None:
    """R is singular in floating point, H and e vanish, and the step is that of exact arithmetic."""
    floating, p0 = torch.float64 if dtype == "float64" else torch.float32, 0.7
    expected, variance = (torch.tensor(v, dtype=torch.float64) for v in exact(z, label, p0))
    model = Logits([0.0, 0.0, 0.0], floating)
    optimizer = LoKO(model.parameters(), p0=p0, p0_init="constant", noise="softmax", dtype=dtype)
    # the logits themselves would swallow a change below their resolution: they are added outside of the state
    offset = torch.tensor(z, dtype=floating)
    drive(optimizer, model, lambda out: Categorical(out + offset), [(torch.zeros(1, 1), torch.tensor([label]))])
    # p in (0, p0), and F's entries within 1: a few tens of operations, each relative to numbers below 1
    tolerance = rounding(60, dtype=floating)
    assert (flat(model) - expected).abs().max() <= tolerance
    assert (optimizer.filter["p"].double() - variance).abs().max() <= tolerance
    assert [int(optimizer.filter[name]) for name in ("nonfinite_steps", "cholesky_retries", "clamped")] == [0, 0, 0]


@pytest.mark.parametrize("covariance", ["diagonal", "full", "block_per_neuron", "low_rank", "buffered"])
@pytest.mark.parametrize("scale", [50.0, 1e4])
def test_saturated_float32_follows_float64(scale: float, covariance: str) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        model = nn.Linear(5, 4).to(dtype)
        nn.init.constant_(model.weight, 0.0)
        model.bias.data = torch.tensor([scale, -scale, 0.0, -scale], dtype=dtype)
        prior = flat(model)
        optimizer = optimizer_of(covariance, model, dtype=str(dtype).split(".")[1])
        for x, y in labels(6, 2, 4):
            drive(optimizer, model, Categorical, [(x.to(dtype), y)])
        assert int(optimizer.filter["nonfinite_steps"]) == 0
        results.append(((flat(model) - prior)[:20], variances(optimizer)))
    single, double = results
    assert float(double[0].abs().max()) > 0.1  # contradicting labels move it
    # logits of size scale carry an error of scale * u into the softmax; six steps of some 100 operations
    tolerance = rounding(6 * 100, dtype=torch.float32) * max(1, scale / 50)
    assert relative(single[0], double[0]) <= tolerance
    assert relative(single[1], double[1]) <= tolerance


def after_one_label(noise: str, dtype: str, m: int) -> tuple[float, int]:
    """Size of the first contradiction's move, and the contradictions it takes to turn, after 300 times one label."""
    floating = torch.float64 if dtype == "float64" else torch.float32
    model = mlp(m).to(floating)
    optimizer = LoKO(model.parameters(), p0=1.0, p0_init="constant", noise=noise, dtype=dtype).attach(model)
    x = torch.ones(1, 5, dtype=floating)
    drive(optimizer, model, Categorical, [(x, torch.tensor([0]))] * 300)
    before = flat(model)
    drive(optimizer, model, Categorical, [(x, torch.tensor([1]))])
    moved, steps = float((flat(model) - before).norm()), 1
    while int(model(x).argmax()) != 1 and steps < 30:
        drive(optimizer, model, Categorical, [(x, torch.tensor([1]))])
        steps += 1
    assert int(optimizer.filter["nonfinite_steps"]) == 0
    return moved, steps


@pytest.mark.parametrize(("m", "dtype"), [(2, "float32"), (4, "float64")])
def test_it_turns_round_after_a_long_stream_of_one_label(m: int, dtype: str) -> None:
    moved, steps = after_one_label("softmax", dtype, m)
    assert moved > 0.1
    assert steps < 10
