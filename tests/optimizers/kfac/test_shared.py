"""One factor for layers with the same input, and factors held as their rows: the same steps as without either."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from filtune.optimizers import NGD, RENG, RING, Categorical
from filtune.optimizers.distributed import Ranks
from filtune.optimizers.kfac.factors import DenseFactor, LowRankFactor, prefers_low_rank
from filtune.optimizers.kfac.inverses import Cholesky, InverseMethod
from filtune.optimizers.kfac.natural import NaturalOptimizer
from filtune.optimizers.kfac.shared import SHARED, SharedFactor
from torch import Tensor, nn

from tests.optimizers.models import relative, rounding
from tests.optimizers.test_resume import same

K = 6
Stream = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Two layers of attention; with ``apart`` each projection is given a copy of the input."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(K, K).double() for name in ("query", "key", "value")}) for _ in range(2)
        )
        self.head = nn.Linear(K, 3).double()
        self.apart = False
        with torch.no_grad():
            for param in self.parameters():
                param.copy_(0.5 * torch.randn(param.shape, generator=generator, dtype=param.dtype))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            q, k, v = (layer[name](x.clone() if self.apart else x) for name in ("query", "key", "value"))
            x = x + (q @ k.mT / K**0.5).softmax(-1) @ v
        return self.head(x.mean(1))


def stream(steps: int = 6) -> Stream:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(2, 4, K, generator=generator, dtype=torch.float64), torch.randint(3, (2,), generator=generator))
        for _ in range(steps)
    ]


def train(optimizer: NaturalOptimizer, model: nn.Module, samples: Stream, start: int = 0) -> Tensor:
    """Take the steps and return all parameters."""
    for n, (x, y) in enumerate(samples, start):
        torch.manual_seed(n)  # labels are sampled
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def a_states(optimizer: NaturalOptimizer) -> list[dict[str, Any]]:
    return [group["a_factor"] for group in optimizer.natural["groups"].values()]


@pytest.mark.parametrize("kind", [RING, RENG])
@pytest.mark.parametrize("inverse_method", ["cholesky", "eigen", "newton-cubic"])
@pytest.mark.parametrize("apart_from", [None, 4])
def test_layers_with_one_input_take_the_same_steps_with_one_factor(
    kind: type, inverse_method: str, apart_from: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the inputs differ from some refresh on. 6 steps of sums over at most 64 products, conditioned by rho.

    The largest amplification of rounding is 1 / sqrt(rho) a factor, two factors a step.
    """
    found = []
    for shares in (True, False):
        monkeypatch.setattr(kind, "shares_inputs", shares)
        model, samples = Attention(), stream()
        optimizer = kind(model.parameters(), rho=1e-2, skip=2, inverse_method=inverse_method).attach(model)
        train(optimizer, model, samples[:apart_from])
        assert [SHARED in state for state in a_states(optimizer)] == [shares, False]
        assert len(a_states(optimizer)[0]["M"]) == (2 if shares else 6)
        model.apart = True
        found.append(train(optimizer, model, samples[apart_from or 6 :], start=apart_from or 6))
        if apart_from:
            assert len(a_states(optimizer)[0]["M"]) == 6
    assert relative(*found) <= rounding(6 * 64, condition=100)


def test_inverses_are_not_shared_where_each_layer_has_its_damping() -> None:
    model = Attention()
    optimizer = NGD(model.parameters()).attach(model)
    train(optimizer, model, stream(1))
    assert not any(SHARED in state for state in a_states(optimizer))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_with_shared_factors_is_the_same_to_the_bit(stop: int) -> None:
    """At a refresh, where Cholesky factors are kept, and after it, where they have become inverses."""
    model, samples = Attention(), stream()
    optimizer = RING(model.parameters(), skip=3).attach(model)
    train(optimizer, model, samples[:stop])
    twin, saved = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    resumed = RING(twin.parameters(), skip=3).attach(twin)
    resumed.load_state_dict(saved)
    assert same(optimizer.state["natural"], resumed.state["natural"])
    assert torch.equal(train(optimizer, model, samples[stop:], stop), train(resumed, twin, samples[stop:], stop))


