"""Every optimizer's state survives a file, a copy and a load to the bit, and a state that does not fit is refused."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from filtune.optimizers import (
    EKF,
    NGD,
    RENG,
    RING,
    SAM,
    SGD,
    AdaGrad,
    AdamW,
    Categorical,
    Filtune,
    LoKO,
    OnlineOptimizer,
    Sophia,
)
from filtune.optimizers.kfac import factors
from torch import Tensor, nn

from tests.optimizers.models import COVARIANCES, FEATURES, Stream, convnet, covariance_of, drive, labels, mlp
from tests.optimizers.reference import flat

M = 3
pytestmark = pytest.mark.filterwarnings("ignore:.*no Kronecker factors", "ignore:RENG")


def with_norm(m: int, seed: int = 0) -> nn.Module:
    """mlp with a LayerNorm, whose weights have no factors."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, m)).double()


def layers(model: nn.Module, **second: Any) -> list[dict[str, Any]]:
    """Two layers as two groups, the second with options of its own."""
    return [{"params": model[0].parameters()}, {"params": model[2].parameters(), **second}]


def single(m: int, seed: int = 0) -> nn.Module:
    return mlp(m, seed).float()


def half(m: int, seed: int = 0) -> nn.Module:
    return mlp(m, seed).bfloat16()


