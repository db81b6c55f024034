"""Many classes: a clear word on what a step will cost, before the first one; few classes: none."""

from __future__ import annotations

import time
import warnings
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Filtune, LoKO
from filtune.optimizers.kalman import step_cost
from filtune.optimizers.kalman.covariance.base import Covariance, available_memory
from filtune.optimizers.kalman.covariance.diagonal import Diagonal
from filtune.optimizers.kalman.covariance.low_rank import LowRank
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def step(optimizer: LoKO | Filtune | EKF, model: nn.Module, classes: int, B: int = 1) -> None:
    optimizer.step(lambda: Categorical(model(torch.ones(B, 3))).observe(torch.arange(B) % classes))


def test_what_a_step_costs_is_said_once_and_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 300)
    optimizer = LoKO(model.parameters())
    order = []
    monkeypatch.setattr(optimizer._build, "_vjp", lambda *_: order.append("Jacobian") or pytest.fail("stop"))
    monkeypatch.setattr(warnings, "warn", lambda message, **_: order.append(message))
    with pytest.raises(pytest.fail.Exception):
        step(optimizer, model, 300)
    said, after = order
    assert after == "Jacobian"
    assert said.startswith("LoKO: 299 rows of the Jacobian per step (299 per sample) over 1,200 parameters")
    assert "Filtune with --optimizer.top_k 1" in said
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


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that operations return for as long as their storage lives."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.bytes, self._sizes = 0, 0, dict[int, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := (storage := tensor.untyped_storage())._cdata) not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.live += storage.nbytes()
                self.bytes = max(self.bytes, self.live)
                weakref.finalize(storage, self._free, key)
        return out

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


def estimated_and_measured(rule: Any, inputs: int, classes: int, B: int, attach: bool = True) -> tuple[int, int, int]:
    """Bytes of a step as they are announced and as they are, and those of the whole Jacobian."""
    model, found = nn.Linear(inputs, classes), []
    optimizer, bytes_of = rule(model.parameters()), step_cost.step_bytes
    if attach:
        optimizer.attach(model)
    x, y = torch.randn(B, inputs), torch.arange(B)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), Peak() as peak:
        warnings.simplefilter("ignore")
        patch.setattr(step_cost, "step_bytes", lambda *args: found.append(bytes_of(*args)) or found[-1])
        optimizer.step(lambda: Categorical(model(x)).observe(y))
    return found[0], peak.bytes, 4 * B * (classes - 1) * sum(p.numel() for p in model.parameters())


MEASURED = {
    "diagonal": LoKO,
    "posterior mode": partial(LoKO, update="posterior_mode"),
    "low_rank": partial(EKF, rank=4),
    "filtune": partial(Filtune, rank=4, buffer_size=4, top_k=0),
    "neuron": partial(EKF, covariance="block_per_neuron"),
}


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize(("inputs", "classes", "B"), [pytest.param(100, 301, 1, marks=pytest.mark.slow), (200, 101, 4)])
def test_a_step_takes_at_least_what_is_announced_and_not_much_more(
    name: str, inputs: int, classes: int, B: int
) -> None:
    """So none that fits is refused; the factor of five is for what comes on top of the Jacobian and HPH'."""
    estimate, peak, whole = estimated_and_measured(MEASURED[name], inputs, classes, B)
    assert estimate <= peak <= 5 * estimate
    assert (estimate > whole) == (name not in ("diagonal", "posterior mode"))


def test_layers_that_no_hook_watches_count_with_their_whole_jacobian() -> None:
    estimate, peak, whole = estimated_and_measured(LoKO, 100, 301, 1, attach=False)
    assert whole <= estimate <= peak


def test_a_step_that_fits_in_factors_is_taken_though_the_whole_jacobian_would_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(300, 301)
    x, y = torch.randn(1, 300), torch.tensor([0])
    monkeypatch.setattr(step_cost, "available_memory", lambda device: 50 * 2**20)  # of 104 MiB of H
    with pytest.warns(UserWarning, match=r"300 backward passes and 0\.0\d GiB"):
        LoKO(model.parameters()).attach(model).step(lambda: Categorical(model(x)).observe(y))
    for optimizer in (LoKO(model.parameters()), EKF(model.parameters(), rank=4).attach(model)):
        with pytest.raises(ValueError, match=r"300 rows of the Jacobian .* of 0\.0 GiB of memory"):
            optimizer.step(lambda: Categorical(model(x)).observe(y))


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
