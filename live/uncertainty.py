"""Uncertainty of a prediction: of the label, and of the parameters that it was made with."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from filtune.exports.prediction import Prediction
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.kalman.filter import KalmanOptimizer
from torch.nn.attention import SDPBackend, sdpa_kernel

from .labels import Labels
from .model import LiveModel


def describe(
    model: LiveModel,
    optimizer: OnlineOptimizer,
    labels: Labels,
    batch: dict[str, Any],
    context: AbstractContextManager[Any],
) -> dict[str, Any]:
    """Return the uncertainty of a prediction.

    Of classes: ``entropy`` of their probabilities in nats; and with a filter, which knows the covariance of its
    parameters, ``probability``, the posterior predictive one of each class, and ``logit_std`` of each class. Of two
    classes that is the deviation of the difference of their logits.
    Before there are two classes the entropy is 0, and the only class has a probability of 1.
    Of numbers: with a filter ``std``, the deviation of the expected value, and with running units of the targets
    ``predictive_std``, that of a new target; of counts ``log_rate_std``.

    Args:
        model: The model.
        optimizer: Its optimizer.
        labels: The classes.
        batch: One sample.
        context: In which the model computes.
    """
    is_filter = isinstance(optimizer, KalmanOptimizer)
    if labels.likelihood.is_softmax and len(labels.values) < 2:  # nothing to choose between
        return {"entropy": 0.0, **({"probability": dict.fromkeys(labels.values, 1.0)} if is_filter else {})}
    # of the kinds of attention, this one has a backward pass that takes many rows at once
    with torch.inference_mode(False), context, torch.set_grad_enabled(is_filter), sdpa_kernel(SDPBackend.MATH):
        likelihood = model.likelihood_given(model.backbone.preprocess(batch))
    covariance = factor = log_weights = None
    if isinstance(optimizer, KalmanOptimizer):
        found = optimizer.output_uncertainty(likelihood)
        covariance, factor = (None if each is None else each.float().cpu() for each in found)
        log_weights = optimizer.tempering_log_weights()
    plain = likelihood.at(likelihood.outputs.detach().float().cpu())
    weights = None if log_weights is None else log_weights.float().cpu()
    prediction = Prediction(plain, covariance, weights, factor)
    columns = plain.columns(labels.coding, covariance, prediction.predictive)
    if not labels.likelihood.has_classes:
        return {name: values[0] for name, values in columns.items() if name != "prediction"}
    p = plain.mean()[0].double()
    entropy = (
        torch.special.entr(p).sum()
        if labels.likelihood.is_softmax
        else torch.special.entr(p).sum() + (torch.special.entr(1 - p).sum())
    )
    result: dict[str, Any] = {"entropy": float(entropy)}
    for column, name in (("probability_bayes", "probability"), ("logit_std", "logit_std")):
        by_name = {
            value: columns.get(f"{column}_{label}") for value, label in zip(labels.values, labels.names, strict=True)
        }
        if all(values is not None for values in by_name.values()):
            result[name] = {value: values[0] for value, values in by_name.items()}
    if "logit_std" in columns:
        result["logit_std"] = columns["logit_std"][0]
    return result
