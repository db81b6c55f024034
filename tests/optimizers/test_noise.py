"""Every observation noise is its equation written out, and none of them ever spoils the filter."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from filtune.optimizers import EKF, Categorical, LoKO
from filtune.optimizers.kalman.noise import ObservationNoise
from filtune.optimizers.kalman.noise.estimated import EmaInnovation
from filtune.optimizers.kalman.state import DTYPES
from torch import Tensor, nn

from tests.optimizers.models import (
    COVARIANCES,
    covariance_of,
    drive,
    labels,
    likelihood_of,
    mlp,
    relative,
    rounding,
    stream_of,
    variances,
)
from tests.optimizers.reference import DenseFilter, flat, ones_complement

BETA, R0 = 0.8, 0.3
NOISES = ObservationNoise.registry
ESTIMATED = [name for name, noise in NOISES.items() if not noise.from_likelihood]
FORGETS = ["ema-1", "ema-2", "ema_innovation", "scalar"]
Batch = tuple[Tensor, Tensor]


def noise_of(name: str) -> ObservationNoise:
    """A noise with R0 and, where it has one, BETA."""
    given = {"r0": R0, "beta": BETA}
    return NOISES[name](**{option: given[option] for option in NOISES[name].options()})


def batches(steps: int, B: int, d: int, seed: int = 0) -> list[Batch]:
    """Random residuals (B, d) and HPH' (B*d, B*d), positive definite."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(steps):
        H = torch.randn(B * d, B * d + 2, generator=generator, dtype=torch.float64)
        made.append((torch.randn(B, d, generator=generator, dtype=torch.float64), H @ H.T))
    return made


def average(past: list[Batch], sign: int) -> Tensor:
    """beta^k r0 I + (1 - beta) sum_j beta^(k - j) mean_b (ee' + sign HPH'), the unrolled eqs. 7 (sign 0) and 12 (1)."""
    k, d = len(past), past[0][0].shape[1]
    R = BETA**k * R0 * torch.eye(d, dtype=torch.float64)
    for j, (e, HPH) in enumerate(past, start=1):
        B = len(e)
        for b in range(B):
            own = slice(b * d, (b + 1) * d)
            R += (1 - BETA) * BETA ** (k - j) / B * (torch.outer(e[b], e[b]) + sign * HPH[own, own])
    return R


def projected(past: list[Batch]) -> Tensor:
    """The difference's average with its eigenvalues raised to the floor times the mean of the sum's diagonal."""
    values, vectors = torch.linalg.eigh(average(past, -1))
    floor = EmaInnovation.FLOOR * average(past, +1).diagonal().mean()
    return vectors @ torch.diag(torch.maximum(values, floor)) @ vectors.T


def written_out(name: str, past: list[Batch]) -> Tensor:
    """R at the last of these steps."""
    identity = torch.eye(past[0][0].shape[1], dtype=torch.float64)
    return {
        "identity": lambda: R0 * identity,
        "annealed": lambda: R0 * math.exp(-len(past) / 50) * identity,
        "ema-1": lambda: average(past, 0),
        "ema-2": lambda: average(past, 1),
        "ema_innovation": lambda: projected(past),
        "scalar": lambda: average(past, 0).diagonal().mean() * identity,
    }[name]()


