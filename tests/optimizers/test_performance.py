"""An optimizer that diverged or saturated is recognised by its predictions, and one that learns is left alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from filtune.optimizers import (
    SAM,
    SGD,
    AdamW,
    Bernoulli,
    Categorical,
    Filtune,
    Gaussian,
    LoKO,
    OnlineOptimizer,
    RKalman,
    Sophia,
)
from filtune.optimizers.performance import EXCESS, FADE, Follower, read_recent
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

CLASSES = 5


def network() -> nn.Module:
    """12 -> 16 -> 5, float32."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def clusters(steps: int, permuted: bool = False, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Noisy samples of five clusters, one at a time; permuted, every cluster has another label."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(9))
    found = []
    for _ in range(steps):
        y = torch.randint(CLASSES, (1,), generator=generator)
        found.append((centres[y] + 0.5 * torch.randn(1, 12, generator=generator), (y + 2 * permuted) % CLASSES))
    return found


def train(optimizer: OnlineOptimizer, model: nn.Module, stream: Any, likelihood: Any = Categorical) -> None:
    """Take a step per sample."""
    for x, y in stream:
        optimizer.step(lambda x=x, y=y: likelihood(model(x)).observe(y))


def test_a_prior_far_too_wide_is_a_divergence() -> None:
    """The softmax is saturated after a few steps: accuracy of guessing, with certainty; nothing is infinite."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = LoKO(model.parameters(), p0=1e3)
    train(optimizer, model, zip(images[:560].split(1), labels[:560].split(1), strict=True))
    message = optimizer.check_divergence()
    assert message is not None
    assert "diverged" in message
    assert "--optimizer.p0" in message
    assert "\n" not in message
    assert int(optimizer.stats["nonfinite_steps"]) == 0


@pytest.mark.parametrize("rule", [LoKO, RKalman])
def test_a_filter_that_cannot_follow_says_so_while_it_happens(rule: Any) -> None:
    model = network()
    optimizer = rule(model.parameters())
    train(optimizer, model, clusters(400))
    assert optimizer.check_divergence() is None
    assert optimizer.diagnose() is None
    for part in range(8):  # within 400 samples
        train(optimizer, model, clusters(50, permuted=True, seed=part))
        if optimizer.diagnose() is not None:
            break
    message = optimizer.diagnose()
    assert message is not None
    assert "\n" not in message
    assert optimizer.check_divergence() is None  # what was learnt before is worth something: a warning, and no error


def test_the_warning_names_the_share_of_the_error_that_a_step_removes() -> None:
    model = network()
    optimizer = LoKO(model.parameters())
    train(optimizer, model, clusters(400))
    train(optimizer, model, clusters(500, permuted=True))
    message = optimizer.diagnose()
    assert message is not None
    assert message.startswith("the filter is saturated")
    assert "--optimizer.process_noise" in message


@pytest.mark.parametrize(
    "rule",
    [
        lambda p: Filtune(p),
        lambda p: LoKO(p),
        lambda p: AdamW(p, lr=1e-2),
        lambda p: SGD(p, lr=1e-2),
        lambda p: SAM(p),
        lambda p: Sophia(p, lr=1e-3),
    ],
)
def test_one_that_learns_is_left_alone(rule: Any) -> None:
    model = network()
    optimizer = rule(model.parameters())
    for part in range(3):
        train(optimizer, model, clusters(100, seed=part))
        assert optimizer.check_divergence() is None
        assert optimizer.diagnose() is None
    recent = optimizer.recent()
    assert recent is not None
    assert recent.accuracy > 0.5


@pytest.mark.parametrize("classes", [2, pytest.param(5, marks=pytest.mark.slow), 50])
def test_labels_without_meaning_are_no_failure(classes: int) -> None:
    """A filter that learns nothing because there is nothing to learn stays near chance, and is not accused."""
    torch.manual_seed(0)
    model = nn.Linear(8, classes)
    optimizer = Filtune(model.parameters())
    for _ in range(300):
        x, y = torch.randn(1, 8), torch.randint(classes, (1,))
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
    assert optimizer.check_divergence() is None
    assert optimizer.diagnose() is None


def test_a_rate_far_too_large_is_noticed_in_every_rule() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=1e3)
    train(optimizer, model, clusters(300))
    message = optimizer.diagnose()
    assert message is not None
    assert message.startswith("the probabilities are far too certain")
    assert "--optimizer.lr" in message


def test_numbers_are_compared_with_their_mean() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        model.weight.fill_(10.0)
    for _ in range(600):
        x = torch.randn(1, 3)
        optimizer.step(lambda x=x: Gaussian(model(x)).observe(x.sum(1, keepdim=True)))
    assert optimizer.check_divergence() is None  # an error that lags behind a drift, or falls slowly, is no divergence
    assert "far worse than guessing" in str(optimizer.diagnose())
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(600):
        x = torch.randn(1, 3)
        optimizer.step(lambda x=x: Gaussian(model(x)).observe(x.sum(1, keepdim=True)))
    assert optimizer.diagnose() is None


def reference(outputs: list[np.ndarray], targets: list[np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Log loss, accuracy and label frequencies with weights (1 - 1/W)^age, sample by sample, in numpy."""
    weight, loss, right, shares = 0.0, 0.0, 0.0, 0.0
    for z, y in zip(outputs, targets, strict=True):
        fade = FADE ** len(z)
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        own = np.minimum(-np.log(p[np.arange(len(z)), y]), EXCESS + math.log(z.shape[1]))
        weight = fade * weight + 1 - fade
        loss = fade * loss + (1 - fade) * own.mean()
        right = fade * right + (1 - fade) * (p.argmax(1) == y).mean()
        shares = fade * shares + (1 - fade) * np.eye(z.shape[1])[y].mean(0)
    return loss / weight, right / weight, shares / weight


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=60),
    classes=st.integers(2, 6),
    scale=st.sampled_from([0.1, 3.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_the_averages_are_those_of_single_samples(sizes: list[int], classes: int, scale: float, seed: int) -> None:
    """Whatever is averaged at once, and with a batch that is not finite anywhere."""
    generator = np.random.default_rng(seed)
    outputs = [scale * generator.standard_normal((B, classes)) for B in sizes]
    targets = [generator.integers(0, classes, B) for B in sizes]
    follower, memory = Follower(), dict[str, Any]()
    bad = Categorical(torch.full((2, classes), float("nan"))).observe(torch.zeros(2, dtype=torch.int64))
    for n, (z, y) in enumerate(zip(outputs, targets, strict=True)):
        follower.add(memory, Categorical(torch.tensor(z)).observe(torch.tensor(y)))
        if n % 7 == 3:
            follower.add(memory, bad)
    follower.settle(memory)
    recent = read_recent(memory["recent"])
    assert recent is not None
    loss, right, shares = reference(outputs, targets)
    assert recent.loss == pytest.approx(loss, rel=1e-9)
    assert recent.accuracy == pytest.approx(right, abs=1e-12)
    assert recent.usual == pytest.approx(shares.max(), rel=1e-9)


def test_labels_that_occur_together_count_as_two_outcomes_each() -> None:
    follower, memory = Follower(), dict[str, Any]()
    follower.add(memory, Bernoulli(torch.zeros(3, 4)).observe(torch.ones(3, 4)))
    follower.settle(memory)
    recent = read_recent(memory["recent"])
    assert recent is not None
    assert recent.classes == 2
    assert recent.loss == pytest.approx(math.log(2), rel=1e-6)


def test_the_scores_are_part_of_a_checkpoint_and_of_a_copy() -> None:
    model = network()
    optimizer = LoKO(model.parameters())
    train(optimizer, model, clusters(40))
    other = LoKO(copy.deepcopy(model).parameters())
    other.load_state_dict(optimizer.state_dict())
    assert other.recent() == optimizer.recent() == copy.deepcopy(optimizer).recent() is not None


@pytest.mark.parametrize("shares", [(0.25, 0.25, 0.25, 0.25), (0.97, 0.01, 0.01, 0.01), (0.5, 0.5, 0.0, 0.0)])
def test_far_worse_than_chance_is_twice_the_entropy_of_the_labels_and_ln_k_at_least(shares: Any) -> None:
    """Of rare classes the entropy is small: a loss above ln k is then no better than not looking."""
    follower, memory = Follower(), dict[str, Any]()
    stream = torch.multinomial(torch.tensor(shares), 1000, True, generator=torch.Generator().manual_seed(0))
    weights = FADE ** torch.arange(999, -1, -1, dtype=torch.float64)
    own = torch.stack([weights[stream == k].sum() for k in range(4)]) / weights.sum()
    for y in stream.view(-1, 1):
        follower.add(memory, Categorical(torch.zeros(1, 4)).observe(y))
    follower.settle(memory)
    recent = read_recent(memory["recent"])
    assert recent is not None
    entropy = float(-torch.special.xlogy(own, own).sum())
    assert recent.baseline == pytest.approx(max(2.0 * entropy, math.log(4)), rel=1e-6)
