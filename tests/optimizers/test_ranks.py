"""Several processes with samples of their own learn as one process does with the samples of all."""

from __future__ import annotations

import copy
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
    AdamW,
    Categorical,
    LoKO,
    OnlineOptimizer,
    RKalman,
    Sophia,
)
from filtune.optimizers.distributed import Ranks
from filtune.optimizers.kfac import factors
from torch import nn

from tests.optimizers.models import convnet, labels, mlp, relative, rounding
from tests.optimizers.processes import together

STEPS, M = 6, 6
SIZES = {2: [3, 1], 3: [1, 2, 1]}
F64 = {"dtype": "float64"}

# optimizer, its options, and the model: the first layer of mlp is a layer in factors that several ranks share
CASES: dict[str, tuple] = {
    "loko": (LoKO, F64, mlp),
    "loko on logits": (LoKO, {**F64, "observation": "logits", "noise": "ema-1"}, convnet),
    "loko with softmax noise": (LoKO, {**F64, "noise": "softmax", "process_noise": 1e-3}, mlp),
    "loko without some rows": (LoKO, {**F64, "noise": "softmax", "rank_tolerance": 0.05}, convnet),
    "r-kalman": (RKalman, {**F64, "rho": 0.1, "r0": 1.0}, mlp),
    "full covariance": (EKF, {**F64, "covariance": "full"}, mlp),
    "low rank": (EKF, {**F64, "covariance": "low_rank", "rank": 3}, convnet),
    "adamw": (AdamW, {"eps": 1e-3}, convnet),
    "sgd": (SGD, {"momentum": 0.9}, mlp),
    "sam": (SAM, {"base": "adamw", "eps": 1e-3, "rho": 0.1}, mlp),
    "sophia": (Sophia, {"lr": 1e-2, "gamma": 1.0, "eps": 1e-3, "hessian_every": 4}, convnet),
    "ngd": (NGD, {"rho": 0.1, "skip": 2}, mlp),
    "ring": (RING, {"rho": 0.01, "skip": 4, "fisher_type": "exact"}, convnet),
    "reng": (
        RENG,
        {"rho": 0.1, "skip": 2, "grad_penalty": 0.1, "inverse_method": "eigen", "damping_schedule": "ratio"},
        mlp,
    ),
}

# What differs is the order of sums: over the columns of HPH' and the samples of a gradient, and within the products of
# the forward and backward pass, whose batches are smaller. That is less than ten roundings for each of n <= 87 columns
# and 24 rows a step. S is at most 100 times worse conditioned than the identity: R is at least .95^6 r0 I, and HPH'
# at most 24 p0 |h|^2 with p0 = .2. AdamW's division by sqrt(v) + eps, eps = 1e-3, magnifies by 1000 at most, and
# so does Sophia's by max(gamma h, eps); with SGD nothing is solved. The inverses of natural gradients have condition
# numbers of at most 1 + |M| / lambda, which is 11 for both factors of RING and less than 30 for those of the others.
CLOSE = rounding(STEPS * 10 * (87 + 24), condition=1000)


def learn(case: str, sizes: list[int], steps: range = range(STEPS), start: dict | None = None) -> dict[str, Any]:
    """Some steps of a stream on this rank's part of its batches, or on all of them where there is one process.

    Args:
        case: Name of the optimizer and what is learnt.
        sizes: Samples of each rank in a batch.
        steps: Which steps of the stream.
        start: What an earlier call returned, to go on from there.
    """
    kind, options, build = CASES[case]
    ranks, model = Ranks.current(), build(M)
    torch.manual_seed(3)  # the prior is drawn
    optimizer: OnlineOptimizer = kind(model.parameters(), **options).attach(model)
    if start is not None:
        model.load_state_dict(start["model"])
        optimizer.load_state_dict(start["optimizer"])
    own, predictions = ranks.own(sizes) if ranks.world > 1 else slice(None), []
    for step, (x, y) in enumerate(labels(STEPS, sum(sizes), M)):
        if step in steps:
            torch.manual_seed(step)  # the rows left out are drawn
            seen = optimizer.step(lambda x=x, y=y: Categorical(model(x[own])).observe(y[own]))
            assert torch.equal(seen.target, y)
            predictions.append(seen.outputs.detach())
    optimizer.check_ranks()
    state = getattr(optimizer, "filter", {})
    return {
        "theta": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "predictions": torch.cat(predictions),
        "variance": torch.cat([p.flatten() for p in optimizer.variance()]) if state else torch.ones(1),
        "R": state.get("R", torch.ones(1)),
        "stats": dict(optimizer.stats),
        "model": copy.deepcopy(model.state_dict()),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "held": state["p"].numel() if "p" in state else 0,
    }


