"""The units of a run's targets, folded into the model's head, so that the exported model gives targets as they are.

A likelihood may learn targets in units of their running location and scale. With outputs z, the exported model gives
shift + scale z: the last layer's weight W and bias b become scale W and shift + scale b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .restore import Restored, example_outputs

NOT_FOLDED = (
    "The model's outputs z are in units of the targets it was trained on: the values are {shift} + {scale} z, "
    "output by output."
)


@torch.no_grad()
def fold_units(run: Restored) -> str:
    """Fold the units of the targets into the head, in place.

    Returns:
        A sentence for the model card where that is not possible; else an empty one.
    """
    if run.target_state is None:
        return ""
    scale, shift = run.target_state.affine()
    if bool((scale == 1).all()) and not bool(shift.any()):
        return ""
    head = _last_layer(run)
    if head is None or head.bias is None:
        return _note(scale, shift)
    before, kept = example_outputs(run.backbone, run), (head.weight.clone(), head.bias.clone())
    head.weight.copy_(scale.unsqueeze(1) * head.weight)
    head.bias.copy_(shift + scale * head.bias)
    expected, found = shift + scale * before.double(), example_outputs(run.backbone, run).double()
    size = float(expected.abs().max() + shift.abs().max())
    if float((found - expected).abs().max()) <= torch.finfo(head.weight.dtype).eps ** 0.5 * size:
        return ""
    head.weight.copy_(kept[0])
    head.bias.copy_(kept[1])
    return _note(scale, shift)


def _last_layer(run: Restored) -> nn.Linear | None:
    """Return the trained dense layer that gives the outputs, where there is one."""
    layers = [
        module
        for module in run.backbone.modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and module.out_features == run.task.outputs
    ]
    return layers[-1] if layers else None


def _note(scale: Tensor, shift: Tensor) -> str:
    numbers = (", ".join(f"{value:.6g}" for value in each.tolist()) for each in (shift, scale))
    return NOT_FOLDED.format(**dict(zip(("shift", "scale"), numbers, strict=True)))
