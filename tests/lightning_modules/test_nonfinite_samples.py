"""A sample whose prediction is not finite is counted apart: no online metric loses its value for ever."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.lightning_modules.metrics import Prequential, WindowedMean, usable
from filtune.lightning_modules.scores import ProbabilityScores
from filtune.optimizers import Bernoulli, Categorical, Gaussian, Poisson
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import Task

KINDS: dict[str, tuple[Any, int]] = {
    "classification": (Categorical, 7),
    "multilabel": (Bernoulli, 3),
    "regression": (Gaussian, 1),
    "count": (Poisson, 1),
}


def targets(kind: str, B: int, outputs: int, generator: torch.Generator) -> Tensor:
    """Targets at random."""
    if kind == "classification":
        return torch.randint(outputs, (B,), generator=generator)
    if kind == "multilabel":
        return torch.randint(2, (B, outputs), generator=generator).float()
    if kind == "count":
        return torch.randint(5, (B, outputs), generator=generator).float()
    return torch.randn(B, outputs, generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    B=st.integers(1, 3),
    bad=st.sets(st.integers(0, 29), max_size=6),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    seed=st.integers(0, 1000),
)
def test_the_figures_are_those_of_the_other_samples(kind: str, B: int, bad: set[int], value: float, seed: int) -> None:
    """Against a run that never sees the bad samples."""
    likelihood, outputs = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    z, y = torch.randn(30, outputs, generator=generator), targets(kind, 30, outputs, generator)
    broken = z.clone()
    broken[sorted(bad), 0] = value
    kept = [i for i in range(30) if i not in bad]
    online, clean = Prequential(Task(kind=kind, outputs=outputs)), Prequential(Task(kind=kind, outputs=outputs))
    for rows in torch.arange(30).split(B):
        predictive = broken[rows].softmax(1) if kind == "classification" else None
        online.update(likelihood(broken[rows]).observe(y[rows]), predictive)
        good = [int(i) for i in rows if int(i) in kept]
        if good:
            clean.update(likelihood(z[good]).observe(y[good]), z[good].softmax(1) if predictive is not None else None)
    figures, expected = online.compute(), clean.compute()
    counted = int(figures.pop("online/nonfinite_samples", torch.tensor(0)))
    assert counted == len(bad)
    assert figures.keys() == expected.keys()
    for name, figure in figures.items():
        # float32 sums of thirty terms in another order
        assert float(figure) == pytest.approx(float(expected[name]), rel=1e-5, abs=1e-6), name
    assert int(online.samples) == 30


def test_one_sample_is_left_out_without_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: all states of all metrics are kept by a mask."""
    z, y = torch.randn(20, 7), torch.randint(7, (20,))
    z[5] = float("nan")
    online, clean = Prequential(Task(outputs=7)), Prequential(Task(outputs=7))
    for i in range(20):
        observation = Categorical(z[i : i + 1]).observe(y[i : i + 1])
        online.set.update(observation, usable(observation).all())
        if i != 5:
            clean.set.update(observation)
    for name, value in clean.set.compute("online/").items():
        assert torch.equal(online.set.compute("online/")[name], value)


def test_scores_and_windows_leave_them_out_by_themselves() -> None:
    scores, p = ProbabilityScores(), torch.tensor([[0.2, 0.8], [float("nan"), 0.5], [0.6, 0.4]])
    scores.update(p, torch.tensor([1, 0, 0]))
    clean = ProbabilityScores()
    clean.update(p[[0, 2]], torch.tensor([1, 0]))
    assert scores.samples() == 2
    assert {k: float(v) for k, v in scores.compute("").items()} == {k: float(v) for k, v in clean.compute("").items()}
    window = WindowedMean(3)
    for value in (1.0, float("nan"), 3.0, float("inf")):
        window.update(torch.tensor([value]))
    window.update(torch.tensor([float("nan"), 5.0]))
    assert float(window.compute()) == 3.0


def test_it_is_saved_and_a_run_of_an_earlier_release_starts_at_none() -> None:
    online = Prequential(Task(outputs=7))
    online.update(Categorical(torch.full((1, 7), float("nan"))).observe(torch.tensor([1])))
    twin = copy.deepcopy(Prequential(Task(outputs=7)))
    twin.load_state_dict(online.state_dict())
    assert int(twin.compute()["online/nonfinite_samples"]) == 1