@pytest.mark.parametrize("places", [[0, 0, 0], [0, 1, 0, 2, 1, 0], [0, 0, 1, 1], [0, 1, 1]])
@pytest.mark.parametrize("low_rank", [False, True])
def test_any_arrangement_of_inputs(places: Sequence[int], low_rank: bool) -> None:
    """To the bit for the matrices; products and solutions of stacked rows round differently."""
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(3, K, generator=generator, dtype=torch.float64) for _ in range(max(places) + 1)]
    rows, counts = [inputs[place] for place in places], torch.full((len(places),), 3.0, dtype=torch.float64)
    V = torch.randn(len(places), 2, K, generator=generator, dtype=torch.float64)
    root, c = torch.tensor(0.1, dtype=torch.float64), torch.arange(1.0, len(inputs) + 1, dtype=torch.float64)[places]

    def make() -> LowRankFactor | DenseFactor:
        return LowRankFactor({}, 0.9) if low_rank else DenseFactor({}, 0.9, Cholesky())

    shared, own = SharedFactor(make(), places), make()
    for factor in (shared, own):
        factor.add(rows, counts, Ranks())
        factor.prepare(root, c)
    assert torch.equal(shared.trace(), own.trace())
    assert relative(shared.spectral_norm(), own.spectral_norm()) <= rounding(100 * K)
    assert relative(shared.times(V), own.times(V)) <= rounding(2 * K)
    for new in (root, 1.2 * root):
        lam = None if new is root else new
        solved = (f.solve(V, None if lam is None else f.damping(lam)) for f in (shared, own))
        assert relative(*solved) <= rounding(2 * K * K, condition=1e4)
    assert (shared.residual() <= rounding(100 * K, condition=1e3)).all()


@pytest.mark.parametrize("rows", [1, 24])
def test_the_factor_of_one_refresh_is_inverted_by_its_rows(rows: int) -> None:
    """Woodbury's identity against the dense inverse, at the damping of the refresh and at another.

    Both are backward stable; the condition number is at most 1 + |X|^2 / lam.
    """
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(rows, 384, generator=generator, dtype=torch.float64)
    V = torch.randn(1, 8, 384, generator=generator, dtype=torch.float64)
    assert prefers_low_rank(384, rows, 0.0, Cholesky())
    assert not prefers_low_rank(384, rows, 0.9, Cholesky())
    assert not prefers_low_rank(384, rows, 0.0, InverseMethod.registry["newton-paper"]())
    factor = LowRankFactor({}, 0.0)
    factor.add([X], torch.tensor([float(rows)], dtype=torch.float64), Ranks())
    lam = torch.tensor([0.01], dtype=torch.float64)
    factor.prepare(lam[0], torch.ones(1, dtype=torch.float64))
    condition = 1 + float(factor.spectral_norm()) / 0.01
    for damping in (None, 3 * lam):
        used = lam if damping is None else damping
        exact = V @ torch.linalg.inv(X.mT @ X / rows + used * torch.eye(384, dtype=torch.float64))
        assert relative(factor.solve(V, damping), exact) <= rounding(384, condition=condition)


def test_a_layer_that_is_not_finite_keeps_its_average_and_the_others_go_on() -> None:
    factor, X = DenseFactor({}, 0.9, Cholesky()), torch.eye(K, dtype=torch.float64)
    counts = torch.ones(2, dtype=torch.float64)
    factor.add([X, X], counts, Ranks())
    factor.add([torch.full_like(X, float("inf")), 3 * X], counts, Ranks())
    assert torch.equal(factor.state["M"][0], X)
    assert torch.allclose(factor.state["M"][1], X * (0.9 + 9) / 1.9, rtol=1e-15)