def assert_alike(many: dict[str, Any], one: dict[str, Any]) -> None:
    """Assert that figures are those of a single process but for rounding."""
    for name in ("theta", "predictions", "variance", "R"):
        assert relative(many[name], one[name]) <= CLOSE, name
    assert many["stats"].keys() == one["stats"].keys()
    for name, value in one["stats"].items():
        if name == "residual":  # rounding errors itself
            assert max(float(many["stats"][name]), float(value)) <= CLOSE
            continue
        assert relative(many["stats"][name], value) <= CLOSE, name


def learn_everything(sizes: list[int]) -> dict[str, dict[str, Any]]:
    return {case: learn(case, sizes) for case in CASES}


@pytest.fixture(scope="module", params=SIZES)
def learnt(request: pytest.FixtureRequest) -> tuple[int, list[dict[str, dict[str, Any]]]]:
    """How many ranks, and what each of them learnt, by case."""
    return request.param, together(request.param, learn_everything, SIZES[request.param])


@pytest.mark.parametrize("case", CASES)
def test_many_learn_as_one(case: str, learnt: tuple[int, list[dict[str, dict[str, Any]]]]) -> None:
    world, answers = learnt
    one = learn(case, SIZES[world])
    for many in (answer[case] for answer in answers):
        assert_alike(many, one)
        if CASES[case][0] in (LoKO, RKalman):
            n = len(one["theta"])
            assert abs(many["held"] - n / world) < 1  # the tensors are small
            assert len(many["optimizer"]["state"]["filter"]["p"]) == n


def learn_by_rows(sizes: list[int]) -> dict[str, Any]:
    """NGD whose wider factors, with four rows at most, are held as these rows."""
    columns, factors.LOW_RANK_COLUMNS = factors.LOW_RANK_COLUMNS, 8
    try:
        return learn("ngd", sizes)
    finally:
        factors.LOW_RANK_COLUMNS = columns


def test_ranks_share_the_rows_of_a_low_rank_factor() -> None:
    one = learn_by_rows([4])
    assert any(
        "X" in factor
        for group in one["optimizer"]["state"]["natural"]["groups"].values()
        for factor in (group["a_factor"], group["g_factor"])
    )
    for many in together(2, learn_by_rows, [3, 1]):
        assert_alike(many, one)


@pytest.mark.parametrize("case", ["loko", "full covariance"])
def test_a_state_goes_on_with_another_number_of_ranks(case: str) -> None:
    whole = learn(case, [4])
    half = together(2, learn, case, [2, 2], range(3))[1]
    assert_alike({**learn(case, [4], range(3, STEPS), half), "predictions": whole["predictions"]}, whole)
    for many in together(3, learn, case, [1, 2, 1], range(3, STEPS), half):
        assert_alike({**many, "predictions": whole["predictions"]}, whole)


def misused() -> list[str]:
    messages = []
    model = mlp(2)
    optimizer = LoKO(model.parameters(), **F64)
    optimizer._sharding.ranks = Ranks()  # as if built before the processes met
    attempts = [
        lambda: optimizer.step(lambda: Categorical(model(torch.zeros(1, 5).double())).observe(torch.tensor([0]))),
        lambda: LoKO([nn.Parameter(torch.zeros(1))]),
    ]
    for attempt in attempts:
        try:
            attempt()
        except ValueError as error:
            messages.append(str(error))
    return messages


def test_misuse_is_said() -> None:
    for early, small in together(2, misused):
        assert "build it after torch.distributed.init_process_group" in early
        assert "1 parameters cannot be divided over 2 processes" in small
