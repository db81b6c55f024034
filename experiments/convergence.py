"""When a run has converged (LoKO, appendix C.2)."""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.01
"""Share of the first loss by which a loss that has converged still falls at most."""


def steps_to_convergence(steps: Sequence[int], losses: Sequence[float], threshold: float = THRESHOLD) -> int | None:
    """The first step after which the loss stays flat or falls by less than a threshold.

    The paper says so much and gives no number: here the threshold is a share of the first loss of the curve, which is
    the moving average over 1,000 samples.

    Args:
        steps: Steps at which the loss was logged, ascending.
        losses: The loss at these, finite.
        threshold: Share of the first loss.

    Returns:
        The step; none where the loss still falls by more at the end, or there is no curve.
    """
    if len(steps) < 2:
        return None
    lowest = losses[-1]
    converged = None
    for step, loss in zip(reversed(steps), reversed(losses), strict=True):
        lowest = min(lowest, loss)
        if loss - lowest >= threshold * losses[0]:
            break
        converged = step
    return None if converged == steps[-1] else converged
