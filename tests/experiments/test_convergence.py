"""Steps to convergence (LoKO, appendix C.2)."""

import numpy as np
import pytest
from filtune.experiments.run_folder import steps_to_convergence
from hypothesis import given
from hypothesis import strategies as st

LOSSES = st.lists(st.floats(0.01, 10), min_size=2, max_size=40)


def test_a_loss_that_falls_and_stays():
    steps, losses = [100, 200, 300, 400, 500], [1.0, 0.5, 0.2, 0.199, 0.2]
    assert steps_to_convergence(steps, losses) == 300


def test_a_loss_that_still_falls_has_not_converged():
    assert steps_to_convergence([1, 2, 3], [1.0, 0.9, 0.8]) is None


def test_a_loss_that_rises_has_converged_where_it_was_lowest():
    assert steps_to_convergence([1, 2, 3], [1.0, 0.5, 0.9]) == 2


@pytest.mark.parametrize("steps", [[], [5]])
def test_no_curve_no_answer(steps):
    assert steps_to_convergence(steps, [1.0] * len(steps)) is None


@given(LOSSES, st.floats(0.001, 0.5))
def test_by_its_definition(losses, threshold):
    """The first k with max_{i >= k} (loss_i - min_{j >= i} loss_j) < threshold * loss_0, unless it is the last."""
    steps = list(range(10, 10 * len(losses) + 1, 10))
    fall = [losses[i] - min(losses[i:]) for i in range(len(losses))]
    flat = [k for k in range(len(losses)) if max(fall[k:]) < threshold * losses[0]]
    expected = None if not flat or flat[0] == len(losses) - 1 else steps[flat[0]]
    assert steps_to_convergence(steps, losses, threshold) == expected


@given(LOSSES, st.floats(0.1, 100))
def test_the_unit_of_the_loss_does_not_matter(losses, scale):
    steps = list(range(len(losses)))
    # a power of two scales exactly
    factor = float(2.0 ** np.round(np.log2(scale)))
    assert steps_to_convergence(steps, losses) == steps_to_convergence(steps, [factor * loss for loss in losses])
