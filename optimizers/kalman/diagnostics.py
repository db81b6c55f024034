"""Diagnostics of a filter: the last step, divergence, saturation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..likelihoods.base import Innovation
from ..parts import State
from ..performance import Recent
from .update import MeasurementUpdate

SATURATED = 1e-10
"""Trace of the observation noise below which the filter treats its predictions as certain."""

INEXACT = 1e-3
"""Residual at the mode of a posterior, relative to the batch's residuals or 1, above which a warning says so."""

REMEDIES = {"process_noise": 1e-4, "head_reset_scale": 1.0}
"""Options that keep a filter from saturating, with a value that does."""

COUNTERS = ("nonfinite_steps", "exploded", "cholesky_retries", "clamped")
"""Counters of a filter's state that are reported as diagnostics."""


class LastStep(NamedTuple):
    """Tensors of a step that are kept until its diagnostics are computed.

    Attributes:
        e: Residuals, (B, d).
        delta: Change of the state, (n,).
        update: The measurement update.
        HPH: HPH' before the batch, (B*d, B*d).
        innovation: Residuals and coordinates of the batch.
        scaled: Predictive probabilities for each scale of the outputs' covariance, (K, B, m); None without one.
        log_weights: Log weights of these scales before the batch, (K,).
    """

    e: Tensor
    delta: Tensor
    update: MeasurementUpdate
    HPH: Tensor
    innovation: Innovation
    scaled: Tensor | None
    log_weights: Tensor | None


def statistics(state: State, variance: Tensor, last: LastStep) -> dict[str, Tensor]:
    """Return the diagnostics of the last step, given the diagonal of the covariance, (n,).

    ``gain_norm`` is the gain along the innovation, |Ke| / |e|. ``row_error`` estimates the bound on the relative error
    of rows left out; see :func:`optimizers.kalman.rows.leading_directions`.
    """
    innovation_norm, update_norm = last.e.norm(), last.delta.norm()
    figures = {
        "innovation_norm": innovation_norm,
        "update_norm": update_norm,
        "gain_norm": update_norm / innovation_norm.clamp_min(torch.finfo(innovation_norm.dtype).tiny),
        "noise_trace": last.update.noise_trace(),
        "variance_min": variance.min(),
        "variance_mean": variance.mean(),
        **last.update.figures(),
        **{name: state[name].clone() for name in COUNTERS},
    }
    if last.innovation.has_residual_probe:
        probes = last.HPH.diagonal().view(last.e.shape)[:, -1]
        figures |= {"rows": torch.tensor(last.e.numel()), "row_error": probes.sum()}
    return figures


def check_divergence(state: State, neumann: bool) -> str | None:
    """Return what went wrong at the first step at which something did, and the remedy; waits for the device.

    Args:
        state: The filter's.
        neumann: Whether the noise is regularised in the Neumann form.
    """
    step = int(state["failed_at"])
    if not step:
        return None
    exploded, nonfinite = int(state["exploded"]), int(state["nonfinite_steps"])
    if neumann:
        remedy = "the Neumann form needs rho times the largest noise below 1: take --optimizer.neumann false"
    else:
        remedy = "take a smaller --optimizer.p0 (--optimizer.divergence_threshold sets what counts as divergence)"
    what = "the innovation exploded" if exploded else "an update was not finite"
    return (
        f"the filter diverged at step {step}: {what} ({exploded} exploding innovations, {nonfinite} non-finite updates "
        f"so far); {remedy}"
    )


def diagnose_mode(last: LastStep | None) -> str | None:
    """Return a warning that the last update is far from the mode of its posterior, where it is; waits for the device.

    Args:
        last: The last step; None before the first.
    """
    figures = {} if last is None else last.update.figures()
    if last is None or "newton_residual" not in figures:
        return None
    residual, size, steps = float(figures["newton_residual"]), float(last.e.abs().amax()), figures["newton_iterations"]
    if residual <= INEXACT * max(1.0, size):
        return None
    return (
        f"the mode of the posterior was not found in {int(steps)} Newton steps: max |e - lambda| is {residual:.1e}, of "
        f"residuals up to {size:.1e}; the prior is too wide for float64: take a smaller --optimizer.p0"
    )


def diagnose(state: State, recent: Recent | None, observation: str, options: dict[str, Any]) -> str | None:
    """Return a warning that the filter is saturated, where it is; waits for the device.

    On a stream of one label the residual, H and with them an estimated R fall to zero; a label that contradicts then
    changes little, in any precision. Observed logits take longer to get there, but without process noise they do. A
    filter whose softmax is saturated at wrong classes has no gain either; that shows in its errors, which stay.

    Args:
        state: The filter's.
        recent: How well the last samples were predicted.
        observation: ``probabilities`` or ``logits``.
        options: Those of ``REMEDIES`` that the optimizer has, with their values.
    """
    R = state.get("R")
    if recent is not None and recent.saturated and not recent.diverged:
        remedies = [
            f"--optimizer.{name} {REMEDIES[name]}" for name, value in options.items() if value != REMEDIES[name]
        ]
        advice = f"; {' or '.join(remedies)} lets it follow a stream that changes" if remedies else ""
        return (
            f"the filter is saturated: {recent.describe()}, and a step removes {100 * (recent.corrected or 0):.2g} % "
            f"of the error{advice}; a new run from these weights starts with a fresh covariance"
        )
    if R is None or float(R.trace()) >= SATURATED:
        return None
    remedy = "noise softmax" if observation == "probabilities" else "process_noise 1e-4"
    return (
        f"the filter is saturated (trace of the observation noise {float(R.trace()):.0e}): it treats its predictions "
        f"as certain, and a label that contradicts them changes little; --optimizer.{remedy} avoids this, and a new "
        "run from these weights starts with a fresh covariance"
    )
