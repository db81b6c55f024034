"""A filter that diverges leaves its state alone where it can, counts, and says at which step and what to change."""

from __future__ import annotations

import copy
import io
from itertools import product
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, Filtune, Gaussian
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.noise import ObservationNoise
from torch import nn

from tests.optimizers.models import COVARIANCES, FEATURES, covariance_of, drive, labels, linear, mlp, values
from tests.optimizers.reference import flat

NAN, INF = float("nan"), float("inf")
BOOKKEEPING = ("steps", "failed_at", "nonfinite_steps", "exploded")
APPENDED = ("filled",)
"""A step that is not taken appends rows of zeros to a buffered precision: only the device knows that it is not."""
NOISES = [*ObservationNoise.registry, "mode"]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"process_noise": 0.01},
    {"rho": 0.1},
    {"rho": 1e-3, "neumann": True},
    {"observation": "logits"},
    {"rank_tolerance": 0.3},
]


def filter_of(model: nn.Module, p0: float = 0.2, **options: Any) -> KalmanOptimizer:
    """A filter with constant prior variance."""
    return KalmanOptimizer(model.parameters(), p0, "constant", **options)


def noise_of(name: str) -> dict[str, Any]:
    """Options for a noise, or for the posterior mode."""
    return {"update": "posterior_mode"} if name == "mode" else {"noise": name}


def allowed(options: dict[str, Any]) -> bool:
    """Whether the options go together."""
    try:
        filter_of(mlp(2), **options)
    except ValueError:
        return False
    return True


