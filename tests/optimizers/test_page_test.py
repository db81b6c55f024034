"""Page's test of a uniform predictor against the filter, and the head covariance reset when it detects drift."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Filtune, Gaussian
from filtune.optimizers.kalman.covariance.low_rank import LowRank
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.monitors.page_test import KNOWN, LIMIT, MEMORY, MOST, page, start, watch
from filtune.optimizers.layer_hooks import last_layer
from filtune.optimizers.likelihoods.poisson import Poisson
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.optimizers.models import Stream, drive, labels, mlp, relative, rounding, values
from tests.optimizers.reference import flat


@given(seed=st.integers(0, 10**6), B=st.integers(1, 20), g=st.floats(0, 20))
@settings(max_examples=60)
def test_a_batch_is_its_samples_one_by_one(seed: int, B: int, g: float) -> None:
    x = torch.randn(B, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = g
    for value in x.tolist():
        expected = max(0.0, expected + value)
    found = float(page(torch.tensor(g, dtype=torch.float64), x))
    assert found == pytest.approx(expected, abs=rounding(3 * B) * (g + float(x.abs().sum())))


@pytest.mark.parametrize("m", [2, 10])
def test_where_the_predictions_are_right_a_false_alarm_is_rare(m: int) -> None:
    """Lorden's bound: exp(h) samples at least in the mean, here for h = 3; three standard errors are allowed."""
    h, runs = 3.0, 400
    generator = torch.Generator().manual_seed(m)
    g, lengths = torch.zeros(runs, dtype=torch.float64), torch.zeros(runs)
    alive = torch.ones(runs, dtype=torch.bool)
    while alive.any():
        p = (3 * torch.randn(runs, m, generator=generator, dtype=torch.float64)).softmax(1)
        y = torch.multinomial(p, 1, generator=generator)
        g = (g - math.log(m) - p.gather(1, y).squeeze(1).log()).clamp_min(0)
        lengths[alive] += 1
        alive &= g <= h
    assert float(lengths.mean() + 3 * lengths.std() / runs**0.5) >= math.exp(h)


def predicted(state: dict[str, Tensor], right: bool, B: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """After a batch of which the filter was sure."""
    z = torch.tensor([[9.0, 0.0, 0.0]]).repeat(B, 1)
    return watch(state, Categorical(z).observe(torch.full((B,), 0 if right else 2)))


def test_one_wrong_label_is_no_change_and_four_are() -> None:
    state = start(torch.zeros(()))
    state, changed = predicted(state, True, MEMORY)
    assert not bool(changed)
    assert float(state["page"]) == 0
    assert bool(state["armed"])
    verdicts = []
    for _ in range(4):
        state, changed = predicted(state, False)
        verdicts.append(bool(changed))
    assert verdicts == [False, False, False, True]
    assert [float(state[name]) for name in ("page", "known", "armed", "changes")] == [0, 0, 0, 1]
    assert pytest.approx(LIMIT) == 3 * MOST


def test_nothing_is_lost_where_nothing_was_known() -> None:
    """However wrong it is: at the start, and until as much is known again after a change."""
    state = start(torch.zeros(()))
    state, changed = predicted(state, False, 10 * MEMORY)
    assert not bool(changed)
    assert float(state["page"]) == 0
    state, _ = predicted(state, True, 10 * MEMORY)
    state, changed = predicted(state, False, 4)
    assert bool(changed)
    state, changed = predicted(state, False, MEMORY)
    assert not bool(changed)


@given(seed=st.integers(0, 10**6), B=st.integers(1, 30))
@settings(max_examples=40)
def test_what_is_known_is_an_average_that_fades(seed: int, B: int) -> None:
    """With equal samples: the share 1 - (1 - 1/M)^B of their gain over chance; enough of it is never forgotten."""
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).repeat(B, 1)
    gain = float(math.log(4) + z[0].log_softmax(0)[0])
    state, _ = watch(start(torch.zeros(())), Categorical(z).observe(torch.zeros(B, dtype=torch.int64)))
    expected = (1 - (1 - 1 / MEMORY) ** B) * max(gain, -MOST)
    assert float(state["known"]) == pytest.approx(expected, abs=1e-12)
    assert bool(state["armed"]) == (expected > KNOWN * math.log(4))


def test_what_is_not_a_number_says_nothing_and_values_have_no_chance() -> None:
    state = start(torch.zeros(()))
    broken, changed = watch(state, Categorical(torch.full((2, 3), torch.nan)).observe(torch.tensor([0, 1])))
    assert not bool(changed)
    assert float(broken["page"]) == 0
    for observation in (
        Gaussian(torch.zeros(2, 1)).observe(torch.ones(2)),
        Poisson(torch.zeros(2, 2)).observe(torch.ones(2, 2, dtype=torch.int64)),
    ):
        unchanged, changed = watch(state, observation)
        assert unchanged == state
        assert not bool(changed)


def test_the_last_layer_is_the_last_matrix_and_what_follows() -> None:
    assert last_layer([p.shape for p in mlp(3).parameters()]) == [2, 3]
    assert last_layer([torch.Size((2, 3)), torch.Size((4,))]) == [0, 1]
    assert last_layer([torch.Size((4,)), torch.Size(())]) == [0, 1]


