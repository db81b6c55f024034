"""All state follows the parameters' device: emulated by torch's device without data, on which mixing devices fails."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from filtune.lightning_modules.metrics import Prequential
from filtune.lightning_modules.optimization import WeightAverage
from filtune.optimizers import Categorical, Filtune, OnlineOptimizer
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.kalman.noise import ObservationNoise
from torch import Tensor, nn

from tests.conftest import Task
from tests.optimizers.rules import NATURAL, RULES, Scaled, take_steps

META = torch.device("meta")

READS = ("Filtune", "EKF", "EKF low_rank")
"""Filters that read a value in a step, which this device does not have."""


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yield every tensor of nested containers with its path."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key if isinstance(key, str) else "param"))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value, path)


def on_host(optimizer: OnlineOptimizer) -> set[str]:
    """Names of the tensors that stay on the host: counts of torch's own rules, and what decides on shapes."""
    kept = {"step", "prior_initialized"}
    return kept | optimizer._covariance.on_host if isinstance(optimizer, KalmanOptimizer) else kept


def elsewhere(optimizer: OnlineOptimizer) -> list[tuple[str, ...]]:
    """Paths of the state's tensors that are not with the parameters."""
    found = leaves(dict(optimizer.state))
    return [path for path, tensor in found if tensor.device != META and path[-1] not in on_host(optimizer)]


@pytest.fixture
def saved(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The state of a rule after steps on the CPU."""
    model = Scaled()
    optimizer = RULES[request.param](model.parameters()).attach(model)
    take_steps(optimizer, model, 9)
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "saved"), [(name, name) for name in RULES], indirect=["saved"])
def test_a_state_of_the_cpu_is_loaded_to_where_the_parameters_are(name: str, saved: dict[str, Any]) -> None:
    model = Scaled().to(META)
    optimizer = RULES[name](model.parameters()).attach(model)
    optimizer.load_state_dict(saved)
    assert elsewhere(optimizer) == []
    assert all(tensor.device.type == "cpu" for _, tensor in leaves(saved))  # what was loaded is not tied to it


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "saved"), [(name, name) for name in RULES if name not in READS], indirect=["saved"])
def test_the_next_steps_mix_nothing(name: str, saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has no autocast; where a step reads a value, that is as far as it comes."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    model = Scaled().to(META)
    optimizer = RULES[name](model.parameters())
    if name in NATURAL:  # a filter that watches layers compares derivatives on the host
        optimizer.attach(model)
    optimizer.load_state_dict(saved)
    x, y = torch.zeros(2, 5, device=META), torch.zeros(2, dtype=torch.int64, device=META)
    for _ in range(2):
        try:
            optimizer.step(lambda: Categorical(model(x)).observe(y))
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower() or "item" not in str(error).lower():
                raise
    assert elsewhere(optimizer) == []


@pytest.mark.parametrize("noise", ObservationNoise.registry)
def test_what_a_noise_remembers_follows_too(noise: str) -> None:
    model = Scaled()
    optimizer = RULES["EKF diagonal"](model.parameters(), noise=noise)  # type: ignore[call-arg]
    take_steps(optimizer, model, 2)
    twin = Scaled().to(META)
    other = RULES["EKF diagonal"](twin.parameters(), noise=noise)  # type: ignore[call-arg]
    other.load_state_dict(optimizer.state_dict())
    assert elsewhere(other) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Filtune", "LoKO", *NATURAL])
def test_a_model_that_moves_takes_the_state_along(name: str) -> None:
    """As ``model.to(device)`` does on an accelerator: the parameters stay the same objects."""
    model = Scaled()
    optimizer: Any = RULES[name](model.parameters()).attach(model)
    take_steps(optimizer, model, 9)
    moved = Scaled().to(META)
    optimizer._params[0] = next(iter(moved.parameters()))
    (optimizer._follow_device if name in NATURAL else optimizer.follow_device)()
    assert elsewhere(optimizer) == []


def test_monitors_follow() -> None:
    model = Scaled()
    optimizer = Filtune(model.parameters(), head_reset_scale=1.0, forgetting_factor=0.9)
    take_steps(optimizer, model, 3)
    twin = Scaled().to(META)
    other = Filtune(twin.parameters(), head_reset_scale=1.0, forgetting_factor=0.9)
    other.load_state_dict(optimizer.state_dict())
    assert elsewhere(other) == []
    assert {"tail", "alarm", "nis", "nis_cumulants", "recent", "page"} <= other.filter.keys()


def test_the_mean_of_the_weights_is_where_the_model_is_now() -> None:
    """Lightning moves the model to its device after the checkpoint has been read."""
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 4)
    average.update()
    state = average.state_dict()
    resumed = WeightAverage(nn.Linear(3, 2), 4)
    resumed.load_state_dict(state)
    resumed.params = dict(nn.Linear(3, 2, device=META).named_parameters())  # the model moves
    resumed.update()
    assert {mean.device for mean in resumed.mean.values()} == {META}
    again = WeightAverage(nn.Linear(3, 2, device=META), 4)
    again.load_state_dict(state)
    with again.applied():
        pass
    assert {mean.device for mean in again.mean.values()} == {META}
    assert {mean.device.type for mean in state["mean"].values()} == {"cpu"}


def test_the_online_metrics_are_modules_and_move_with_the_run() -> None:
    online = Prequential(Task(outputs=7))
    online.update(Categorical(torch.randn(2, 7)).observe(torch.tensor([0, 1])))
    moved = online.to(META)
    tensors = [*moved.buffers(), *(v for m in moved.set.metrics.values() for v in m.metric_state.values())]
    assert {tensor.device for tensor in tensors} == {META}
