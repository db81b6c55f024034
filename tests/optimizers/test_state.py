"""The filter's state survives a checkpoint to the bit, and what does not fit is refused."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from filtune.optimizers import Categorical, LoKO
from filtune.optimizers.kalman.state import FILTER
from torch import nn

from tests.optimizers.models import FEATURES, drive, labels, mlp
from tests.optimizers.reference import flat

FLOATS = [torch.float64, torch.float32, torch.bfloat16]


def through_disk(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load, by the loader that runs no code."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def stream(steps: int, floating: torch.dtype, seed: int = 1) -> list:
    """Three-class samples of that type, two at a time."""
    return [(x.to(floating), y) for x, y in labels(steps, 2, 3, seed)]


@pytest.mark.parametrize("floating", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("attached", [False, True])
def test_a_resumed_run_equals_the_uninterrupted_one(floating: torch.dtype, dtype: str, attached: bool) -> None:
    model = mlp(3).to(floating)
    optimizer = LoKO([{"params": model[0].parameters(), "p0": 2.0}, {"params": model[2].parameters()}], dtype=dtype)
    if attached:
        optimizer.attach(model)
    drive(optimizer, model, Categorical, stream(5, floating))
    saved = through_disk({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    drive(optimizer, model, Categorical, stream(5, floating, seed=2))

    twin = mlp(3, seed=9).to(floating)
    twin.load_state_dict(saved["model"])
    resumed = LoKO([{"params": twin[0].parameters()}, {"params": twin[2].parameters()}], p0=0.7, dtype=dtype)
    if attached:
        resumed.attach(twin)
    resumed.load_state_dict(saved["optimizer"])
    assert [group["p0"] for group in resumed.param_groups] == [2.0, 0.2]
    assert resumed.state[FILTER]["p"].dtype == optimizer.dtype
    drive(resumed, twin, Categorical, stream(5, floating, seed=2))
    assert torch.equal(flat(twin), flat(model))
    assert resumed.state[FILTER].keys() == optimizer.state[FILTER].keys() == {
        "p", "R", "scale", "steps", "failed_at", "nonfinite_steps", "exploded", "cholesky_retries", "clamped", "recent",
    }  # fmt: skip
    for name, tensor in optimizer.state[FILTER].items():
        assert torch.equal(resumed.state[FILTER][name], tensor)
        assert resumed.state[FILTER][name].dtype == tensor.dtype
    assert resumed.stats.keys() == optimizer.stats.keys()
    assert all(torch.equal(resumed.stats[name], value) for name, value in optimizer.stats.items())


def test_a_checkpoint_taken_before_the_first_step_has_no_noise_yet() -> None:
    model, twin = mlp(3), mlp(3)
    optimizer, resumed = LoKO(model.parameters()), LoKO(twin.parameters(), p0=3.0)
    drive(resumed, mlp(3), Categorical, [])
    resumed.load_state_dict(through_disk(optimizer.state_dict()))
    for it, net in ((optimizer, model), (resumed, twin)):
        drive(it, net, Categorical, stream(2, torch.float64))
    assert torch.equal(flat(model), flat(twin))


def test_loading_does_not_tie_the_two() -> None:
    """Straight from the other's state_dict, without a file in between; the counters too."""
    model = mlp(3)
    optimizer, resumed = LoKO(model.parameters()), LoKO(model.parameters())
    drive(optimizer, model, Categorical, stream(1, torch.float64))
    resumed.load_state_dict(optimizer.state_dict())
    before = {name: tensor.clone() for name, tensor in resumed.state[FILTER].items()}
    drive(optimizer, model, Categorical, stream(1, torch.float64))
    drive(optimizer, model, Categorical, [(torch.full((1, 5), float("nan")).double(), torch.tensor([0]))])
    assert int(optimizer.state[FILTER]["nonfinite_steps"]) == 1
    assert resumed.state[FILTER].keys() == before.keys()
    assert all(torch.equal(resumed.state[FILTER][name], tensor) for name, tensor in before.items())


def test_what_does_not_fit_is_refused() -> None:
    optimizer = LoKO(mlp(3).parameters(), dtype="float64")
    with pytest.raises(ValueError, match=r"over another state: its p is \(66,\), here it is \(74,\)"):
        LoKO(mlp(4).parameters(), dtype="float64").load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"in torch\.float64, this one has dtype torch\.float32"):
        LoKO(mlp(3).parameters()).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="no filter"):
        optimizer.load_state_dict(torch.optim.SGD(mlp(3).parameters()).state_dict())
    model = mlp(3)
    grouped = LoKO([{"params": layer.parameters()} for layer in (model[0], model[2])], dtype="float64")
    with pytest.raises(ValueError, match="group"):
        grouped.load_state_dict(optimizer.state_dict())


def test_another_number_of_coordinates_is_refused() -> None:
    model = mlp(3)
    optimizer = LoKO(model.parameters())
    drive(optimizer, model, Categorical, stream(1, torch.float64))
    model[2] = nn.Linear(7, 4).double()
    with pytest.raises(ValueError, match="observed 2 coordinates so far, now 3"):
        optimizer.step(lambda: Categorical(model(torch.ones(1, FEATURES).double())).observe(torch.tensor([0])))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float64", "noise": "ema-1", "vectorize": False, "beta": 0.5, "chunk_size": 7}]
)
def test_a_copy_of_model_and_optimizer_goes_on_like_the_original(how: Any, options: dict[str, Any]) -> None:
    model = mlp(3)
    optimizer = LoKO(model.parameters(), **options).attach(model)
    drive(optimizer, model, Categorical, stream(2, torch.float64))
    twin, copied = how((model, optimizer))
    assert (copied._build.vectorize, copied._build.chunk_size) == (
        optimizer._build.vectorize,
        optimizer._build.chunk_size,
    )
    before = flat(model)
    drive(copied.attach(twin), twin, Categorical, stream(3, torch.float64, seed=2))
    assert torch.equal(flat(model), before)
    drive(optimizer, model, Categorical, stream(3, torch.float64, seed=2))
    assert torch.equal(flat(model), flat(twin))
    assert torch.equal(optimizer.state[FILTER]["p"], copied.state[FILTER]["p"])


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float64", 8)])
def test_state_bytes_counts_p_the_scale_R_and_six_counters(dtype: str, width: int) -> None:
    model = mlp(3)
    optimizer = LoKO(model.parameters(), dtype=dtype)
    assert optimizer.state_bytes() == (66 + 1) * width + 6 * 8
    drive(optimizer, model, Categorical, stream(1, torch.float64))
    assert optimizer.state_bytes() == (66 + 1 + 4) * width + 6 * 8


def test_variance_is_shaped_like_the_parameters_in_the_order_of_the_groups() -> None:
    model = mlp(3)
    optimizer = LoKO([{"params": [model[2].weight]}, {"params": [model[0].bias, model[0].weight]}])
    assert [tuple(v.shape) for v in optimizer.variance()] == [(3, 7), (7,), (7, 5)]
    assert torch.equal(torch.cat([v.flatten() for v in optimizer.variance()]), optimizer.state[FILTER]["p"])
