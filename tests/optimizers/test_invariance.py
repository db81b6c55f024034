"""What LoKO must not depend on: the names of the classes, the basis of the simplex, the grouping of the parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from filtune.optimizers import Categorical, LoKO
from filtune.optimizers.kalman.state import FILTER
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.optimizers.models import FEATURES, drive, labels, mlp, relative
from tests.optimizers.reference import flat, ones_complement

STEPS = 4
CLOSE = 1e-11
"""Two ways through the same algebra: gamma_k of rounding with k under 1e3 operations a step and cond(S) under 1e2."""


def result(model: nn.Module, optimizer: LoKO) -> tuple[Tensor, Tensor]:
    """theta and p, flat, in the order of the model's parameters."""
    where = {id(p): v for p, v in zip(optimizer.trained(), optimizer.variance(), strict=True)}
    return flat(model), torch.cat([where[id(p)].flatten() for p in model.parameters()])


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    """theta and p agree to rounding."""
    assert relative(a[0], b[0]) <= CLOSE
    assert relative(a[1], b[1]) <= CLOSE


def relabelled(vectors: Sequence[Tensor], order: Tensor) -> list[Tensor]:
    """The tensors of an MLP (weight, bias, head weight, head bias) with the head's rows in another order."""
    return [*vectors[:2], vectors[2][order], vectors[3][order]]


@settings(max_examples=25)
@given(data=st.data(), m=st.integers(2, 6), B=st.integers(1, 3), seed=st.integers(0, 99))
@pytest.mark.parametrize("observation", ["probabilities", "logits"])
def test_relabelling_the_classes_relabels_the_head(
    observation: str, data: st.DataObject, m: int, B: int, seed: int
) -> None:
    order = torch.tensor(data.draw(st.permutations(range(m))))
    stream = labels(STEPS, B, m, seed)
    model = mlp(m, seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p, value in zip(other.parameters(), relabelled(list(model.parameters()), order), strict=True):
            p.copy_(value)
    first, second = (LoKO(x.parameters(), observation=observation, dtype="float64") for x in (model, other))
    second.state[FILTER]["p"] = torch.cat([v.flatten() for v in relabelled(first.variance(), order)])
    drive(first.attach(model), model, Categorical, stream)
    drive(second.attach(other), other, Categorical, [(x, order.argsort()[y]) for x, y in stream])
    theta = torch.cat([v.flatten() for v in relabelled(list(model.parameters()), order)])
    p = torch.cat([v.flatten() for v in relabelled(first.variance(), order)])
    same(result(other, second), (theta, p))


@settings(max_examples=25)
@given(m=st.integers(2, 7), B=st.integers(1, 3), seed=st.integers(0, 99))
@pytest.mark.parametrize("noise", ["ema-1", "ema-2"])
def test_any_orthonormal_basis_will_do(noise: str, m: int, B: int, seed: int) -> None:
    stream, results = labels(STEPS, B, m, seed), []
    for basis in (None, ones_complement(m, seed)):

        class Rotated(Categorical):
            """Probabilities in other coordinates."""

            def _basis(self, basis: Tensor | None = basis) -> Tensor:
                return super()._basis() if basis is None else basis

        model = mlp(m, seed)
        optimizer = LoKO(model.parameters(), p0_init="constant", noise=noise, dtype="float64")
        drive(optimizer, model, Rotated, stream)
        results.append(result(model, optimizer))
    same(*results)


@settings(max_examples=25)
@given(data=st.data(), B=st.integers(1, 3), seed=st.integers(0, 99), attached=st.booleans())
def test_order_and_grouping_of_parameters_make_no_difference(
    data: st.DataObject, B: int, seed: int, attached: bool
) -> None:
    stream, m = labels(STEPS, B, 3, seed), 3
    names = data.draw(st.permutations(["0.weight", "0.bias", "2.weight", "2.bias"]))
    cut = data.draw(st.integers(1, 3))
    results = []
    for split in (False, True):
        model = mlp(m, seed)
        named = dict(model.named_parameters())
        groups = [{"params": [named[n] for n in part]} for part in (names[:cut], names[cut:])]
        optimizer = LoKO(groups if split else model.parameters(), p0_init="constant", dtype="float64")
        drive(optimizer.attach(model) if attached else optimizer, model, Categorical, stream)
        results.append(result(model, optimizer))
    same(*results)


@settings(max_examples=25)
@given(B=st.integers(2, 4), seed=st.integers(0, 99))
def test_order_within_a_batch_makes_no_difference(B: int, seed: int) -> None:
    results = []
    for backwards in (False, True):
        model = mlp(4, seed)
        optimizer = LoKO(model.parameters(), p0_init="constant", dtype="float64").attach(model)
        drive(
            optimizer,
            model,
            Categorical,
            [(x.flip(0), y.flip(0)) if backwards else (x, y) for x, y in labels(STEPS, B, 4, seed)],
        )
        results.append(result(model, optimizer))
    same(*results)


@settings(max_examples=25)
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_units_of_a_parameter_make_no_difference(scale: float, seed: int) -> None:
    """theta = scale * phi with p scaled by 1/scale^2: a filter is covariant, a gradient step is not."""
    (stream, results) = labels(STEPS, 1, 3, seed), []
    for unit in (1.0, scale):
        torch.manual_seed(seed)
        model = nn.Linear(FEATURES, 3).double()
        with torch.no_grad():
            model.weight.div_(unit)
            model.bias.div_(unit)
        optimizer = LoKO(model.parameters(), p0=0.2 / unit**2, p0_init="constant", dtype="float64")
        drive(optimizer, model, lambda out, unit=unit: Categorical(out * unit), stream)
        theta, p = result(model, optimizer)
        results.append((theta * unit, p * unit**2))
    same(*results)
