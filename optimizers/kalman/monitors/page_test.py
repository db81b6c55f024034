r"""Drift detection: Page's test on the log-likelihood ratio of a uniform predictor to the filter.

For every sample, the log-probability of its label under equally likely classes less that under the filter:

.. math:: g \leftarrow \max(0, g + x), \quad x = \ln(1/m) - \ln p(y)

For a calibrated filter g falls on average; where the classes' meaning has changed, the filter is confident and wrong
and g rises by several nats per sample (Page 1954; Lorden 1971). The test runs only once the filter has gained a quarter
of the available information about the labels, for before that there is nothing to lose.

Shapes: ``B`` batch, ``m`` classes, ``n`` state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...likelihoods.base import Innovation, Observation
from ...parts import State
from ...ranges import NOT_NEGATIVE, check_arguments
from ..covariance.base import Covariance
from .base import Monitor

LIMIT = math.log(1e4)
"""Threshold of g, in nats: a false alarm takes 10,000 samples or more on average (Lorden)."""

MOST = LIMIT / 3
"""Largest contribution of one sample: a single wrong label is no drift."""

MEMORY = 100
"""Samples over which the filter's information gain is averaged, from zero at the start and after a drift."""

KNOWN = 0.25
"""Information gain, as a share of ln m, from which on the test runs; without it a head is reset again and again."""


class HeadReset(Monitor):
    """Monitor that resets the covariance of the model's head when Page's test detects drift.

    State: ``page`` (g), ``known`` (average information gain), ``armed`` (whether that was enough once), ``changes``
    (number of drifts detected), and ``tail``, the first variances of the head.

    Args:
        head_reset_scale: How many times its first variance the head gets; 0 never resets.

    Raises:
        ValueError: If it is negative or not finite.
    """

    name = "head_reset"
    needs_reset = True

    def __init__(self, *, head_reset_scale: float = 0.0) -> None:
        check_arguments("", [("head_reset_scale", head_reset_scale, *NOT_NEGATIVE.judge(head_reset_scale))])
        self.scale = head_reset_scale

    def start(self, prior: Tensor, shapes: list[torch.Size]) -> State:
        """Return the test's first state, and the first variances of the head."""
        return {**start(prior), "tail": self._of_head(prior)}

    def set_prior(self, state: State, prior: Tensor) -> None:
        """Take the head's part of the prior."""
        state["tail"] = self._of_head(prior)

    def grow(self, state: State, kept: Tensor, prior: Tensor, head: Sequence[slice]) -> None:
        """Give new entries of the head their first variances."""
        own = torch.cat([kept[stretch] for stretch in head])
        state["tail"] = self._of_head(prior.index_copy(0, own, state["tail"]))

    def before(self, state: State, covariance: Covariance, observation: Observation) -> None:
        """Reset the covariance of the head where the batch shows that the stream has changed."""
        if len(state["tail"]) != sum(stretch.stop - stretch.start for stretch in self.head):
            # the state is that of an earlier release, which took the last layer for the head
            state["tail"] = self._of_head(state["tail"].mean().expand(self.head[-1].stop))
        watched, changed = watch(state, observation)
        state.update(watched)
        covariance.reset(state, self.head, self.scale * state["tail"], changed)

    def _of_head(self, values: Tensor) -> Tensor:
        """Return the head's part of a vector over the state."""
        return torch.cat([values[stretch] for stretch in self.head])

    def stats(self, state: State, innovation: Innovation) -> dict[str, Tensor]:
        """Return the test's statistic in nats, and the number of drifts detected."""
        return {"page": state["page"].clone(), "changes": state["changes"].clone()}


def start(like: Tensor) -> State:
    """Return the test's first state, on the device of a tensor."""
    count = torch.zeros((), dtype=torch.int64, device=like.device)
    return {"page": count.double(), "known": count.double(), "armed": count.bool(), "changes": count.clone()}


def page(g: Tensor, x: Tensor) -> Tensor:
    """Return Page's statistic after the samples x (B,), given that before them, ()."""
    total = x.cumsum(0)
    return total[-1] - torch.minimum(total.amin(), -g)


def watch(state: State, observation: Observation) -> tuple[State, Tensor]:
    """Return what a batch changes of the test's state, and whether drift is detected, ().

    Only a softmax over classes has the uniform predictor of this test; other likelihoods never show drift.
    """
    if not observation.likelihood.is_softmax:
        return state, torch.zeros_like(state["page"], dtype=torch.bool)
    z = observation.outputs.detach().double()
    uniform = math.log(z.shape[1])
    x = torch.nn.functional.cross_entropy(z, observation.target, reduction="none") - uniform
    x = x.nan_to_num(0).clamp_max(MOST)
    fade = (1 - 1 / MEMORY) ** len(x)
    known = fade * state["known"] - (1 - fade) * x.mean()
    armed = state["armed"] | (known > KNOWN * uniform)
    g = torch.where(armed, page(state["page"], x), 0)
    changed = g > LIMIT
    found = {"page": g, "known": known, "armed": armed}
    after = {name: torch.where(changed, torch.zeros_like(value), value) for name, value in found.items()}
    return {**after, "changes": state["changes"] + changed}, changed
