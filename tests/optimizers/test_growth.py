"""A filter whose output layer gains rows has the state of one that has had all rows, their classes unseen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, SGD, AdaGrad, AdamW, Categorical, Filtune, LoKO, OnlineOptimizer, RKalman
from filtune.optimizers.growth import padded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

FEATURES, HIDDEN, MOST = 4, 3, 5


class Net(nn.Module):
    """Two layers; the rows of the second are the classes, and start at zero."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body, self.head = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, classes)
        for param in self.body.parameters():
            param.data = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        for param in self.head.parameters():
            param.data = torch.zeros(param.shape, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)))


def grow(model: Net, optimizer: OnlineOptimizer, classes: int) -> None:
    params = [model.head.weight, model.head.bias]
    before = {param: param.shape for param in params}
    for param in params:
        param.grad = None
        param.data = padded(param.data, classes)
    optimizer.grow(before)
    optimizer.attach(model)


def samples(count: int) -> torch.Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(build: Any, labels: list[int], grows: bool) -> tuple[Net, OnlineOptimizer]:
    """Learn from labels, each at most one more than those before, with a growing head or with one of all rows."""
    known = 2
    model = Net(known if grows else MOST)
    optimizer = build(model.parameters()).attach(model)
    for x, label in zip(samples(len(labels)), labels, strict=True):
        if label >= known:
            known = label + 1
            if grows:
                grow(model, optimizer, known)
        optimizer.step(
            lambda x=x, label=label, known=known: Categorical(model(x.unsqueeze(0))[:, :known]).observe(
                torch.tensor([label])
            )
        )
    if grows:
        grow(model, optimizer, MOST)
    return model, optimizer


