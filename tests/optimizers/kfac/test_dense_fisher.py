"""Lambda (x) Gamma against the dense Fisher information from autograd, where the two are the same matrix."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from filtune.optimizers import RING, Categorical, Gaussian
from filtune.optimizers.likelihoods.base import Likelihood
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from tests.optimizers.kfac.plain import Factors, apart, plain_factors, read_factors, take_factors
from tests.optimizers.models import labels, mlp, relative, rounding, values

# Three layers of at most 8 columns, forwards and backwards, and sums over at most 60 positions and labels; terms of
# both signs cancel to a tenth of the largest.
CLOSE = rounding(2 * 3 * 8 + 60, condition=10)


def dense_fisher(model: nn.Module, likelihood: type[Likelihood], x: Tensor) -> dict[str, Tensor]:
    """Mean over the samples of J'FJ, J that of every layer's [W, b] row by row, (out k, out k)."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    J = jacrev(lambda own: functional_call(model, own, x))(params)
    out = model(x).detach()
    if likelihood is Gaussian:
        F = torch.eye(out.shape[1], dtype=out.dtype).expand(len(x), -1, -1)
    else:
        p = out.softmax(-1)
        F = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    found = {}
    for name in [name.removesuffix(".weight") for name in params if name.endswith("weight")]:
        parts = [J[f"{name}.weight"].flatten(3)]
        if f"{name}.bias" in params and model.get_submodule(name).bias.requires_grad:
            parts.append(J[f"{name}.bias"].unsqueeze(-1))
        own = torch.cat(parts, -1).flatten(2)
        found[name] = torch.einsum("bmi,bmn,bnj->ij", own, F, own) / len(x)
    return found


def check_blocks(found: Factors, expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, (Lambda, Gamma) in found.items():
        assert relative(torch.kron(Gamma, Lambda), expected[name]) <= CLOSE


def of(model: nn.Module, likelihood: type[Likelihood], x: Tensor, y: Tensor, **options: Any) -> Factors:
    return take_factors(model, lambda: likelihood(model(x)).observe(y), **options)


def plain(model: nn.Module, x: Tensor, weights: Tensor | None = None) -> Factors:
    return plain_factors(model, lambda b: model(x[b : b + 1]), weights, len(x))


@pytest.mark.parametrize("B", [1, 2, 7])
def test_deep_linear_networks_with_gaussian_values(B: int) -> None:
    """e depends on no x there: every block is Lambda (x) Gamma, whatever the batch."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(6, 3)).double()
    ((x, y),) = values(1, B, 3)
    check_blocks(of(model, Gaussian, x, y, fisher_type="exact"), dense_fisher(model, Gaussian, x))


@pytest.mark.parametrize("frozen", [False, True], ids=["bias trained", "bias frozen"])
@pytest.mark.parametrize("m", [2, 4])
def test_one_sample_of_any_network(m: int, frozen: bool) -> None:
    """One x and one position; of a trained bias a last column of ones, of a frozen one none."""
    model = mlp(m)
    for layer in (model[0], model[2]):
        layer.bias.requires_grad_(not frozen)
    ((x, y),) = labels(1, 1, m)
    found = of(model, Categorical, x, y, fisher_type="exact")
    check_blocks(found, dense_fisher(model, Categorical, x))
    Lambda = found["0"][0]
    assert Lambda.shape[0] == 5 + (not frozen)
    if not frozen:
        assert torch.equal(Lambda[-1, :-1], x[0])
        assert Lambda[-1, -1] == 1


def test_two_samples_of_a_curved_network_differ() -> None:
    """There it is an approximation: the tests above can fail."""
    model, (x, y) = mlp(2), labels(1, 2, 2)[0]
    with pytest.raises(AssertionError):
        check_blocks(of(model, Categorical, x, y, fisher_type="exact"), dense_fisher(model, Categorical, x))


@pytest.mark.parametrize("fisher_type", ["auto", "exact"])
def test_two_classes_come_from_the_ordinary_backward_pass(fisher_type: str) -> None:
    """Scaled from the observed label's, they are those of both labels, each with its probability."""
    model = mlp(2)
    for x, y in labels(5, 6, 2):
        assert apart(of(model, Categorical, x, y, fisher_type=fisher_type), plain(model, x)) <= CLOSE


@pytest.mark.parametrize("scale", [10.0, 30.0])
def test_two_classes_where_the_model_is_sure_of_itself(scale: float) -> None:
    """Logits that are 10 and 30 apart, the label right and wrong.

    Errors of the ordinary pass come from p - onehot, whose rounding u is divided by the residual r, and of the right
    label r is the small probability: sqrt(F) u / r. Gamma, of size F = p0 p1, is off by 2 u / r.
    """
    model, (x, _) = nn.Linear(5, 2).double(), labels(1, 4, 2)[0]
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([scale, 0.0]))
    smallest = float(torch.tensor(-scale).exp())
    for y in (torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)):
        found = of(model, Categorical, x, y, fisher_type="auto")
        assert apart(found, plain(model, x)) <= 4 * torch.finfo(torch.float64).eps / smallest + CLOSE