SAM_ADAMW = {"base": "adamw", "lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3}
SOPHIA = {"lr": 0.05, "betas": (0.8, 0.9), "gamma": 1.0, "eps": 1e-3, "weight_decay": 0.1, "hessian_every": 3}
Build = Callable[[nn.Module], OnlineOptimizer]
CASES: dict[str, tuple[Callable[..., nn.Module], Build]] = {
    "loko": (mlp, lambda net: LoKO(layers(net, p0=2.0), dtype="float64").attach(net)),
    "loko, single": (single, lambda net: LoKO(layers(net, p0=2.0)).attach(net)),
    "loko, half": (half, lambda net: LoKO(net.parameters())),
    "loko, looped": (mlp, lambda net: LoKO(net.parameters(), noise="ema-1", vectorize=False, beta=0.5, chunk_size=7)),
    **{
        name: (mlp, lambda net, name=name: EKF(net.parameters(), **covariance_of(name, 4), process_noise=1e-3))
        for name in COVARIANCES
    },
    "filtune": (mlp, lambda net: Filtune(net.parameters(), rank=5, head_reset_scale=10.0, nis_window=4)),
    "adamw": (mlp, lambda net: AdamW(layers(net, lr=0.1))),
    "adagrad": (mlp, lambda net: AdaGrad(layers(net, lr=0.1))),
    "sgd": (mlp, lambda net: SGD(layers(net, lr=0.1), momentum=0.9)),
    "sam": (mlp, lambda net: SAM(layers(net, lr=0.05), momentum=0.9)),
    "sam, adamw": (mlp, lambda net: SAM(layers(net, lr=0.05), **SAM_ADAMW)),
    "sophia": (mlp, lambda net: Sophia(layers(net, lr=0.01, gamma=0.1), **SOPHIA)),
    "ngd": (with_norm, lambda net: NGD(net.parameters(), skip=3, inverse_method="eigen").attach(net)),
    "ring": (convnet, lambda net: RING(net.parameters(), skip=3, inverse_method="cholesky").attach(net)),
    "reng": (mlp, lambda net: RENG(net.parameters(), skip=3, inverse_method="newton-cubic").attach(net)),
}
each = pytest.mark.parametrize("case", CASES)
UNTIED = [case for case in CASES if case not in ("adamw", "adagrad", "sgd", "sam", "sam, adamw")]
"""Optimizers whose state is theirs alone after a load; torch's own share their tensors."""


def through_disk(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load, by the loader that runs no code."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def go(optimizer: OnlineOptimizer, model: nn.Module, stream: Stream, start: int = 0) -> Tensor:
    """Parameters after the stream, each step with a seed of its own."""
    for k, (x, y) in enumerate(stream, start):
        torch.manual_seed(k)
        drive(optimizer, model, Categorical, [(x.to(next(model.parameters()).dtype), y)])
    return flat(model)


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal, NaN to NaN."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("stop", [0, 4, 6])
@each
def test_a_resumed_run_equals_the_uninterrupted_one(case: str, stop: int) -> None:
    """Before the first step, within a period of three, and at its end; parameters, state, groups and figures."""
    build, rule = CASES[case]
    stream, model, twin = labels(9, 2, M), build(M), build(M, seed=9)
    optimizer, resumed = rule(model), rule(twin)
    go(optimizer, model, stream[:stop])
    if stop:
        go(resumed, twin, stream[:2])  # a state that must not survive
    for group in resumed.param_groups:
        group.update({name: 0.5 for name in ("lr", "p0") if name in group})
    saved = through_disk({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    twin.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert torch.equal(go(resumed, twin, stream[stop:], stop), go(optimizer, model, stream[stop:], stop))
    assert same(resumed.state_dict(), optimizer.state_dict())
    assert same(resumed.stats, optimizer.stats)
    assert resumed.state_bytes() == optimizer.state_bytes()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
@each
def test_a_copy_goes_on_like_the_original_and_apart_from_it(case: str, how: Any) -> None:
    build, rule = CASES[case]
    model, stream = build(M), labels(7, 2, M)
    optimizer = rule(model)
    go(optimizer, model, stream[:4])
    twin, copied = how((model, optimizer))
    if case in ("loko", "loko, single"):
        copied.attach(twin)
    before = flat(model)
    found = go(copied, twin, stream[4:], 4)
    assert torch.equal(flat(model), before)
    assert torch.equal(found, go(optimizer, model, stream[4:], 4))
    assert same(copied.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("case", UNTIED)
def test_loading_does_not_tie_the_two(case: str) -> None:
    """Straight from the other's state_dict, without a file in between; the counters too."""
    build, rule = CASES[case]
    model, twin, stream = build(M), build(M), labels(4, 2, M)
    optimizer, loaded = rule(model), rule(twin)
    go(optimizer, model, stream[:2])
    loaded.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(loaded.state_dict())
    go(optimizer, model, [*stream[2:], (torch.full((1, FEATURES), torch.nan), torch.tensor([0]))], 2)
    assert same(loaded.state_dict(), before)


def test_low_rank_factors_resume_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "LOW_RANK_COLUMNS", 1)
    test_a_resumed_run_equals_the_uninterrupted_one("ring", 4)
    model = mlp(M)
    optimizer = RING(model.parameters()).attach(model)
    go(optimizer, model, labels(2, 1, M))
    assert "X" in optimizer.natural["groups"]["0"]["a_factor"]


def of(rule: type[OnlineOptimizer], m: int = 3, **options: Any) -> OnlineOptimizer:
    return rule(mlp(m).parameters(), **options)


REFUSED: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
    (lambda: of(LoKO), lambda: of(LoKO, 4), r"over another state: its p is \(66,\), here it is \(74,\)"),
    (lambda: of(LoKO, dtype="float64"), lambda: of(LoKO), r"in torch\.float64, this one has dtype torch\.float32"),
    (lambda: torch.optim.SGD(mlp(3).parameters()), lambda: of(LoKO), "no filter"),
    (lambda: of(LoKO), lambda: LoKO(layers(mlp(3))), "group"),
    (lambda: of(EKF), lambda: of(EKF, covariance="full"), "holds no filter with covariance full"),
    (lambda: of(EKF, covariance="full"), lambda: of(LoKO), "holds no filter with covariance diagonal"),
    (lambda: of(EKF), lambda: of(EKF, covariance="block_per_neuron"), "no filter with covariance block_per_neuron"),
    (lambda: of(EKF, covariance="full"), lambda: of(EKF, covariance="block_per_tensor"), "another state: its P0 is"),
    (lambda: of(EKF, rank=4), lambda: of(EKF, rank=5), r"its V is \(4, 66\), here it is \(5, 66\)"),
    (lambda: of(AdamW), lambda: of(RING), "RING: the checkpoint holds no Kronecker factors"),
    (lambda: of(AdamW), lambda: of(Sophia), "Sophia: the checkpoint holds no state of Sophia"),
]


@pytest.mark.parametrize(("saved", "loaded", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_does_not_fit_is_refused(saved: Callable, loaded: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        loaded().load_state_dict(saved().state_dict())
    assert "\n" not in str(error.value)


def test_another_number_of_coordinates_is_refused() -> None:
    model = mlp(3)
    optimizer = LoKO(model.parameters())
    go(optimizer, model, labels(1, 2, 3))
    model[2] = nn.Linear(7, 4).double()
    with pytest.raises(ValueError, match="observed 2 coordinates so far, now 3"):
        optimizer.step(lambda: Categorical(model(torch.ones(1, FEATURES).double())).observe(torch.tensor([0])))


@pytest.mark.parametrize(
    ("rule", "options", "before", "after"),
    [
        # p and the scale, R from the first step on, and six counters
        (LoKO, {}, 67 * 4 + 6 * 8, 71 * 4 + 6 * 8),
        (LoKO, {"dtype": "float64"}, 67 * 8 + 6 * 8, 71 * 8 + 6 * 8),
        (AdamW, {}, 0, 2 * 66 * 8 + 4 * 4),  # two moments in float64, a float32 step count a tensor
        (SAM, {}, 0, 66 * 8),
        (Sophia, {}, None, 2 * 66 * 8),
    ],
)
def test_bytes_of_the_state(rule: type, options: dict[str, Any], before: int | None, after: int) -> None:
    model = mlp(3)
    optimizer = rule(model.parameters(), **options)
    assert before is None or optimizer.state_bytes() == before
    go(optimizer, model, labels(1, 2, 3))
    assert optimizer.state_bytes() == after


def test_variance_is_shaped_like_the_parameters_in_the_order_of_the_groups() -> None:
    model = mlp(3)
    optimizer = LoKO([{"params": [model[2].weight]}, {"params": [model[0].bias, model[0].weight]}])
    assert [tuple(v.shape) for v in optimizer.variance()] == [(3, 7), (7,), (7, 5)]
    assert torch.equal(torch.cat([v.flatten() for v in optimizer.variance()]), optimizer.filter["p"])
