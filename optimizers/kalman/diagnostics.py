"""What a filter can tell about itself: figures of a step, failures, saturation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..likelihoods.base import Innovation
from .measurement import Measurement
from .settings import Settings

SATURATED = 1e-10
"""Trace of the observation noise below which the filter takes its predictions for certain."""


class LastStep(NamedTuple):
    """What is kept of a step until somebody asks for its figures.

    Attributes:
        e: Residuals, (B, d).
        change: Change of the state, (n,).
        measurement: The batch, observed.
        HPH: HPH' before the batch, (B*d, B*d).
        innovation: Where and how the batch was observed.
        outputs: The model's, (B, m).
        evidence: For the factors of the outputs' covariance, before the batch, (K,); None where that is not known.
    """

    e: Tensor
    change: Tensor
    measurement: Measurement
    HPH: Tensor
    innovation: Innovation
    outputs: Tensor
    evidence: Tensor | None


def statistics(state: dict[str, Tensor], variance: Tensor, last: LastStep) -> dict[str, Tensor]:
    """Figures of the last step, given the diagonal of the covariance, (n,).

    ``gain_norm`` is the gain along the innovation, |Ke| / |e|.
    ``row_error`` estimates the bound on the relative error of rows left out; see
    :func:`optimizers.likelihoods.categorical.leading`.
    """
    innovation, update = last.e.norm(), last.change.norm()
    counters = ("escalations", "clamped", "nonfinite", "exploded")
    return {
        "innovation_norm": innovation,
        "update_norm": update,
        "gain_norm": update / innovation.clamp_min(torch.finfo(innovation.dtype).tiny),
        "noise_trace": last.measurement.noise_trace(),
        "p_min": variance.min(),
        "p_mean": variance.mean(),
        **{name: state[name].clone() for name in counters},
        **_rows_left_out(last),
    }


def _rows_left_out(last: LastStep) -> dict[str, Tensor]:
    if not last.innovation.has_residual_probe:
        return {}
    probes = last.HPH.diagonal().view(last.e.shape)[:, -1]
    return {"rows": torch.tensor(last.e.numel()), "row_error": probes.sum()}


def failure(state: dict[str, Tensor], settings: Settings) -> str | None:
    """What went wrong so far, naming the first such step, and the remedy; waits for the device."""
    step = int(state["failed_at"])
    if not step:
        return None
    if settings.neumann:
        cure = "the Neumann form needs rho times the largest noise below 1: take --optimizer.neumann false"
    else:
        cure = "take a smaller --optimizer.p0 (--optimizer.explode says what counts as an explosion)"
    what = "the innovation exploded" if int(state["exploded"]) else "an update was not finite"
    return (
        f"the filter diverged at step {step}: {what} ({int(state['exploded'])} exploding innovations, "
        f"{int(state['nonfinite'])} non-finite updates so far); {cure}"
    )


def saturation(state: dict[str, Tensor], settings: Settings) -> str | None:
    """Say that the filter is saturated, where it is.

    On a stream of one label the residual, H and with them an estimated R fall to zero; a label that contradicts then
    moves nothing, whatever the precision. Observed logits take longer to get there, but without process noise they do.
    """
    R = state.get("R")
    if R is None or float(R.trace()) >= SATURATED:
        return None
    cure = "noise softmax" if settings.observation == "probabilities" else "process_noise 1e-4"
    return (
        f"the filter is saturated (trace of the observation noise {float(R.trace()):.0e}): it takes its "
        f"predictions for certain, and a label that contradicts them moves little; --optimizer.{cure} does not get "
        "there, and a new run from these weights starts with a fresh covariance"
    )
