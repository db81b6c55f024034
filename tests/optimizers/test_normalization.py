"""Under autocast, rows through normalisation layers are computed in one vectorised pass."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
from filtune.optimizers import Categorical, LoKO
from filtune.optimizers.normalization import NORMALIZATIONS, normalize_in_float32
from torch import Tensor, nn

from .models import relative, rounding

CLASSES = 5

NORMS: dict[str, nn.Module] = {
    "batch": nn.BatchNorm2d(4),
    "batch, not affine": nn.BatchNorm2d(4, affine=False),
    "instance": nn.InstanceNorm2d(4, affine=True),
    "group": nn.GroupNorm(2, 4),
    "layer": nn.LayerNorm(6),
    "layer, not affine": nn.LayerNorm(6, elementwise_affine=False),
    "rms": nn.RMSNorm(6),
}


def convnet(norm: nn.Module) -> nn.Module:
    """A convolution, a normalisation and a head."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), copy.deepcopy(norm), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    return model.eval()


def rows(model: nn.Module, batch: int, vectorize: bool) -> Tensor:
    """The Jacobian of one batch under autocast."""
    optimizer = LoKO(model.parameters(), vectorize=vectorize).attach(model)
    torch.manual_seed(1)
    x = torch.randn(batch, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(x)
    found = optimizer._build(outputs, Categorical(outputs).natural(torch.zeros(batch, dtype=torch.long)).cotangents)
    assert optimizer._build.vectorize == vectorize
    return found.dense()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of RMSNorm, which works
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NORMS)
def test_rows_are_vectorised_and_those_of_the_loop(name: str, batch: int) -> None:
    """They differ by the rounding of the products behind the layer: head, ReLU, normalisation, convolution."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the batched Jacobian")
        found = rows(convnet(NORMS[name]), batch, True)
    expected = rows(convnet(NORMS[name]), batch, False)
    assert relative(found, expected) <= rounding(4, dtype=torch.bfloat16)


def test_efficientnet_does_not_fall_back_to_a_loop() -> None:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=CLASSES).eval()
    for name, param in model.named_parameters():
        param.requires_grad_(name.endswith("conv_pw.weight") or "classifier" in name)
    optimizer = LoKO([p for p in model.parameters() if p.requires_grad]).attach(model)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.filterwarnings("error", message="the batched Jacobian")
        optimizer.step(lambda: Categorical(model(torch.zeros(1, 3, 32, 32))).observe(torch.tensor([0])))
    assert optimizer._build._batched_works


def test_a_layer_is_cast_once_and_only_under_autocast() -> None:
    model = convnet(nn.BatchNorm2d(4))
    for watched in (model, copy.deepcopy(model)):
        normalize_in_float32(watched)
        normalize_in_float32(watched)
        assert [len(m._forward_pre_hooks) for m in watched.modules() if isinstance(m, NORMALIZATIONS)] == [1]
    halved = convnet(nn.BatchNorm2d(4)).bfloat16()
    normalize_in_float32(halved)
    assert halved[1](torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert model[1](torch.ones(1, 4, 2, 2)).dtype == torch.float32
