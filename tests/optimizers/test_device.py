"""All state follows the parameters' device: on torch's device without data, and on an emulated one."""

from __future__ import annotations

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
from tests.emulated_device import DEVICE, emulated_device
from tests.optimizers import device_rules
from tests.optimizers.models import drive, labels, mlp, relative
from tests.optimizers.reference import flat
from tests.optimizers.rules import NATURAL, RULES, Scaled, take_steps

META = torch.device("meta")


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
@pytest.mark.parametrize(
    "name",
    [
        # test_emulated_device takes the state of each to the device and back, bit for bit
        pytest.param(name, marks=() if name in ("adamw", "loko", "filtune", "ring") else pytest.mark.slow)
        for name in (*device_rules.FIRST, *device_rules.FILTERS, *device_rules.NATURAL)
    ],
)
def test_a_run_of_the_cpu_goes_on_elsewhere(name: str) -> None:
    """On an emulated device, where mixing fails: the same steps but for rounding."""
    make, stream = device_rules.ALL[name], labels(10, 2, 4)
    model = mlp(4)
    optimizer = make(model.parameters()).attach(model)
    drive(optimizer, model, Categorical, stream[:6])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    torch.manual_seed(1)
    drive(optimizer, model, Categorical, stream[6:])
    with emulated_device():
        other = mlp(4)
        other.load_state_dict(saved[0])
        other = other.to(DEVICE)
        resumed = make(other.parameters()).attach(other)
        resumed.load_state_dict(saved[1])
        torch.manual_seed(1)
        drive(resumed, other, Categorical, [(x.to(DEVICE), y.to(DEVICE)) for x, y in stream[6:]])
        found = torch.cat([p.detach().flatten() for p in other.parameters()]).cpu()
    assert relative(found, flat(model)) <= torch.finfo(torch.float64).eps ** 0.5


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
