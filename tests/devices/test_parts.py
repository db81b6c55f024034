"""Likelihoods, priors, adapters, heads and checkpoints on an emulated device: no mixture, and the CPU's figures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from filtune.datamodules import Task
from filtune.lightning_modules import BackboneConfig
from filtune.lightning_modules.backbones import build_backbone
from filtune.optimizers import (
    AdamW,
    Bernoulli,
    Categorical,
    Filtune,
    Gaussian,
    LoKO,
    OnlineOptimizer,
    Poisson,
    RKalman,
    TorchOptimizer,
)
from torch import Tensor, nn

from tests.emulated_device import DEVICE, emulated_device, host_waits
from tests.optimizers.models import labels, mlp, relative, values

HALF = torch.finfo(torch.float64).eps ** 0.5
"""Half the digits of float64, far more than a wrong formula or a lost update would leave."""

LIKELIHOODS: dict[str, Callable[[Tensor], Any]] = {
    "categorical": Categorical,
    "gaussian": Gaussian,
    "poisson": Poisson,
    "bernoulli": Bernoulli,
}

RULES: dict[str, Any] = {
    "filtune": partial(Filtune, dtype="float64"),
    "filtune, top_k 1": partial(Filtune, top_k=1, dtype="float64"),
    "loko": partial(LoKO, dtype="float64"),
    "r-kalman": partial(RKalman, dtype="float64"),
    "adamw": AdamW,
    "torch": partial(TorchOptimizer, name="torch.optim.NAdam", arguments={"lr": 1e-3}),
}


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with emulated_device():
        yield


def data(kind: str, steps: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Batches of two with targets of a kind."""
    if kind == "categorical":
        return labels(steps, 2, 3)
    if kind == "gaussian":
        return values(steps, 2, 3)
    return [(x, (y.abs() * 3).round() if kind == "poisson" else (y > 0).double()) for x, y in values(steps, 2, 3)]


def train(rule: Any, kind: str, device: torch.device | str) -> tuple[Tensor, OnlineOptimizer]:
    """Take steps on a device; the parameters and the optimizer."""
    model = mlp(3).to(device)
    optimizer = rule(model.parameters()).attach(model)
    for x, y in data(kind):
        x, y = x.to(device), y.to(device)
        optimizer.step(lambda x=x, y=y: LIKELIHOODS[kind](model(x)).observe(y))
        optimizer.predictive()
    return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu(), optimizer


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("filtune", "loko", "torch") else pytest.mark.slow) for n in RULES]
)
def test_every_likelihood_is_learned_as_on_the_cpu(name: str, kind: str) -> None:
    """Parameters, prior by sensitivity, diagnostics and verdicts."""
    (expected, here), (found, there) = (train(RULES[name], kind, device) for device in ("cpu", DEVICE))
    assert relative(found, expected) <= HALF
    assert here.check_divergence() == there.check_divergence()
    one, two = here.recent(), there.recent()
    assert one is not None
    assert two is not None
    assert two.loss == pytest.approx(one.loss, rel=HALF)
    assert set(here.stats) == set(there.stats)
    if "prior_factor" in vars(here).get("state", {}).get("filter", {}):
        assert relative(there.filter["prior_factor"].cpu(), here.filter["prior_factor"]) <= HALF  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_what_a_user_asks_of_predictions_stays_on_the_device(kind: str) -> None:
    """Mean, answer, covariance, predictive, drawn targets and outcomes are there, and agree with the CPU's."""
    x, y = data(kind, 1)[0]
    model, found = mlp(3), []
    for device in (torch.device("cpu"), DEVICE):
        own = copy.deepcopy(model).to(device)
        likelihood = LIKELIHOODS[kind](own(x.to(device)).detach())
        target = y.to(device)
        outcomes = likelihood.outcomes(likelihood.mean(), target)
        parts = [likelihood.mean(), likelihood.answer(), likelihood.covariance(), likelihood.nll(target)]
        parts += [likelihood.predictive(torch.eye(3, dtype=torch.float64, device=device).expand(2, 3, 3))]
        parts += [likelihood.metric_target(target), *(outcomes or ()), likelihood.natural(target).residual]
        assert likelihood.sample().device == likelihood.mean().device == device
        assert {part.device for part in parts} == {device}
        found.append([part.cpu() for part in parts])
    assert all(torch.allclose(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("adapter", ["lora", pytest.param("dora", marks=pytest.mark.slow), "head"])
def test_adapters_and_heads(adapter: str) -> None:
    """Three steps of Filtune on a device; its checkpoint goes on there and on the CPU, with the same next step."""
    task = Task("own", "classification", 3, ("a", "b", "c"), "image", (3, 32, 32), ("accuracy",))
    options: dict[str, Any] = {} if adapter == "head" else {"rank": 2, "targets": ["conv"]}
    config = BackboneConfig("test_resnet.r160_in1k", pretrained=False, adapter=adapter, image_size=32, **options)
    torch.manual_seed(0)
    backbone = build_backbone(config, task).double().eval()
    twin = copy.deepcopy(backbone)
    backbone.to(DEVICE)
    generator, devices = torch.Generator().manual_seed(0), (torch.device("cpu"), DEVICE)
    images = [torch.randn(1, 3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(4)]
    there = [(image.to(DEVICE), torch.tensor([1]).to(DEVICE)) for image in images]

    def optimizer_of(model: nn.Module) -> Any:
        return Filtune(
            [p for p in model.parameters() if p.requires_grad], buffer_size=8, top_k=0, dtype="float64"
        ).attach(model)

    def step(own: Any, model: nn.Module, image: Tensor, label: Tensor) -> None:
        own.step(lambda: Categorical(model(image)).observe(label))

    optimizer = optimizer_of(backbone)
    for batch in there[:3]:
        step(optimizer, backbone, *batch)
    saved = copy.deepcopy(optimizer.state_dict())
    weights = {key: value.cpu() for key, value in backbone.state_dict().items()}
    ends = []
    for device in devices:
        model = copy.deepcopy(twin)
        model.load_state_dict(weights)
        model.to(device)
        resumed = optimizer_of(model)
        resumed.load_state_dict(saved)
        assert resumed.filter["V"].device == device
        step(resumed, model, images[3].to(device), torch.tensor([1]).to(device))
        ends.append([p.detach().cpu() for p in model.parameters()])
    with host_waits() as found:
        step(optimizer, backbone, *there[3])
    # Newton's method is asked whether it has converged, and a layer without derivatives is checked at every step
    assert [wait for wait in found if "posterior_mode" not in wait and "layer_rows" not in wait] == []
    assert all(torch.equal(p.detach().cpu(), q) for p, q in zip(backbone.parameters(), ends[1], strict=True))
    before = [weights[name] for name, _ in backbone.named_parameters()]
    moved = max(float((p - q).abs().max()) for p, q in zip(ends[0], before, strict=True))
    apart = max(float((p - q).abs().max()) for p, q in zip(*ends, strict=True))
    assert moved > 0
    assert apart <= HALF * moved