COMBINATIONS = [
    (noise, variant, likelihood)
    for noise, variant, likelihood in product(NOISES, VARIANTS, (Categorical, Gaussian))
    if allowed({**noise_of(noise), **variant}) and not (likelihood is Gaussian and "rank_tolerance" in variant)
]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_what_is_not_finite_changes_nothing_whatever_the_settings(covariance: str) -> None:
    """One bad feature in a batch of two; of six classes, for eigh refuses matrices of NaN from three rows on."""
    for i, (noise, variant, likelihood) in enumerate(COMBINATIONS):
        bad, dtype, warm = (NAN, INF, -INF)[i % 3], ("float32", "float64")[i // 3 % 2], i // 6 % 2
        model = mlp(6)
        optimizer = filter_of(model, **noise_of(noise), **covariance_of(covariance, 4), dtype=dtype, **variant)
        stream = (labels if likelihood is Categorical else values)(warm + 2, 2, 6)
        drive(optimizer, model, likelihood, stream[:warm])
        theta, state = flat(model), {name: value.clone() for name, value in optimizer.filter.items()}
        x, y = stream[warm]
        drive(optimizer, model, likelihood, [(torch.where(torch.arange(2 * FEATURES).view(2, -1) == 1, bad, x), y)])
        case = (noise, variant, likelihood.__name__, bad, warm)
        assert torch.equal(flat(model), theta), case
        assert (int(optimizer.filter["nonfinite_steps"]), int(optimizer.filter["failed_at"])) == (1, warm + 1), case
        for name, value in state.items():
            assert name in BOOKKEEPING + APPENDED or torch.equal(optimizer.filter[name], value), (case, name)
        drive(optimizer, model, likelihood, stream[warm + 1 :])  # and it goes on
        assert int(optimizer.filter["nonfinite_steps"]) == 1, case
        assert not torch.equal(flat(model), theta), case


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_bad_target_leaves_no_trace_either(bad: float) -> None:
    model, stream = mlp(2), values(6, 1, 2)
    optimizer = filter_of(model)
    x, y = stream[2]
    drive(optimizer, model, Gaussian, [*stream[:2], (x, y * bad), *stream[3:]])
    assert int(optimizer.filter["nonfinite_steps"]) == 1
    assert all(bool(value.isfinite().all()) for value in optimizer.filter.values())
    message = optimizer.check_divergence()
    assert message is not None
    assert "at step 3" in message
    assert "1 non-finite" in message


def test_the_first_failure_is_the_one_that_is_named() -> None:
    model, stream = mlp(3), labels(9, 1, 3)
    optimizer = filter_of(model)
    assert optimizer.check_divergence() is None
    drive(optimizer, model, Categorical, [(x * NAN if k in (3, 6) else x, y) for k, (x, y) in enumerate(stream)])
    message = optimizer.check_divergence()
    assert message is not None
    assert message.startswith("the filter diverged at step 4: an update was not finite (0 exploding innovations, 2 ")
    assert "--optimizer.p0" in message
    assert "\n" not in message


def relu_net(seed: int = 0) -> nn.Module:
    """5 -> 8 -> 2 with ReLU, float64: its outputs are not bounded by its head."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).double()


def test_an_exploding_innovation_is_counted_and_named() -> None:
    """Values of size 100 with noise 1 and a prior variance of 2: the filter overshoots by the curvature of the net.

    An innovation counts where it is ``explode`` times the mean size of all targets so far, and the state is not spared:
    the update is a valid one.
    """
    model, explode, exploded, seen = relu_net(), 10.0, [], []
    optimizer = filter_of(model, p0=2.0, noise="identity", divergence_threshold=explode)
    for k, (x, y) in enumerate(values(40, 1, 2), start=1):
        seen.append(float((100 * y).norm()))
        before = flat(model)
        drive(optimizer, model, Gaussian, [(x, 100 * y)])
        assert not torch.equal(flat(model), before)
        if float(optimizer.stats["innovation_norm"]) > explode * sum(seen) / k:
            exploded.append(k)
    assert len(exploded) > 1
    assert int(optimizer.filter["exploded"]) == len(exploded) == int(optimizer.stats["exploded"])
    assert int(optimizer.filter["nonfinite_steps"]) == 0
    message = optimizer.check_divergence()
    assert message is not None
    start = f"the filter diverged at step {exploded[0]}: the innovation exploded ({len(exploded)} exploding innovations"
    assert message.startswith(start)
    assert "--optimizer.p0" in message
    assert "--optimizer.divergence_threshold" in message


def test_a_calmer_prior_does_not_explode_on_the_same_stream() -> None:
    model = relu_net()
    optimizer = filter_of(model, p0=0.02, divergence_threshold=10.0)
    drive(optimizer, model, Gaussian, [(x, 100 * y) for x, y in values(40, 1, 2)])
    assert optimizer.check_divergence() is None


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize(("factor", "counted"), [(0.97, 0), (1.03, 1)])
def test_outliers_below_the_limit_are_none(factor: float, counted: int, B: int) -> None:
    """A model at zero sees targets of size 3, twenty times, and then one sample of a batch that is ``size``."""
    model = linear(1)
    for p in model.parameters():
        nn.init.zeros_(p)
    optimizer = filter_of(model, p0=1e-12, divergence_threshold=5.0)  # so small that it stays at zero
    x, y = torch.ones(B, FEATURES).double(), torch.full((B, 1), 3.0).double()
    drive(optimizer, model, Gaussian, [(x, y)] * 20)
    # size = 5 * mean, with mean = (20 * 3 + (3 (B - 1) + size) / B) / 21
    size = 5 * (60 + 3 * (B - 1) / B) / (21 - 5 / B)
    y[0] = factor * size
    drive(optimizer, model, Gaussian, [(x, y)])
    assert int(optimizer.filter["exploded"]) == counted
    assert int(optimizer.filter["failed_at"]) == 21 * counted


def test_targets_of_zero_are_no_explosion() -> None:
    """The unit of a Gaussian likelihood is 1, whatever has been seen."""
    model = linear(1)
    optimizer = filter_of(model)
    drive(optimizer, model, Gaussian, [(x, 0 * y) for x, y in values(5, 1, 1)])
    assert optimizer.check_divergence() is None


@pytest.mark.parametrize("noise", NOISES)
def test_what_counts_as_large_is_the_mean_size_of_what_was_observed(noise: str) -> None:
    """No noise keeps anything under the same name."""
    model, stream = mlp(3), values(6, 2, 3)
    optimizer = filter_of(model, **noise_of(noise), dtype="float64")
    drive(optimizer, model, Gaussian, stream)
    mean = torch.cat([y.norm(dim=1) for _, y in stream]).mean()
    assert float(optimizer.filter["scale"]) == pytest.approx(float(mean), rel=1e-12)


def test_probabilities_cannot_explode() -> None:
    model = mlp(3)
    optimizer = filter_of(model, p0=200.0, divergence_threshold=2.0)
    drive(optimizer, model, Categorical, [(100 * x, y) for x, y in labels(30, 1, 3)])
    assert optimizer.check_divergence() is None


def test_the_counters_survive_a_checkpoint() -> None:
    model, stream = relu_net(), values(12, 1, 2)
    optimizer = filter_of(model, p0=2.0, noise="identity", divergence_threshold=2.0)
    drive(optimizer, model, Gaussian, [(x, 100 * y * (NAN if k == 8 else 1)) for k, (x, y) in enumerate(stream)])
    assert min(int(optimizer.filter[name]) for name in (*BOOKKEEPING, "scale")) > 0
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    restored = filter_of(copy.deepcopy(model), p0=2.0, noise="identity", divergence_threshold=2.0)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert restored.check_divergence() == optimizer.check_divergence() is not None
    drive(restored, model, Gaussian, [(stream[0][0] * NAN, stream[0][1])])
    assert int(restored.filter["nonfinite_steps"]) == int(optimizer.filter["nonfinite_steps"]) + 1
    assert int(restored.filter["failed_at"]) == int(optimizer.filter["failed_at"])


def test_a_filter_is_checked_without_computing_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the variances of all parameters, which cost as much as a step; the check is made at every point."""
    model = nn.Linear(3, 2)
    optimizer = Filtune(model.parameters())
    optimizer.step(lambda: Categorical(model(torch.ones(1, 3))).observe(torch.tensor([1])))
    monkeypatch.setattr(Filtune, "stats", property(lambda self: pytest.fail("computed")))
    assert optimizer.check_divergence() is None
    optimizer.step(lambda: Categorical(model(torch.full((1, 3), NAN))).observe(torch.tensor([1])))
    assert "not finite" in str(optimizer.check_divergence())