@pytest.mark.parametrize(("B", "d"), [(1, 1), (1, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize("name", ESTIMATED)
def test_it_is_its_equation(name: str, B: int, d: int) -> None:
    noise, past = noise_of(name), batches(12, B, d)
    state = noise.start(d, past[0][0])
    assert torch.equal(state["R"], R0 * torch.eye(d, dtype=torch.float64))
    for k, (e, HPH) in enumerate(past, start=1):
        R, state = noise.update(state, e, HPH)
        # about B + 4 operations a step; eigh is backward stable and loses a small multiple of d
        assert relative(R, written_out(name, past[:k])) <= rounding(k * (B + 4) + 40 * d)


@pytest.mark.parametrize("B", [1, 3])
def test_ema_minus_remembers_the_plain_average_and_uses_a_positive_definite_one(B: int) -> None:
    noise, past, lowest = noise_of("ema_innovation"), batches(12, B, 3), []
    state = noise.start(3, past[0][0])
    for k, (e, HPH) in enumerate(past, start=1):
        R, state = noise.update(state, e, HPH)
        assert relative(state["R"], average(past[:k], -1)) <= rounding(12 * (B + 4), condition=10)
        floor = EmaInnovation.FLOOR * float(average(past[:k], +1).diagonal().mean())
        assert float(torch.linalg.eigvalsh(R)[0]) >= floor * (1 - 1e-9)
        lowest.append(float(torch.linalg.eigvalsh(state["R"])[0]))
    assert min(lowest) < 0


def test_ema_minus_uses_what_it_remembers_where_that_is_positive_definite() -> None:
    noise, e = noise_of("ema_innovation"), 3 * torch.eye(3, dtype=torch.float64)
    R, state = noise.update(noise.start(3, e), e, 0.1 * torch.eye(9, dtype=torch.float64))
    assert relative(R, state["R"]) <= rounding(40)
    assert relative(R, (BETA * R0 + (1 - BETA) * (3 - 0.1)) * torch.eye(3).double()) <= rounding(40)


SEEN = [("probabilities", 4), ("logits", 3), ("values", 2)]


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize(("observed", "m"), SEEN)
@pytest.mark.parametrize("name", ESTIMATED)
def test_the_filter_uses_it_before_the_gain(name: str, observed: str, m: int, B: int) -> None:
    """LoKO equals the dense filter whose R of step k has seen the residual of step k, and not yet moved theta.

    With p0 = 4 the difference ee' - HPH' is negative, so that ema-minus is at its floor.
    """
    model, past = mlp(m), []

    def estimate(e: Tensor, own: Tensor) -> Tensor:
        past.append((e, torch.block_diag(*own)))
        return written_out(name, past)

    options = {"noise": name, "r0": R0, "dtype": "float64"} | ({"beta": BETA} if name in FORGETS else {})
    if observed == "logits":
        options["observation"] = "logits"
    optimizer = LoKO(model.parameters(), p0=4.0, **options)
    dense = DenseFilter(flat(model), torch.diag(optimizer.filter["p"]), torch.eye(1).double(), noise=estimate)
    basis = ones_complement(m)
    if observed == "probabilities":  # the optimizer's own: entries of R differ from basis to basis, its use does not
        basis = Categorical(torch.zeros(1, m, dtype=torch.float64))._basis()
    for x, y in stream_of(observed, 4, B, m):
        drive(optimizer, model, likelihood_of(observed), [(x, y)])
        dense.observe(observed, model, x, y, basis)
    assert relative(flat(model), dense.theta) <= 1e-10
    assert relative(optimizer.filter["p"], dense.p) <= 1e-10
    assert float(optimizer.stats["noise_trace"]) == pytest.approx(float(dense.R.trace()), rel=1e-10)


def test_softmax_noise_remembers_nothing_and_is_the_trace_of_the_covariance() -> None:
    model, (x, y) = mlp(4), labels(1, 3, 4)[0]
    optimizer = LoKO(model.parameters(), noise="softmax", dtype="float64")
    p = model(x).detach().softmax(-1)
    drive(optimizer, model, Categorical, [(x, y)])
    assert "R" not in optimizer.filter
    expected = float((1 - p.square().sum(-1)).mean())  # the trace of diag(p) - pp'
    assert float(optimizer.stats["noise_trace"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", FORGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_r0_may_be_zero_where_it_is_forgotten(name: str, dtype: str) -> None:
    model = mlp(4)
    optimizer = LoKO(model.parameters(), noise=name, r0=0.0, dtype=dtype)
    before = flat(model)
    drive(optimizer, model, Categorical, labels(20, 1, 4))
    assert not torch.equal(flat(model), before)
    assert [int(optimizer.filter[counter]) for counter in ("nonfinite_steps", "cholesky_retries")] == [0, 0]
    assert float(optimizer.filter["p"].min()) > 0


@pytest.mark.parametrize("name", ["identity", "annealed"])
def test_r0_may_not_be_zero_where_it_is_the_noise(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^LoKO: r0 must be positive and finite, .*, with noise {name}; got 0.0"):
        LoKO(mlp(3).parameters(), noise=name, r0=0.0)


@pytest.mark.parametrize("r0", [1.0, 1e-20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_annealed_noise_stops_at_the_smallest_normal_number(dtype: torch.dtype, r0: float) -> None:
    noise, e = NOISES["annealed"](r0=r0), torch.zeros(1, 2, dtype=dtype)
    state, last = noise.start(2, e), math.inf
    for _ in range(100):
        R, state = noise.update(state, e, e)
        assert torch.equal(R, R[0, 0] * torch.eye(2, dtype=dtype))
        assert float(R[0, 0]) < last
        last = float(R[0, 0])
    state["k"] += 100_000
    R, state = noise.update(state, e, e)
    assert torch.equal(R, torch.finfo(dtype).tiny * torch.eye(2, dtype=dtype))


@pytest.mark.parametrize("covariance", ["diagonal", "full", "block_per_neuron"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_filter_goes_on_after_ten_thousand_annealed_steps(covariance: str, dtype: str) -> None:
    """The variance falls to the resolution of floating point, and stays there."""
    model = mlp(3)
    optimizer = EKF(model.parameters(), noise="annealed", **covariance_of(covariance), dtype=dtype)
    drive(optimizer, model, Categorical, labels(10, 1, 3))
    optimizer.filter["k"] += 10_000
    drive(optimizer, model, Categorical, labels(30, 1, 3, seed=2))
    assert int(optimizer.filter["nonfinite_steps"]) == 0
    assert float(torch.cat([p.flatten() for p in optimizer.variance()]).min()) > 0
    assert bool(flat(model).isfinite().all())


STREAMS = [case for case in product(NOISES, SEEN) if not (NOISES[case[0]].from_likelihood and case[1][0] == "logits")]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_random_streams_keep_the_variance_positive_and_everything_finite(covariance: str) -> None:
    """Features from 0.01 to 30, prior variances from 0.001 to 10, one or two samples a step."""
    for seed, (name, (observed, m)) in enumerate(STREAMS):
        scale, p0, double = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
        dtype = "float64" if double < 0.3 else "float32"
        model = nn.Linear(5, m).to(DTYPES[dtype])
        observation = "logits" if observed == "logits" else "probabilities"
        options = {"noise": name, **covariance_of(covariance, 4), "observation": observation, "dtype": dtype}
        optimizer = EKF(model.parameters(), p0=10 ** (4 * p0 - 3), **options)
        stream = stream_of(observed, 8, 1 + seed % 2, m, seed)
        scaled = [(10 ** (3.5 * scale - 2) * x.to(model.weight.dtype), y) for x, y in stream]
        drive(optimizer, model, likelihood_of(observed), scaled)
        p = variances(optimizer)
        assert int(optimizer.filter["nonfinite_steps"]) == 0, (seed, options)
        assert bool((p > 0).all() & p.isfinite().all()), (seed, options)
        assert bool(flat(model).isfinite().all()), (seed, options)
