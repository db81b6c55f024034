"""Many classes: a clear word on what a step will cost, before the first one; few classes: none."""

from __future__ import annotations

import time
import warnings

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Filtune, LoKO
from filtune.optimizers.kalman import step_cost
from filtune.optimizers.kalman.covariance.base import Covariance, available_memory
from filtune.optimizers.kalman.covariance.diagonal import Diagonal
from filtune.optimizers.kalman.covariance.low_rank import LowRank
from torch import nn


def step(optimizer: LoKO | Filtune | EKF, model: nn.Module, classes: int, B: int = 1) -> None:
    optimizer.step(lambda: Categorical(model(torch.ones(B, 3))).observe(torch.arange(B) % classes))


def test_what_a_step_costs_is_said_once_and_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 300)
    optimizer = LoKO(model.parameters())
    order = []
    monkeypatch.setattr(optimizer, "_build", lambda *_: order.append("Jacobian") or pytest.fail("stop"))
    monkeypatch.setattr(warnings, "warn", lambda message, **_: order.append(message))
    with pytest.raises(pytest.fail.Exception):
        step(optimizer, model, 300)
    said, after = order
    assert after == "Jacobian"
    assert said.startswith("LoKO: 299 rows of the Jacobian per step (299 per sample) over 1,200 parameters")
    assert "Filtune with --optimizer.top_k 3" in said
    assert "\n" not in said


@pytest.mark.filterwarnings("error")
def test_few_rows_and_merged_classes_need_no_word() -> None:
    model = nn.Linear(3, 100)
    step(LoKO(model.parameters()), model, 100)
    model = nn.Linear(3, 2000)
    step(Filtune(model.parameters(), top_k=3, rank=4, buffer_size=4), model, 2000)


def test_a_batch_counts_with_all_its_rows() -> None:
    model = nn.Linear(3, 90)
    with pytest.warns(UserWarning, match=r"267 rows of the Jacobian per step \(89 per sample\)"):
        step(LoKO(model.parameters()), model, 90, B=3)


def test_a_jacobian_larger_than_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 300)
    optimizer = LoKO(model.parameters())
    monkeypatch.setattr(step_cost, "available_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"^LoKO: 299 rows .* of 0.0 GiB of memory; take fewer classes[^\n]*$"):
        step(optimizer, model, 300)
    assert available_memory(torch.device("cpu")) > 2**20


@pytest.mark.slow
@pytest.mark.parametrize(("covariance", "rows"), [("low_rank", 600), ("diagonal", 1200)])
def test_the_time_that_is_said_is_of_the_right_size(covariance: str, rows: int) -> None:
    """Within a factor of ten: it is to tell seconds from hours."""
    part: Covariance = {"low_rank": LowRank, "diagonal": Diagonal}[covariance]([torch.Size((4 * rows,))])
    model = nn.Linear(3, rows + 1)
    optimizer = EKF(model.parameters(), covariance=covariance, update="posterior_mode")
    start = time.perf_counter()
    with pytest.warns(UserWarning, match="rows of the Jacobian"):
        step(optimizer, model, rows + 1)
    took = time.perf_counter() - start
    said = part.factorisations * step_cost.factorisation_seconds(rows, torch.device("cpu"))
    assert took / 10 <= said <= 10 * took
