"""Targets that a likelihood excludes are refused before anything is learned from them."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import Likelihood
from torch import Tensor, nn

from filtune import Bernoulli, Categorical, Gaussian, LoKO, Poisson


@pytest.mark.parametrize(
    ("kind", "outputs", "target", "message"),
    [
        (Categorical, 3, torch.tensor([0, 3]), "a target is 3, must be the index of a class, from 0 to below 3"),
        (Categorical, 3, torch.tensor([0, -1]), "a target is -1"),
        (Categorical, 3, torch.tensor([[0], [1]]), r"need a target of shape \(2,\) or \(2, 3\), got \(2, 1\)"),
        (Gaussian, 2, torch.tensor([1.0, 2.0]), r"need a target of shape \(2, 2\), got \(2,\)"),
        (Poisson, 1, torch.tensor([-1.0, 2.0]), "a target is -1.0, must be zero or positive"),
        (Bernoulli, 2, torch.tensor([[0, 2], [1, 1]]), "a target is 2, must lie in \\[0, 1\\]"),
    ],
)
def test_an_invalid_target_is_refused(kind: type[Likelihood], outputs: int, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{kind.__name__}: .*{message}"):
        kind(torch.zeros(2, outputs)).observe(target)


def test_nothing_changes_where_a_target_is_refused() -> None:
    model = nn.Linear(4, 3)
    optimizer, before = LoKO(model.parameters()), [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="Categorical: a target is 7"):
        optimizer.step(lambda: Categorical(model(torch.ones(1, 4))).observe(torch.tensor([7])))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert not int(optimizer.filter["steps"])


def test_gradients_of_each_sample_are_computed_by_vmap() -> None:
    """The values of a batched target cannot be looked at."""
    W, x, y = torch.randn(3, 4), torch.randn(5, 4), torch.randint(3, (5,))

    def loss(weight: Tensor, sample: Tensor, target: Tensor) -> Tensor:
        return Categorical((sample @ weight.T)[None]).observe(target[None]).nll()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(W, x, y)
    joint = torch.func.grad(lambda weight: Categorical(x @ weight.T).observe(y).nll())(W)
    torch.testing.assert_close(each.mean(0), joint)
