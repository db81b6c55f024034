"""Wrong arguments are refused in one line that names them; diagnostics of the last step are detached and named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import (
    NGD,
    RENG,
    RING,
    SAM,
    SGD,
    AdaGrad,
    AdamW,
    Categorical,
    Filtune,
    Gaussian,
    LoKO,
    OnlineOptimizer,
    RKalman,
    Sophia,
)
from torch import nn

from tests.optimizers.models import drive, labels, mlp

NAN, INF = float("nan"), float("inf")

REFUSED: dict[type[OnlineOptimizer], dict[str, list[Any]]] = {
    LoKO: {
        "p0": [0.0, -1.0, INF, -INF, NAN],
        "r0": [-1.0, INF, NAN],
        "beta": [-0.1, 1.0, 2.0, NAN],
        "chunk_size": [0, -3],
        "p0_init": ["normal", ""],
        "noise": ["ema", "ema-3"],
        "observation": ["odds", "values"],
        "dtype": ["bfloat16", "float16"],
        "update": ["mode", ""],
        "vectorize": ["loop", 1],
    },
    RKalman: {"rho": [-1.0, INF, NAN], "process_noise": [-0.1], "divergence_threshold": [1.0]},
    Filtune: {"top_k": [-1], "nis_window": [-1], "head_reset_scale": [-1.0]},
    SAM: {
        "base": ["adam"],
        "lr": [-1.0, NAN],
        "rho": [-0.1, INF],
        "momentum": [1.0],
        "betas": [(0.9, 1.0), (-0.1, 0.9)],
        "eps": [-1.0],
        "weight_decay": [-1.0],
    },
    Sophia: {
        "lr": [-1.0, NAN],
        "betas": [(1.0, 0.9), (0.9, -0.1)],
        "gamma": [0.0],
        "eps": [0.0],
        "weight_decay": [-1.0],
        "hessian_every": [0],
    },
    NGD: {
        "rho": [0.0, -1.0, INF, NAN],
        "phi": [0.0, 1.5],
        "skip": [0],
        "factor_decay": [1.0],
        "momentum": [1.0],
        "kl_clip": [-1.0],
        "lr": [-1.0],
        "fallback_lr": [-1.0],
        "inverse_method": ["lu"],
        "fisher_type": ["true"],
        "damping_schedule": ["yes"],
        "unsupported_params": ["sgd"],
    },
    RING: {"min_relative_damping": [2.0]},
    RENG: {"grad_penalty": [-1.0]},
}
CASES = [(rule, name, value) for rule, names in REFUSED.items() for name, values in names.items() for value in values]


@pytest.mark.parametrize(("rule", "name", "value"), CASES, ids=lambda v: getattr(v, "__name__", repr(v)))
def test_arguments_out_of_range_are_named(rule: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{rule.__name__}: {name} must .*got [^\n]*$") as error:
        rule(mlp(3).parameters(), **{name: value})
    assert str(value) in str(error.value)


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [(LoKO, "p0", 0.0), (LoKO, "p0", NAN), (LoKO, "p0_init", "normal"), (SAM, "rho", -1.0), (Sophia, "gamma", 0.0)],
)
def test_so_are_a_groups_own(rule: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{rule.__name__}: {name} must"):
        rule([{"params": mlp(3).parameters(), name: value}])


def test_frozen_parameters_are_refused_and_the_rest_is_taken() -> None:
    model = mlp(3)
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"^LoKO: params must all require grad"):
        LoKO(model.parameters())
    optimizer = LoKO(p for p in model.parameters() if p.requires_grad)
    drive(optimizer, model, Categorical, labels(1, 1, 3))


@pytest.mark.parametrize("rule", [LoKO, NGD], ids=lambda rule: rule.__name__)
def test_parameters_cannot_join_later(rule: Any) -> None:
    optimizer = rule(mlp(3).parameters())
    with pytest.raises(ValueError, match=rf"^{rule.__name__}: parameters cannot join") as error:
        optimizer.add_param_group({"params": mlp(2).parameters()})
    assert "\n" not in str(error.value)
    assert len(optimizer.param_groups) == 1


FIGURES = {
    LoKO: {
        "innovation_norm",
        "update_norm",
        "gain_norm",
        "noise_trace",
        "variance_min",
        "variance_mean",
        "cholesky_retries",
        "clamped",
        "nonfinite_steps",
        "exploded",
    },
    AdamW: {"grad_norm", "nonfinite_steps"},
    AdaGrad: {"grad_norm", "nonfinite_steps"},
    SGD: {"grad_norm", "nonfinite_steps"},
    SAM: {"grad_norm", "sharpness", "nonfinite_steps"},
    Sophia: {"grad_norm", "hessian_norm", "clipped", "nonfinite_steps"},
}


@pytest.mark.parametrize("rule", FIGURES, ids=lambda rule: rule.__name__)
def test_figures_are_detached_scalars_of_the_last_step(rule: Any) -> None:
    model = mlp(3)
    optimizer = rule(model.parameters())
    stream = labels(2, 1, 3)
    drive(optimizer, model, Categorical, stream[:1])
    first = dict(optimizer.stats)
    kept = {name: value.clone() for name, value in first.items()}
    drive(optimizer, model, Categorical, stream[1:])
    assert optimizer.stats.keys() == FIGURES[rule]
    for name, value in optimizer.stats.items():
        assert value.shape == (), name
        assert not value.requires_grad, name
        assert torch.equal(first[name], kept[name]), name


def test_counters_of_an_earlier_step_stay_what_they_were() -> None:
    """A zero sample without noise makes S zero, which takes a jitter; then one that is not a number."""
    model = nn.Linear(5, 1, bias=False).double()
    optimizer = LoKO(model.parameters(), dtype="float64")
    optimizer.state["filter"]["R"] = torch.zeros(1, 1, dtype=torch.float64)
    figures = []
    for value in (0.0, 0.0, float("nan")):
        x = torch.full((1, 5), value, dtype=torch.float64)
        optimizer.step(lambda x=x: Gaussian(model(x)).observe(torch.zeros(1, 1)))
        figures.append(optimizer.stats)
    assert [int(stats["cholesky_retries"]) for stats in figures] == [1, 2, 2]
    assert [int(stats["nonfinite_steps"]) for stats in figures] == [0, 0, 1]


def test_figures_say_what_happened() -> None:
    model = mlp(3)
    optimizer = LoKO(model.parameters(), dtype="float64")
    (x, y) = labels(1, 2, 3)[0]
    residual = Categorical(model(x)).observe(y).innovation().residual
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    drive(optimizer, model, Categorical, [(x, y)])
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    stats, p = optimizer.stats, torch.cat([v.flatten() for v in optimizer.variance()])
    assert torch.equal(stats["innovation_norm"], residual.norm())
    assert float(stats["update_norm"]) == pytest.approx(float(moved.norm()), rel=1e-12)
    assert float(stats["gain_norm"]) == pytest.approx(float(moved.norm() / residual.norm()), rel=1e-12)
    assert torch.equal(stats["noise_trace"], optimizer.state["filter"]["R"].trace())
    assert torch.equal(stats["variance_min"], p.min())
    assert torch.equal(stats["variance_mean"], p.mean())
    assert [int(stats[name]) for name in ("cholesky_retries", "clamped", "nonfinite_steps")] == [0, 0, 0]