def test_a_single_value() -> None:
    model, (x, y) = mlp(1), values(1, 1, 1)[0]
    check_blocks(of(model, Gaussian, x, y, fisher_type="auto"), dense_fisher(model, Gaussian, x))


@pytest.mark.parametrize(
    ("likelihood", "m", "fisher_type", "passes"),
    [
        (Categorical, 2, "auto", 1),
        (Categorical, 2, "exact", 1),
        (Categorical, 2, "mc", 2),
        (Categorical, 4, "auto", 2),
        (Categorical, 4, "mc", 2),
        (Categorical, 4, "exact", 5),
        (Categorical, 4, "empirical", 1),
        (Gaussian, 1, "auto", 1),
        (Gaussian, 3, "auto", 2),
        (Gaussian, 3, "exact", 4),
    ],
)
def test_backward_passes(
    likelihood: type[Likelihood], m: int, fisher_type: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a refresh; the steps between two refreshes take one."""
    model, calls, original = mlp(m), [], torch.autograd.grad
    stream = (labels if likelihood is Categorical else values)(3, 3, m)
    optimizer = RING(model.parameters(), fisher_type=fisher_type, skip=2).attach(model)
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **more: calls.append(1) or original(*args, **more))
    for (x, y), expected in zip(stream, (passes, 1, passes), strict=True):
        calls.clear()
        optimizer.step(lambda x=x, y=y: likelihood(model(x)).observe(y))
        assert len(calls) == expected


@pytest.mark.parametrize("m", [2, 3])
def test_sampled_labels_are_right_on_average(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all draws of two samples' labels, each with its probability."""
    model, (x, y) = mlp(m), labels(1, 2, m)[0]
    p, total = model(x).softmax(-1).detach(), {}
    for draw in itertools.product(range(m), repeat=2):
        monkeypatch.setattr(Categorical, "sample", lambda self, draw=draw: torch.tensor(draw))
        for name, (Lambda, Gamma) in of(model, Categorical, x, y, fisher_type="mc").items():
            share = p[0, draw[0]] * p[1, draw[1]]
            total[name] = [Lambda, share * Gamma + total.get(name, (0, 0))[1]]
    assert apart(total, of(model, Categorical, x, y, fisher_type="exact")) <= CLOSE


def test_sampled_labels_are_drawn_from_the_model() -> None:
    """Each draw is what the labels it stands for give, and all of a small batch come up in their proportion.

    Of n = 100 draws with probability p the share has the standard deviation sqrt(p (1 - p) / n) <= 0.05: four of them.
    """
    model, (x, y) = mlp(2), labels(1, 1, 2)[0]
    optimizer = RING(model.parameters(), lr=0.0, fisher_type="mc", factor_decay=0.0, skip=1).attach(model)
    each = [plain(model, x, torch.eye(2, dtype=torch.float64)[[label]]) for label in range(2)]
    hits = [0, 0]
    for _ in range(100):
        optimizer.step(lambda: Categorical(model(x)).observe(y))
        found = read_factors(optimizer)
        label = min(range(2), key=lambda label: apart(found, each[label]))
        assert apart(found, each[label]) <= CLOSE
        hits[label] += 1
    assert abs(hits[1] / 100 - float(model(x).softmax(-1)[0, 1])) <= 0.2
