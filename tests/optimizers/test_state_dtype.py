"""Directions kept in bfloat16: the filter is exact for the rows as they are rounded, and resumes bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, Filtune, Gaussian
from torch.func import jacrev

from tests.optimizers.models import drive, mlp, relative, rounding, values, variances
from tests.optimizers.reference import flat, outputs_of

U = torch.finfo(torch.bfloat16).eps / 2
"""Unit roundoff: an entry v is kept as v (1 + t) with |t| <= U."""

SQUARED = 2 * U + U**2
"""So that a product of two entries is off by at most this share, |(1 + s)(1 + t) - 1|."""


def rounded(model: torch.nn.Module, **options: Any) -> EKF:
    options = {"rank": 3, "buffer_size": 5, "p0": 0.5, "noise": "identity", "r0": 0.4, "dtype": "float64"} | options
    return EKF(model.parameters(), covariance="low_rank", state_dtype="bfloat16", **options)


def precision_of(optimizer: EKF) -> torch.Tensor:
    """P^-1, (n, n)."""
    state = optimizer.filter
    V = state["V"].double()
    return torch.diag(state["precision"] + state.get("pending", 0)) + V.T @ V


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("options", [{}, {"rows_per_sample": 2}, {"buffer_size": 0, "rank": 8}])
def test_a_step_is_exact_for_the_rows_that_are_kept(B: int, options: dict[str, Any]) -> None:
    """The change of the parameters is that of a dense filter with the rounded rows for its prior.

    The information that a batch adds is off by the rounding of its own rows, and in a compression by that of the
    directions kept: on the diagonal by no more than twice ``SQUARED`` of all that V holds.
    """
    model, r = mlp(3), 0.4
    optimizer = rounded(model, **options)
    for x, y in values(12, B, 3):
        prior, before, filled = precision_of(optimizer), flat(model), int(optimizer.filter["filled"])
        H = jacrev(outputs_of(model, x))(before).flatten(0, 1)
        e = (y - outputs_of(model, x)(before)).detach().flatten()
        held = prior.diagonal() + H.square().sum(0) / r
        waiting = optimizer.filter.get("pending", torch.zeros_like(held)).clone()
        drive(optimizer, model, Gaussian, [(x, y)])
        used = prior - torch.diag(waiting)  # what waits for the next compression is no part of P yet
        exact = used + H.T @ H / r
        tolerance = rounding(2000, condition=float(torch.linalg.cond(exact)))
        assert relative(flat(model) - before, torch.linalg.solve(exact, H.T @ e / r)) <= tolerance
        after = precision_of(optimizer)
        if int(optimizer.filter["filled"]) == filled + len(H) and not options:
            limit = SQUARED * (H.abs().T @ H.abs() / r) + rounding(4000) * exact.abs().max()
            assert bool(((after - exact).abs() <= limit).all())
        assert bool(((after.diagonal() - held).abs() <= 2 * SQUARED * held).all())
        V, D = optimizer.filter["V"].double(), 1 / optimizer.filter["precision"]
        assert relative(optimizer.filter["gram"], (V * D) @ V.T) <= rounding(4000)
        inside = torch.diag(optimizer.filter["precision"]) + V.T @ V
        assert relative(variances(optimizer), torch.linalg.inv(inside).diagonal()) <= tolerance
        assert bool((variances(optimizer) > 0).all())


@pytest.mark.parametrize("options", [{}, {"process_noise": 1e-3}, {"buffer_size": 0}])
def test_a_resumed_filter_is_the_uninterrupted_one_bit_for_bit(options: dict[str, Any]) -> None:
    stream, model = values(14, 2, 3), mlp(3)
    optimizer = rounded(model, **{"dtype": "float32", **options})
    drive(optimizer, model, Gaussian, stream[:7])
    twin = copy.deepcopy(model)
    resumed = rounded(twin, **{"dtype": "float32", **options})
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.filter["V"].dtype == torch.bfloat16
    for own, net in ((optimizer, model), (resumed, twin)):
        drive(own, net, Gaussian, stream[7:])
    assert torch.equal(flat(model), flat(twin))
    for name, value in optimizer.filter.items():
        assert torch.equal(value, resumed.filter[name]), name


def test_it_takes_half_the_memory_and_is_named_where_it_differs() -> None:
    model = mlp(3)
    half, whole = (Filtune(model.parameters(), state_dtype=kind) for kind in ("bfloat16", "same"))
    assert 2 * half.filter["V"].nbytes == whole.filter["V"].nbytes
    with pytest.raises(ValueError, match=r"in torch.bfloat16, this one has dtype torch.float32 for its V; build"):
        whole.load_state_dict(half.state_dict())
    with pytest.raises(ValueError, match="Filtune: state_dtype must be one of same, bfloat16; got 'float16'"):
        Filtune(model.parameters(), state_dtype="float16")
