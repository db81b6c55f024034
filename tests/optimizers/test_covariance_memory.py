"""Each covariance is allowed for by the bytes it takes, and refused where they are not there."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import EKF
from filtune.optimizers.kalman.covariance import Covariance, base
from torch import nn

from tests.optimizers.models import covariance_of, mlp


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
