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


@pytest.mark.parametrize("adapter", ["lora", "dora", "head", None])
def test_adapters_and_heads(adapter: str | None) -> None:
    """A convolutional backbone with each: three steps of Filtune, and a checkpoint for the CPU and for the device."""
    task = Task("own", "classification", 3, ("a", "b", "c"), "image", (3, 32, 32), ("accuracy",))
    options: dict[str, Any] = {} if adapter in ("head", None) else {"rank": 2, "targets": ["conv"]}
    config = BackboneConfig("resnet10t", pretrained=False, adapter=adapter, image_size=32, **options)
    torch.manual_seed(0)
    backbone = build_backbone(config, task).eval()
    twin = copy.deepcopy(backbone)
    backbone.to(DEVICE)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = Filtune(trained, rank=3, buffer_size=4).attach(backbone)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 32, 32, generator=generator) for _ in range(4)]

    def step(own: Any, model: nn.Module, image: Tensor, device: torch.device) -> None:
        image, label = image.to(device), torch.tensor([1]).to(device)
        own.step(lambda: Categorical(model(image)).observe(label))

    for image in images[:3]:
        step(optimizer, backbone, image, DEVICE)
    saved = {key: value.cpu() for key, value in backbone.state_dict().items()}
    twin.load_state_dict(saved)
    here = Filtune([p for p in twin.parameters() if p.requires_grad], rank=3, buffer_size=4).attach(twin)
    here.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(here, twin, images[3], torch.device("cpu"))
    with host_waits() as found:
        step(optimizer, backbone, images[3], DEVICE)
    assert all("posterior_mode" in wait or "low_rank" in wait for wait in found), found
    pairs = [(p.detach().cpu(), q) for p, q in zip(backbone.parameters(), twin.parameters(), strict=True)]
    change = max(float((q.detach() - saved[name]).abs().max()) for name, q in twin.named_parameters())
    assert max(float((p - q).abs().max()) for p, q in pairs) <= 1e-3 * change