def assert_equal(found: tuple[Net, OnlineOptimizer], expected: tuple[Net, OnlineOptimizer]) -> None:
    for own, other in zip(found[0].parameters(), expected[0].parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    state, wanted = (dict(each[1].state_dict()["state"]) for each in (found, expected))
    for key, value in wanted.items():
        for name, tensor in value.items():
            if isinstance(tensor, torch.Tensor) and name not in ("recent", "V", "gram"):
                torch.testing.assert_close(state[key][name], tensor, rtol=1e-9, atol=1e-12, msg=name)
    if "filter" in wanted and "V" in wanted["filter"]:  # rows of V are known up to their sign
        for name in ("V",):
            own, other = state["filter"][name], wanted["filter"][name]
            torch.testing.assert_close(own.mT @ own, other.mT @ other, rtol=1e-8, atol=1e-11)


LABELS = [0, 1, 0, 2, 1, 1, 2, 3, 0, 2, 3, 3, 1, 2, 0, 3]


def natural(covariance: Any, **options: Any) -> Any:
    """A filter on the natural parameters, whose noise is not estimated."""
    return lambda params: EKF(params, p0=0.5, covariance=covariance, noise="softmax", dtype="float64", **options)


def filtune(**options: Any) -> Any:
    given = {"p0_init": "constant", "p0": 0.3, "top_k": 0, "dtype": "float64", "rank": 4, "buffer_size": 3, **options}
    return lambda params: Filtune(params, **given)


FILTERS = {
    "full": natural("full"),
    "tensor": natural("block_per_tensor"),
    "neuron": natural("block_per_neuron"),
    "diagonal": natural("diagonal"),
    "process noise": natural("block_per_tensor", process_noise=0.01),
    "low rank": filtune(),
    "lofi": filtune(buffer_size=0, rank=6, rows_per_sample=0),
    "top k": filtune(top_k=1),
    "head reset": filtune(head_reset_scale=1.0),
    "forgetting": filtune(forgetting_factor=0.9, nis_window=4),
}
RULES = {
    "adamw": lambda params: AdamW(params, lr=0.05, weight_decay=0.1),
    "adagrad": lambda params: AdaGrad(params, lr=0.05),
    "sgd": lambda params: SGD(params, lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("name", [*FILTERS, *RULES])
def test_the_state_is_that_of_a_head_with_all_rows(name: str) -> None:
    build = {**FILTERS, **RULES}[name]
    assert_equal(run(build, LABELS, grows=True), run(build, LABELS, grows=False))


@settings(max_examples=8)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=8), st.sampled_from(["neuron", "low rank", "process noise"]))
def test_whatever_the_order_of_the_classes(order: list[int], name: str) -> None:
    """Classes are numbered in the order in which they come, as a learner does."""
    seen: list[int] = []
    for each in order:
        seen += [] if each in seen else [each]
    labels = [0, 1, *(seen.index(each) for each in order)]
    assert_equal(run(FILTERS[name], labels, grows=True), run(FILTERS[name], labels, grows=False))


def test_a_new_row_has_the_prior_of_its_tensor() -> None:
    """By sensitivity: that of the other rows before the first step, from the first sample's derivatives."""
    model = Net(2)
    optimizer = Filtune(model.parameters(), dtype="float64").attach(model)
    x = samples(1)
    optimizer.step(lambda: Categorical(model(x)).observe(torch.tensor([1])))
    factor = optimizer.filter["prior_factor"]
    assert bool((factor > 0).all())
    grow(model, optimizer, 4)
    weight, bias = optimizer.variance()[2:]
    torch.testing.assert_close(weight[2:], (0.1 * factor[2]).expand(2, HIDDEN))
    torch.testing.assert_close(bias[2:], (0.1 * factor[3]).expand(2))
    # nothing was learned of the first rows beyond their prior variance
    assert bool((weight[:2] <= 0.1 * factor[2] + 1e-12).all())


class Dense:
    """LoKO's equations 2b to 12 with a full covariance, on matrices, where the coordinates become more."""

    def __init__(self, model: Net, p0: float, beta: float, method: str, q: float) -> None:
        self.model, self.beta, self.method, self.q = model, beta, method, q
        self.params = list(model.parameters())
        n = sum(p.numel() for p in self.params)
        self.P, self.R = p0 * torch.eye(n, dtype=torch.float64), torch.eye(1, dtype=torch.float64)

    def step(self, x: torch.Tensor, label: int, known: int) -> None:
        """Of the rows of all classes, the first ``known`` are in the likelihood."""
        from filtune.optimizers.likelihoods.categorical import simplex_basis

        d = known - 1
        if len(self.R) < d:  # of a new coordinate nothing is known
            R = torch.eye(d, dtype=torch.float64)
            R[: len(self.R), : len(self.R)] = self.R
            self.R = R
        U = simplex_basis(known, torch.float64, x.device)
        observed = (self.model(x.unsqueeze(0))[:, :known].softmax(1) @ U)[0]
        rows = [torch.autograd.grad(h, self.params, retain_graph=True) for h in observed]
        H = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        y = torch.nn.functional.one_hot(torch.tensor(label), known).double() @ U
        e, P = y - observed.detach(), self.P + self.q * torch.eye(len(self.P), dtype=torch.float64)
        more = torch.outer(e, e) + (H @ P @ H.T if self.method == "ema-2" else 0)
        self.R = self.beta * self.R + (1 - self.beta) * more
        K = P @ H.T @ torch.linalg.inv(H @ P @ H.T + self.R)
        self.P = P - K @ H @ P
        delta = (K @ e).split([p.numel() for p in self.params])
        with torch.no_grad():
            for param, part in zip(self.params, delta, strict=True):
                param += part.view_as(param)


@pytest.mark.parametrize(("method", "q"), [("ema-1", 0.0), ("ema-2", 0.0), ("ema-2", 0.01)])
def test_an_estimated_noise_is_that_of_a_first_step_in_a_new_coordinate(method: str, q: float) -> None:
    """The filter that grows against dense matrices of all rows; the noise of a coordinate never observed is r0."""
    options: dict[str, Any] = {"covariance": "full", "noise": method, "process_noise": q, "dtype": "float64"}
    model, _ = run(lambda params: EKF(params, p0=0.5, **options), LABELS, grows=True)
    whole = Net(MOST)
    dense, known = Dense(whole, 0.5, 0.95, method, q), 2
    for x, label in zip(samples(len(LABELS)), LABELS, strict=True):
        known = max(known, label + 1)
        dense.step(x, label, known)
    for own, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("noise", ["ema_innovation", "scalar", "identity", "annealed"])
def test_other_noises_grow(noise: str) -> None:
    model, optimizer = run(lambda params: EKF(params, p0=0.1, noise=noise, dtype="float64"), LABELS, grows=True)
    R = optimizer.filter["R"]
    assert R.shape == (MOST - 1, MOST - 1)
    assert all(bool(param.isfinite().all()) for param in model.parameters())
    if noise == "scalar":
        torch.testing.assert_close(R, R[0, 0] * torch.eye(MOST - 1, dtype=torch.float64))
    else:  # the last class of the run was never observed
        assert float(R[-1, -1]) == 1.0
        assert not bool(R[-1, :-1].any())


@pytest.mark.parametrize("rule", [LoKO, RKalman, Filtune])
def test_the_public_filters_grow_in_single_precision(rule: Any) -> None:
    model, optimizer = run(lambda params: rule(params), LABELS, grows=True)
    assert all(bool(param.isfinite().all()) for param in model.parameters())
    twin = Net(MOST)
    twin.load_state_dict(model.state_dict())
    restored = rule(twin.parameters()).attach(twin)
    restored.load_state_dict(optimizer.state_dict())
    for each, net in ((optimizer, model), (restored, twin)):
        each.step(lambda net=net: Categorical(net(samples(1))).observe(torch.tensor([4])))
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


def test_logits_of_two_classes_have_other_coordinates() -> None:
    """One difference becomes three logits; the noise is that of a first step."""
    model, optimizer = run(
        lambda params: EKF(params, p0=0.1, noise="ema-2", observation="logits", dtype="float64"),
        [0, 1, 0, 2, 2, 1],
        True,
    )
    assert optimizer.filter["R"].shape == (MOST, MOST)
    assert all(bool(param.isfinite().all()) for param in model.parameters())


def test_what_cannot_grow_says_so() -> None:
    from filtune.optimizers import NGD
    from filtune.optimizers.kalman.covariance.diagonal import Diagonal

    model = Net(2).float()
    optimizer: OnlineOptimizer = NGD(model.parameters()).attach(model)
    assert not optimizer.can_grow()
    with pytest.raises(ValueError, match="NGD: cannot take new classes while it runs; take a filter"):
        optimizer.grow({})

    class Odd(Diagonal):
        name = "odd"
        grow = Diagonal.__mro__[1].grow

    try:
        odd = EKF(Net(2).float().parameters(), covariance="odd")
        assert not odd.can_grow()
        with pytest.raises(ValueError, match="EKF: cannot take new classes while it runs: its covariance cannot grow"):
            odd.grow({})
    finally:
        del Diagonal.registry["odd"]


def test_a_state_that_is_not_element_wise_is_refused_before_anything_changes() -> None:
    model = Net(2)
    optimizer = AdamW(model.parameters())
    optimizer.step(lambda: Categorical(model(samples(1))).observe(torch.tensor([1])))
    optimizer.state[model.head.bias]["odd"] = torch.zeros(7)
    before = {key: dict(value) for key, value in optimizer.state.items()}
    with pytest.raises(ValueError, match="AdamW: cannot take new classes while it runs, for its odd"):
        grow(model, optimizer, 3)
    assert all(optimizer.state[key] == value for key, value in before.items())
