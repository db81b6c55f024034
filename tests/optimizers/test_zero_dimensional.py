"""Parameters without dimensions, or without entries, are parameters: the same update as with one of a dimension."""

from __future__ import annotations

import warnings

import pytest
import torch
from filtune.optimizers import EKF, Categorical
from filtune.optimizers.kalman.covariance import Covariance
from torch import Tensor, nn

from tests.optimizers.models import drive, labels
from tests.optimizers.rules import NATURAL, RULES, Scaled, take_steps


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_a_scale_without_dimensions_is_trained(name: str, attached: bool) -> None:
    if name in NATURAL and not attached:
        pytest.skip("it must be attached")
    model = Scaled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no Kronecker factors
        optimizer = RULES[name](model.parameters())
        if attached:
            optimizer.attach(model)
        for B in (1, 2):
            take_steps(optimizer, model, 2, seed=B, B=B)
    assert model.scale.dim() == 0
    assert float(model.scale.detach()) != 1.5
    assert bool(model.scale.isfinite())


class Net(nn.Module):
    """5 -> 3, times a scale of this shape, and nothing; float64."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(5, 3).double()
        self.scale = nn.Parameter(torch.full(shape, 1.2, dtype=torch.float64))
        self.nothing = nn.Parameter(torch.empty(0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, 3)."""
        return self.linear(x) * self.scale + self.nothing.sum()


@pytest.mark.parametrize("covariance", Covariance.registry)
def test_the_update_is_that_of_one_entry(covariance: str) -> None:
    results = []
    for shape in ((), (1,)):
        model = Net(shape)
        optimizer = EKF(model.parameters(), covariance=covariance, p0_init="sensitivity", dtype="float64")
        drive(optimizer, model, Categorical, labels(4, 2, 3))
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)
