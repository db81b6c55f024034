"""NGD, RING and RENG step as their equations say, written out plainly in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import NGD, RENG, RING, Categorical, Gaussian, OnlineOptimizer
from filtune.optimizers.kfac.inverses import Eigen
from filtune.optimizers.kfac.output_gradients import Exact
from torch import Tensor, nn

from tests.optimizers.kfac.reference import Reference
from tests.optimizers.models import labels, mlp, relative, rounding

STEPS, B, M = 6, 4, 3
KINDS = {"ngd": NGD, "ring": RING, "reng": RENG}

# Two matrices inverted a step, of at most 8 columns, with condition numbers of at most 1 / sqrt(rho) = 10 (RING), and
# of 1 + |M| / sqrt(rho) < 1000 (the others); a hundred roundings on the way through network and gradient.
CLOSE = rounding(STEPS * (100 + 2 * 10 * 8), condition=1000**2)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def both(
    kind: str, m: int = M, fisher_type: str = "exact", **options: Any
) -> tuple[nn.Module, nn.Module, OnlineOptimizer]:
    """The model after the optimizer's steps, and after the reference's."""
    model, other = mlp(m), mlp(m)
    common = {
        "rho": 1e-2,
        "lr": 0.5,
        "phi": 1.0,
        "skip": 1,
        **({"grad_penalty": 0.0} if kind == "reng" else {}),
        **options,
    }
    own = {"factor_decay" if name == "decay" else name: value for name, value in common.items()}
    optimizer = KINDS[kind](model.parameters(), fisher_type=fisher_type, inverse_method="eigen", **own).attach(model)
    reference = Reference(other, Categorical, kind, **common)
    for x, y in labels(STEPS, B, m):
        seen = optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        assert torch.equal(seen.target, y)
        reference.step(x, y)
    return model, other, optimizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decay": 0.0, "momentum": 0.0, "kl_clip": 0.0},
        {"skip": 3},
        {"skip": 4, "phi": 0.9},
        {"kl_clip": 1e-6, "momentum": 0.5},
    ],
    ids=str,
)
def test_steps_are_those_of_the_equations(kind: str, options: dict[str, Any]) -> None:
    model, other, _ = both(kind, **options)
    assert relative(flat(model), flat(other)) <= CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_two_classes_need_no_further_pass(kind: str) -> None:
    """The exact Fisher information is the default there: what the reference works out label by label."""
    model, other, _ = both(kind, m=2, fisher_type="auto")
    assert relative(flat(model), flat(other)) <= CLOSE


@pytest.mark.parametrize("c", [0.01, 1.0])
@pytest.mark.parametrize("skip", [1, 3])
def test_reng_follows_the_penalised_gradient_by_double_backpropagation(c: float, skip: int) -> None:
    model, other, _ = both("reng", grad_penalty=c, skip=skip)
    assert relative(flat(model), flat(other)) <= CLOSE
    plain, _, _ = both("reng", grad_penalty=0.0, skip=skip)
    assert relative(flat(model), flat(plain)) > 1e3 * CLOSE


@pytest.mark.parametrize("minimum", [0.0, 0.5])
def test_rings_minimum_damping(minimum: float) -> None:
    model, other, _ = both("ring", min_relative_damping=minimum)
    assert relative(flat(model), flat(other)) <= CLOSE


@pytest.mark.parametrize("inverse", ["cholesky", "newton-quadratic", "newton-cubic", "newton-quartic"])
def test_every_inverse_gives_the_same_step(inverse: str) -> None:
    """Not of RING, whose damping comes from a power iteration unless the eigenvalues are known."""
    model, other = mlp(M), mlp(M)
    options = {"rho": 1e-2, "phi": 1.0, "skip": 1, "fisher_type": "exact"}
    first, second = (
        NGD(net.parameters(), inverse_method=how, **options).attach(net)
        for net, how in ((model, inverse), (other, "eigen"))
    )
    for x, y in labels(STEPS, B, M):
        first.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        second.step(lambda x=x, y=y: Categorical(other(x)).observe(y))
    assert relative(flat(model), flat(other)) <= CLOSE
    assert float(first.stats["residual"]) <= CLOSE


def test_paper_exact_is_the_algorithm_of_the_paper() -> None:
    """alpha / L, no average, momentum, minimum damping or bound; exact labels take the place of sampled ones."""
    model, other = mlp(M), mlp(M)
    optimizer = RING(model.parameters(), lr=0.5, rho=1e-2, phi=1.0, skip=1, paper_exact=True)
    assert (optimizer.fisher_type.name, optimizer.inverse_method.name) == ("mc", "newton-paper")
    optimizer.fisher_type, optimizer.inverse_method = Exact, Eigen()
    optimizer.attach(model)
    without = {"decay": 0.0, "momentum": 0.0, "kl_clip": 0.0, "min_relative_damping": 0.0}
    reference = Reference(other, Categorical, "ring", lr=0.5, **without, per_layer=True)
    for x, y in labels(3, B, M):
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        reference.step(x, y)
    assert relative(flat(model), flat(other)) <= CLOSE


def test_linear_regression_is_solved_in_one_step() -> None:
    """A linear model with unit noise and its exact Fisher information: one undamped full step is Newton's."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    x, y = torch.randn(50, 4).double(), torch.randn(50, 2).double()
    options = {
        "rho": 1e-24,
        "momentum": 0.0,
        "kl_clip": 0.0,
        "fisher_type": "exact",
        "inverse_method": "eigen",
        "damping_schedule": "none",
    }
    optimizer = NGD(model.parameters(), lr=1.0, **options).attach(model)
    optimizer.step(lambda: Gaussian(model(x)).observe(y))
    ones = torch.cat([x, torch.ones(50, 1).double()], 1)
    exact = torch.linalg.lstsq(ones, y).solution.mT
    found = torch.cat([model.weight, model.bias[:, None]], 1)
    # sqrt(rho) = 1e-12 shifts eigenvalues of about 1; the condition number of x'x is below 10
    assert relative(found, exact) <= 1e-11 + rounding(50 * 10, condition=100)
