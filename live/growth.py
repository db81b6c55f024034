r"""New classes while a learner runs: the output layer, the optimizer's state and the metrics grow by their rows.

The model of m classes is taken to be one of more outputs, of which those of classes not seen so far are left out of the
likelihood. Their rows of the output layer then have a derivative of zero on every sample, so that nothing was
of them: with a prior that is independent for each entry, as all of filtune's are,

.. math:: p(\theta_{new} \mid y_{1:t}) = p(\theta_{new}), \quad \operatorname{cov}(\theta_{new}, \theta_{old}) = 0.

Their mean is zero. Growing is therefore exact for every covariance (docs/live.md).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from filtune.optimizers import OnlineOptimizer
from filtune.optimizers.growth import padded
from torch import Tensor, nn
from torchmetrics import Metric

from .model import LiveModel
from .prequential import LivePrequential


def output_layer(model: LiveModel) -> nn.Linear:
    """Return the linear layer of the head that has one row for each class.

    Raises:
        ValueError: If there is none, or more than one.
    """
    backbone, outputs = model.backbone, model.task.outputs
    parts = [module for name in backbone.head for module in backbone.model.get_submodule(name).modules()]
    fitting = [part for part in parts if isinstance(part, nn.Linear) and len(part.weight) == outputs]
    fitting = list(dict.fromkeys(fitting))
    trained = [layer for layer in fitting if all(param.requires_grad for param in layer.parameters())]
    if len(trained) != 1:
        raise ValueError(
            f"new_classes: the head of this backbone has {len(trained)} trained linear layers with a row for each "
            "class, where one is needed; name all classes at the start, or take another head (backbone.head: mean)"
        )
    return trained[0]


def check_growth(model: LiveModel, optimizer: OnlineOptimizer) -> None:
    """Check before the first sample that model and optimizer can take new classes.

    Raises:
        ValueError: If not.
    """
    output_layer(model)
    if not optimizer.can_grow():
        optimizer.grow({})  # says so


@torch.no_grad()
def grow(model: LiveModel, optimizer: OnlineOptimizer, outputs: int) -> None:
    """Give a model and its optimizer more outputs.

    Args:
        model: The model.
        optimizer: Its optimizer.
        outputs: How many outputs there are afterwards.

    Raises:
        ValueError: If they cannot grow; nothing is changed.
    """
    if outputs == model.task.outputs:
        return
    layer = output_layer(model)
    params = [param for param in (layer.weight, layer.bias) if param is not None]
    before = {param: param.shape for param in params}
    values = [param.data for param in params]
    for param in params:
        param.grad = None
        param.data = padded(param.data, outputs)
    try:
        optimizer.grow(before)
    except ValueError:
        for param, value in zip(params, values, strict=True):
            param.data = value
        raise
    layer.out_features = outputs
    optimizer.attach(model.backbone)
    names = {name for name, param in model.trained().items() if any(param is each for each in params)}
    mean = model.average.mean
    model.average.mean = {name: padded(value, outputs) if name in names else value for name, value in mean.items()}
    model.task = replace(model.task, outputs=outputs)
    model.online = grown_metrics(model.online, model)


def grown_metrics(online: LivePrequential, model: LiveModel) -> LivePrequential:
    """Return the online metrics for the model's present task, with all that was counted so far.

    No sample so far was of a new class, and none was predicted as one: its counts are zero. A metric that there is only
    for many classes, such as the five most probable ones, begins with the present sample, which was predicted without
    the new class (:mod:`live.prequential`).
    """
    grown = LivePrequential(model.task).to(model.backbone.device)
    state = grown.state_dict()
    for name, value in online.state_dict().items():
        if name in state:
            state[name] = _embedded(value, state[name])
    grown.load_state_dict(state)
    if online.log is not None and grown.log is not None:
        log, own = online.log.state(), grown.log.state()
        if "confusion" in log and "confusion" in own:
            log["confusion"] = _embedded(log["confusion"], own["confusion"])
        grown.log.load(log)
    counted = dict(online.set.metrics.items(keep_base=True))
    for name, metric in grown.set.metrics.items(keep_base=True):
        if name in counted and counted[name].update_called:
            mark_updated(metric)
    return grown


def mark_updated(metric: Metric) -> None:
    """Let a metric whose state was loaded know that there were samples, which is not in its state."""
    metric._update_count = max(metric._update_count, 1)  # torchmetrics has no public name for it
    metric._computed = None  # likewise


def _embedded(value: Tensor, fresh: Tensor) -> Tensor:
    """Return a tensor in the first corner of another of the same dimensions."""
    if value.shape == fresh.shape:
        return value
    found = fresh.clone()
    found[tuple(slice(size) for size in value.shape)] = value
    return found
