"""The factors are those of curvlinops, a library of its own, on a small transformer and a small convolutional network.

Its conventions for ``reduction="mean"``, KFAC-expand and one loss term a sample: the input covariance is the sum of
xx' over the positions of all samples divided by their number, N T, with a last 1 in x where weight and bias are
treated jointly; the gradient covariance is the sum over the positions of gg' N^2 / N for g of the mean loss, which is
e / N: the sum of ee' divided by N. Type 2 goes through a root of the logits' Hessian: our exact Fisher information.
"""

from __future__ import annotations

import pytest
import torch
from curvlinops import FisherType, KFACLinearOperator, KFACType
from filtune.optimizers import Categorical
from torch import Tensor, nn

from tests.optimizers.kfac.plain import Factors, apart, take_factors
from tests.optimizers.models import relative, rounding

# Some ten products of at most 32 columns on the way through a network and back, and sums over at most 5 x 64 positions;
# terms of both signs cancel to a tenth of the largest.
CLOSE = rounding(10 * 32 + 5 * 64, condition=10)

WIDTH, HEADS, B = 8, 2, 5


class Block(nn.Module):
    """Attention and a dense layer, each after a norm and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)]).requires_grad_(False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).movedim(2, 0).transpose(2, 3)
        weights = (parts[0] @ parts[1].mT).softmax(-1)
        x = x + self.out((weights @ parts[2]).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    """Two blocks over embedded tokens, their mean, and a head."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, WIDTH).requires_grad_(False)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, m)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(tokens)).mean(1))


def transformer(m: int) -> tuple[nn.Module, Tensor]:
    return Transformer(m), torch.randint(20, (B, 6))


def convolutions(m: int) -> tuple[nn.Module, Tensor]:
    """Padding, stride, a single pixel with and without stride, dilation, no bias, a kernel that is not square."""
    layers = [
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), bias=False),
        nn.Tanh(),
        nn.Conv2d(6, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, dilation=2),
        nn.Tanh(),
        nn.Conv2d(4, 5, 1, stride=(1, 2)),
        nn.Flatten(),
        nn.Linear(5 * 2, m),
    ]
    return nn.Sequential(*layers), torch.randn(B, 2, 8, 8, dtype=torch.float64)


def operator(model: nn.Module, x: Tensor, y: Tensor, fisher: FisherType) -> KFACLinearOperator:
    params = [p for p in model.parameters() if p.requires_grad]
    return KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        params,
        [(x, y)],
        fisher_type=fisher,
        kfac_approx=KFACType.EXPAND,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )


@pytest.mark.parametrize("fisher_type", ["exact", "empirical"])
@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("build", [transformer, convolutions])
def test_factors_and_products(build, m: int, fisher_type: str) -> None:
    model, x = build(m)
    model.double()
    y = torch.arange(B) % m
    found = take_factors(model, lambda: Categorical(model(x)).observe(y), fisher_type=fisher_type)

    theirs = operator(model, x, y, FisherType.TYPE2 if fisher_type == "exact" else FisherType.EMPIRICAL)
    params = [p for p in model.parameters() if p.requires_grad]
    direction = [torch.randn_like(p) for p in params]
    product = theirs @ direction
    state = theirs.state_dict()
    covariances = (state["input_covariances"], state["gradient_covariances"])
    assert apart(found, {name: (covariances[0][name], covariances[1][name]) for name in covariances[1]}) <= CLOSE

    for ours, their in zip(times(model, found, direction), product, strict=True):
        assert relative(ours, their) <= CLOSE


def times(model: nn.Module, factors: Factors, direction: list[Tensor]) -> list[Tensor]:
    """Gamma D Lambda of every layer's [W, b]."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    of = dict(zip(names, direction, strict=True))
    for name, (Lambda, Gamma) in factors.items():
        weight, bias = of[f"{name}.weight"], of.get(f"{name}.bias")
        D = weight.flatten(1) if bias is None else torch.cat([weight.flatten(1), bias[:, None]], 1)
        D = Gamma @ D @ Lambda
        of[f"{name}.weight"] = D[:, : weight[0].numel()].reshape(weight.shape)
        if bias is not None:
            of[f"{name}.bias"] = D[:, -1]
    return [of[name] for name in names]
