"""Each covariance survives a checkpoint and a copy to the bit, and is refused where it does not fit."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, Categorical
from filtune.optimizers.kalman.covariance import Covariance, base
from torch import nn

from tests.optimizers.models import COVARIANCES, covariance_of, drive, labels, mlp, variances
from tests.optimizers.reference import flat


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_checkpoint_restores_it_to_the_bit(covariance: str) -> None:
    model, stream = mlp(3), labels(6, 2, 3)
    optimizer = EKF(model.parameters(), **covariance_of(covariance, 4), process_noise=1e-3)
    drive(optimizer, model, Categorical, stream[:3])
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    twin = mlp(3, seed=9)
    twin.load_state_dict(saved["model"])
    restored = EKF(twin.parameters(), **covariance_of(covariance, 4), process_noise=1e-3, p0=3.0)
    restored.load_state_dict(saved["optimizer"])
    for it, net in ((optimizer, model), (restored, twin)):
        drive(it, net, Categorical, stream[3:])
    assert torch.equal(flat(model), flat(twin))
    assert restored.filter.keys() == optimizer.filter.keys()
    assert all(torch.equal(restored.filter[name], value) for name, value in optimizer.filter.items())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_copy_goes_on_like_the_original_and_apart_from_it(covariance: str, how: Any) -> None:
    model, stream = mlp(3), labels(6, 2, 3)
    optimizer = EKF(model.parameters(), **covariance_of(covariance, 4))
    drive(optimizer, model, Categorical, stream[:3])
    twin, copied = how((model, optimizer))
    before = flat(model)
    drive(copied, twin, Categorical, stream[3:])
    assert torch.equal(flat(model), before)
    drive(optimizer, model, Categorical, stream[3:])
    assert torch.equal(flat(model), flat(twin))
    assert torch.equal(variances(optimizer), variances(copied))


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        ("diagonal", "full", "holds no filter with covariance full"),
        ("full", "diagonal", "holds no filter with covariance diagonal"),
        ("low_rank", "block_per_neuron", "holds no filter with covariance block_per_neuron"),
        ("full", "block_per_tensor", "over another state: its P0 is"),
    ],
)
def test_the_checkpoint_of_another_covariance_is_refused(saved: str, loaded: str, message: str) -> None:
    state = EKF(mlp(3).parameters(), saved).state_dict()
    with pytest.raises(ValueError, match=message) as error:
        EKF(mlp(3).parameters(), loaded).load_state_dict(state)
    assert "\n" not in str(error.value)


def test_another_rank_is_refused() -> None:
    state = EKF(mlp(3).parameters(), rank=4).state_dict()
    with pytest.raises(ValueError, match=r"its V is \(4, 66\), here it is \(5, 66\)"):
        EKF(mlp(3).parameters(), rank=5).load_state_dict(state)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float64", 8)])
@pytest.mark.parametrize(
    ("covariance", "numbers"),
    [
        ("diagonal", 66),
        ("full", 66**2),
        ("block_per_tensor", 35**2 + 7**2 + 21**2 + 3**2),
        ("block_per_neuron", 7 * 5**2 + 7 + 3 * 7**2 + 3),
        ("low_rank", 66 * (4 + 1) + 4**2),
        ("buffered", 66 * (4 + 10 + 1) + 14**2),
    ],
)
def test_it_is_allowed_for_by_the_bytes_it_takes(
    covariance: str, numbers: int, dtype: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an update three times what is kept: one byte less is too little."""
    monkeypatch.setattr(base, "available_memory", lambda device: 3 * numbers * width)
    optimizer = EKF(mlp(3).parameters(), **covariance_of(covariance, 4), dtype=dtype)
    state = optimizer._covariance.select(optimizer.filter).values()
    assert (
        sum(tensor.numel() * tensor.element_size() for tensor in state if tensor.is_floating_point()) == numbers * width
    )
    monkeypatch.setattr(base, "available_memory", lambda device: 3 * numbers * width - 1)
    with pytest.raises(
        ValueError, match=rf"^optimizer.covariance: {covariance_of(covariance)['covariance']} over 66 parameters takes"
    ):
        EKF(mlp(3).parameters(), **covariance_of(covariance, 4), dtype=dtype)


@pytest.mark.parametrize("covariance", ["full", "block_per_tensor"])
def test_what_does_not_fit_is_refused_with_its_size_before_memory_is_touched(
    covariance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million parameters that take no memory themselves: 372,529 GiB, refused on any machine."""

    def touched(*args: object) -> None:
        raise AssertionError("memory was touched")

    monkeypatch.setattr(Covariance.registry[covariance], "start", touched)
    monkeypatch.setattr("filtune.optimizers.kalman.state.initial_variance", touched)
    huge = nn.Parameter(torch.zeros(1).expand(10_000_000))
    with pytest.raises(
        ValueError, match=r"takes 372,529\.0 GiB, and three times that in an update, of [\d.,]+ GiB"
    ) as error:
        EKF([huge], covariance)
    assert "\n" not in str(error.value)
    assert "take diagonal, low_rank or block_per_neuron" in str(error.value)
