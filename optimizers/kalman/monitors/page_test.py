r"""Has the stream changed? Page's test: do the labels that come obey chance sooner than the filter?

Of every sample, the log-probability of its label among equally likely classes less that under the filter:

.. math:: g \leftarrow \max(0, g + x), \quad x = \ln(1/m) - \ln p(y)

A filter that foretells as it should makes g fall in the mean; one whose classes have got other names is sure and
wrong, and makes it rise by several nats a sample (Page 1954; Lorden 1971). It is looked at only where there is
something to lose: once the filter has known a quarter of what is to be known about the labels.

Shapes: ``B`` batch, ``m`` classes, ``n`` state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..likelihoods.base import Observation

LIMIT = math.log(1e4)
"""What g is to exceed, in nats: where the filter is right that takes 10,000 samples or more in the mean (Lorden)."""

MOST = LIMIT / 3
"""Most that one sample counts for: a single wrong label is no change."""

MEMORY = 100
"""Samples over which what the filter knows is averaged, at the start and after a change from zero on."""

KNOWN = 0.25
"""What it is to know, as a share of ln m, before a change is looked for: else a head is dropped again and again."""

State = dict[str, Tensor]


def start(like: Tensor) -> State:
    """What is remembered at first: g, what is known, whether that was enough, and how many changes there were."""
    count = torch.zeros((), dtype=torch.int64, device=like.device)
    return {"page": count.double(), "known": count.double(), "armed": count.bool(), "changes": count.clone()}


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
    chance = math.log(z.shape[1])
    x = torch.nn.functional.cross_entropy(z, observation.target, reduction="none") - chance
    x = x.nan_to_num(0).clamp_max(MOST)
    fade = (1 - 1 / MEMORY) ** len(x)
    known = fade * state["known"] - (1 - fade) * x.mean()
    armed = state["armed"] | (known > KNOWN * chance)
    g = torch.where(armed, page(state["page"], x), 0)
    changed = g > LIMIT
    found = {"page": g, "known": known, "armed": armed}
    forgotten = {name: torch.where(changed, torch.zeros_like(value), value) for name, value in found.items()}
    return {**forgotten, "changes": state["changes"] + changed}, changed


def last_layer(shapes: Sequence[torch.Size]) -> int:
    """How many parameters the last matrix has, and the vectors after it: those next to the outputs, of all n."""
    matrix = max((i for i, shape in enumerate(shapes) if len(shape) > 1), default=0)
    return sum(shape.numel() for shape in shapes[matrix:])