@given(seed=st.integers(0, 10**6), tail=st.integers(1, 8), when=st.booleans())
@settings(max_examples=40)
def test_a_part_is_dropped_from_the_precision(seed: int, tail: int, when: bool) -> None:
    """Against the dense matrix: blocks apart, the new variances on the diagonal, the rest as it was."""
    n, generator = 8, torch.Generator().manual_seed(seed)
    covariance = LowRank([torch.Size((n,))], rank=3, buffer_size=2, rows_per_sample=3)
    state = covariance.start(0.1 + torch.rand(n, generator=generator, dtype=torch.float64))
    state["V"][:4] = torch.randn(4, n, generator=generator, dtype=torch.float64)
    state["filled"].fill_(4)
    state["pending"] += 0.3
    covariance._update_gram(state)
    before = torch.diag(state["precision"]) + state["V"].T @ state["V"]
    variance = 0.1 + torch.rand(tail, generator=generator, dtype=torch.float64)
    covariance.reset(state, [slice(n - tail, n)], variance, torch.tensor(when))
    expected = before.clone()
    if when:
        expected[n - tail :] = expected[:, n - tail :] = 0
        expected[n - tail :, n - tail :] = torch.diag(1 / variance)
    after = torch.diag(state["precision"]) + state["V"].T @ state["V"]
    assert relative(after, expected) <= rounding(10)
    gram = state["V"] / state["precision"] @ state["V"].T
    lost = float(((before.diagonal() - state["precision"]).abs() * 10).sum())  # the sum that cancels
    assert float((state["gram"] - gram).abs().max()) <= rounding(100) * (1 + lost)
    assert relative(covariance.variance(state), torch.linalg.inv(expected).diagonal()) <= 1e-10
    assert torch.equal(state["pending"] == 0, torch.arange(n) >= n - tail if when else torch.zeros(n).bool())


def clusters(steps: int, seed: int, turn: int = 0) -> Stream:
    """Three classes far apart, renamed by ``turn``."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.eye(3, 5, dtype=torch.float64)
    names = [int(torch.randint(3, (), generator=generator)) for _ in range(steps)]
    noise = torch.randn(steps, 1, 5, generator=generator, dtype=torch.float64)
    return [(centres[[y]] + e, torch.tensor([(y + turn) % 3])) for y, e in zip(names, noise, strict=True)]


def renewing(model: nn.Module, renew: float = 100.0) -> Filtune:
    return Filtune(model.parameters(), rank=12, buffer_size=6, head_reset_scale=renew, dtype="float64")


def wrong(optimizer: Filtune, model: nn.Module, stream: Stream) -> int:
    """Mistakes on the way."""
    seen = [optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y)) for x, y in stream]
    return sum(int(o.outputs.argmax() != o.target) for o in seen)


def test_a_stream_that_stays_is_learnt_as_without_it() -> None:
    model, other = mlp(3), mlp(3)
    ours, plain = renewing(model), renewing(other, 0.0)
    drive(ours, model, Categorical, clusters(150, 1))
    drive(plain, other, Categorical, clusters(150, 1))
    assert int(ours.stats["changes"]) == 0
    assert torch.equal(flat(model), flat(other))
    assert "changes" not in plain.stats


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_classes_under_new_names_are_learnt_sooner(seed: int) -> None:
    mistakes = {}
    for renew in (0.0, 100.0):
        model = mlp(3, seed)
        optimizer = renewing(model, renew)
        drive(optimizer, model, Categorical, clusters(120, seed))
        mistakes[renew] = wrong(optimizer, model, clusters(60, seed + 50, turn=1))
    assert int(optimizer.stats["changes"]) == 1
    assert mistakes[100.0] < 0.7 * mistakes[0.0]


@pytest.mark.parametrize("taken", [pytest.param(60, marks=pytest.mark.slow), 123])
def test_a_checkpoint_goes_on_as_if_there_was_none(taken: int) -> None:
    """Before a change and between two of the samples that show it."""
    model, stream = mlp(3), clusters(120, 2) + clusters(20, 3, turn=1)
    optimizer = renewing(model)
    drive(optimizer, model, Categorical, stream[:taken])
    other = copy.deepcopy(model)
    resumed = renewing(other)
    resumed.load_state_dict(optimizer.state_dict())
    for each, its in ((optimizer, model), (resumed, other)):
        drive(each, its, Categorical, stream[taken:])
    assert int(resumed.filter["changes"]) == 1
    assert torch.equal(flat(model), flat(other))


def test_a_state_of_before_the_switch_begins_to_watch() -> None:
    model = mlp(3)
    old, now = renewing(model, 0.0), renewing(model)
    drive(old, model, Categorical, clusters(5, 1))
    now.load_state_dict(old.state_dict())
    drive(now, model, Categorical, clusters(5, 2))
    assert float(now.filter["known"]) != 0


def test_values_are_filtered_as_without_it() -> None:
    model, other = mlp(2), mlp(2)
    drive(renewing(model), model, Gaussian, values(20, 2, 2))
    drive(renewing(other, 0.0), other, Gaussian, values(20, 2, 2))
    assert torch.equal(flat(model), flat(other))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="head_reset_scale needs covariance low_rank; got diagonal"):
        KalmanOptimizer(mlp(2).parameters(), 0.1, head_reset_scale=1.0)
    model = mlp(2)
    full = EKF(model.parameters(), covariance="full")
    with pytest.raises(NotImplementedError, match="covariance full cannot reset a part of itself"):
        full._covariance.reset(full.filter, [slice(0, 2)], torch.ones(2), torch.tensor(True))
    drive(full, model, Categorical, labels(1, 1, 2))
