"""Checkpoints and options of earlier releases are understood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.lightning_modules.legacy import translate_optimizer
from filtune.optimizers import EKF, Categorical, Filtune, LoKO
from torch import Tensor

from tests.optimizers.models import drive, labels, mlp, relative, variances
from tests.optimizers.reference import flat

OLD = {
    "prior_initialized": "begun",
    "tempering_log_weights": "evidence",
    "cholesky_retries": "escalations",
    "nonfinite_steps": "nonfinite",
}


def as_saved_before(state: dict[str, Any], lofi: bool = False) -> dict[str, Any]:
    """The state dict with the filter's tensors under their old names; LoFi kept two tensors of its covariance."""
    old = {OLD.get(name, name): value for name, value in state["state"]["filter"].items()}
    if lofi:
        old = {name: value for name, value in old.items() if name not in ("gram", "filled")}
    elif "V" in old and "pending" not in old:
        old["pending"] = torch.zeros_like(old["precision"])
    return {**state, "state": {**state["state"], "filter": old}}


@pytest.mark.parametrize(
    ("rule", "options", "lofi"),
    [
        (LoKO, {}, False),
        (LoKO, {"observation": "logits"}, False),
        (EKF, {"rank": 6, "buffer_size": 5}, False),
        (EKF, {"rank": 4}, True),
        (Filtune, {"rank": 5, "buffer_size": 4, "head_reset_scale": 10.0}, False),
    ],
    ids=["loko", "loko logits", "buffered", "low-rank", "filtune"],
)
def test_a_checkpoint_in_old_names_goes_on(rule: Any, options: dict[str, Any], lofi: bool) -> None:
    """To the bit; LoFi's, whose V D V' is recomputed, to rounding."""
    model, twin, stream = mlp(3), mlp(3), labels(12, 2, 3)
    optimizer = rule(model.parameters(), dtype="float64", **options)
    drive(optimizer, model, Categorical, stream[:8])
    twin.load_state_dict(model.state_dict())
    resumed = rule(twin.parameters(), dtype="float64", **options)
    resumed.load_state_dict(as_saved_before(optimizer.state_dict(), lofi))
    assert resumed.filter.keys() == optimizer.filter.keys()
    for each, its in ((optimizer, model), (resumed, twin)):
        drive(each, its, Categorical, stream[8:])
    pairs = [(flat(model), flat(twin)), (variances(optimizer), variances(resumed))]
    assert all(relative(a, b) <= 1e-12 if lofi else torch.equal(a, b) for a, b in pairs)


def test_what_waited_for_a_compression_is_not_lost() -> None:
    """Rows that were held back go into the diagonal where nothing is held back any more."""
    model = mlp(3)
    optimizer = EKF(model.parameters(), rank=4, buffer_size=8, rows_per_sample=1, dtype="float64")
    drive(optimizer, model, Categorical, labels(3, 2, 3))
    before: dict[str, Tensor] = optimizer.state_dict()["state"]["filter"]
    assert bool(before["pending"].any())
    other = EKF(model.parameters(), rank=4, buffer_size=8, dtype="float64")
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.filter["precision"], before["precision"] + before["pending"])
    gram = (other.filter["V"] / other.filter["precision"]) @ other.filter["V"].mT
    assert relative(other.filter["gram"], gram) <= 1e-12


SPELLED_OUT = {"rank": 10, "buffer": 10, "keep": 0, "noise": "ema-2", "beta": 0.95, "explode": 100.0}


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ({"covariance": "low-rank"}, {"covariance": "low_rank", "buffer_size": 0}),
        ({"covariance": "buffered"}, {"covariance": "low_rank", "buffer_size": 10}),
        ({"covariance": "neuron"}, {"covariance": "block_per_neuron"}),
        ({"covariance": "full", "rank": 30}, {"covariance": "full"}),
        ({"covariance": "diagonal", "noise": "mode", "jacobian": "loop"}, {"update": "posterior_mode"}),
    ],
    ids=lambda options: options.get("covariance", ""),
)
def test_options_of_earlier_releases_build_the_same_filter(old: dict[str, Any], expected: dict[str, Any]) -> None:
    options = translate_optimizer({**SPELLED_OUT, **old})
    assert expected.items() <= options.items()
    EKF(mlp(3).parameters(), **options)
