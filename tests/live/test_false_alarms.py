"""False alarms of the drift test, and of rules on figures of a window, against their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from filtune.optimizers.kalman.monitors import page_test
from scipy.stats import binom

STREAMS = 4000


def calibrated_increments(samples: int, sharpness: float, classes: int = 4, seed: int = 0) -> np.ndarray:
    """Log-likelihood ratios of the uniform predictor to one whose probabilities are true, (samples, streams)."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, sharpness), size=(samples, STREAMS)).clip(1e-12)
    own = p.cumsum(-1) > rng.random((samples, STREAMS, 1)) * p.sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, own.argmax(-1)[..., None], -1)[..., 0]
    return np.minimum(-math.log(classes) - np.log(chosen), page_test.MOST)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_false_alarms_of_the_drift_test_are_within_their_bound(sharpness: float) -> None:
    """P(alarm within t samples) <= t exp(-h) for a calibrated model.

    exp of the sums of increments from any one sample on is a supermartingale that starts at 1, for the expectation of
    exp(x) under the model's own probabilities is 1 at most; by Ville's inequality it ever exceeds exp(h) with a
    probability of exp(-h), and there are t samples to start from. At the test's own threshold and at a lower one; the
    count may exceed its bound by chance, up to the 99.9 % quantile.
    """
    samples = 300
    g, highest = np.zeros(STREAMS), np.zeros(STREAMS)
    for x in calibrated_increments(samples, sharpness):
        g = np.maximum(0, g + x)
        highest = np.maximum(highest, g)
    for limit in (page_test.LIMIT, math.log(1000)):
        bound = min(1.0, samples * math.exp(-limit))
        assert (highest > limit).sum() <= binom.ppf(0.999, STREAMS, bound)
    assert (highest > math.log(20)).any()  # the simulation can raise alarms


def test_the_simulated_statistic_is_that_of_the_test() -> None:
    x = torch.from_numpy(calibrated_increments(200, 1.0)[:, 0].copy())
    g, expected = torch.zeros((), dtype=torch.float64), 0.0
    for each in x:
        g = page_test.page(g, each.view(1))
        expected = max(0.0, expected + float(each))
        assert float(g) == pytest.approx(expected, abs=1e-9)


def test_false_alarms_of_an_accuracy_are_those_of_the_binomial() -> None:
    """The table of docs/watching.md: P(accuracy of N < threshold) where each prediction is right with probability q."""
    from tests.docs.pages import DOCS

    text = (DOCS / "watching.md").read_text()
    for n, q, threshold in [(100, 0.8, 0.7), (300, 0.8, 0.7), (1000, 0.8, 0.7), (1000, 0.8, 0.77)]:
        p = binom.cdf(math.ceil(n * threshold) - 1, n, q)
        assert f"| {n} | {q:g} | {threshold:g} | {p:.1e} |" in text
