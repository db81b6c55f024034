r"""Has the stream changed? Page's test: do the labels that come obey chance sooner than the filter?

Of every sample, the log-probability of its label among equally likely classes less that under the filter:

.. math:: g \leftarrow \max(0, g + x), \quad x = \ln(1/m) - \ln p(y)

A filter that foretells as it should makes g fall in the mean; one whose classes have got other names is sure and
wrong, and makes it rise by several nats a sample (Page 1954; Lorden 1971).

Shapes: ``B`` batch, ``m`` classes, ``n`` state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.likelihoods import Observation

LIMIT = math.log(1e4)
"""What g is to exceed, in nats: where the filter is right that takes 10,000 samples or more in the mean (Lorden)."""

MOST = LIMIT / 3
"""Most that one sample counts for: a single wrong label is no change."""

PATIENCE = 100
"""Samples after the start, and after a change, without another: what is learnt anew is soon sure, and often wrong."""

State = dict[str, Tensor]


def start(like: Tensor) -> State:
    """What is remembered at first: g, samples since the last change, and how many changes there were."""
    count = torch.zeros((), dtype=torch.int64, device=like.device)
    return {"page": count.double(), "quiet": count.clone(), "changes": count.clone()}


def page(g: Tensor, x: Tensor) -> Tensor:
    """Page's statistic after the samples x (B,), given that before them, ()."""
    total = x.cumsum(0)
    return total[-1] - torch.minimum(total.amin(), -g)


def watch(state: State, observation: Observation) -> tuple[State, Tensor]:
    """What of the state a batch changes, and whether the stream has changed, ().

    Values, of which there is no chance, never change.
    """
    if observation.target.is_floating_point():
        return state, torch.zeros_like(state["page"], dtype=torch.bool)
    z = observation.outputs.detach().double()
    x = torch.nn.functional.cross_entropy(z, observation.target, reduction="none") - math.log(z.shape[1])
    g = page(state["page"], x.nan_to_num(0).clamp_max(MOST))
    changed = (g > LIMIT) & (state["quiet"] >= PATIENCE)
    quiet = torch.where(changed, 0, state["quiet"] + len(x))
    return {"page": torch.where(changed, 0, g), "quiet": quiet, "changes": state["changes"] + changed}, changed


def last_layer(shapes: Sequence[torch.Size]) -> int:
    """How many parameters the last matrix has, and the vectors after it: those next to the outputs, of all n."""
    matrix = max((i for i, shape in enumerate(shapes) if len(shape) > 1), default=0)
    return sum(shape.numel() for shape in shapes[matrix:])
