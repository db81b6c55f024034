"""What a likelihood says about its task: labels, metrics, the state of its targets; and every optimizer learns it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
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
    Filtune,
    Gaussian,
    LoKO,
    OnlineOptimizer,
    RKalman,
    Sophia,
)
from filtune.optimizers.likelihoods import likelihood_of
from filtune.optimizers.likelihoods.base import REGISTRY, Likelihood
from filtune.optimizers.likelihoods.bernoulli import Bernoulli, labels_in
from filtune.optimizers.likelihoods.gaussian import (
    LEAST_NOISE,
    MEMORY,
    MOST_NOISE,
    MOST_RESIDUAL,
    PRIOR,
    TargetScaling,
)
from filtune.optimizers.likelihoods.poisson import LogMean, Poisson
from filtune.optimizers.likelihoods.tasks import Coding, StreamState
from torch import Tensor, nn

# the registry


def test_every_kind_has_a_likelihood_and_an_unknown_one_is_named() -> None:
    assert {"classification", "regression", "count", "multilabel"} <= set(REGISTRY)
    assert all(likelihood_of(kind).kind == kind for kind in REGISTRY)
    with pytest.raises(ValueError, match="no task of the kind 'ranking'; choose from .*count, multilabel, regression"):
        likelihood_of("ranking")


def test_two_likelihoods_cannot_have_one_kind() -> None:
    with pytest.raises(TypeError, match="the kind 'count' is that of Poisson"):
        type("Other", (Poisson,), {"kind": "count"})


@pytest.mark.parametrize("kind", sorted(REGISTRY))
def test_metrics_that_are_taken_by_default_exist(kind: str) -> None:
    likelihood = likelihood_of(kind)
    assert {*likelihood.online_metrics, *likelihood.validation_metrics} <= set(likelihood.metrics(10))


# labels


@pytest.mark.parametrize(
    ("values", "targets", "bad"),
    [
        ([0, 3, True], [0, 3, 1], {}),
        (["4", " 2 ", 1.0], [4, 2, 1], {}),
        ([-1, 2], [None, 2], {0: ("negative count", "-1")}),
        ([1.5, "x"], [None, None], {0: ("count is no whole number", "1.5"), 1:
            ("label is not a finite number", "'x'")}),
        ([None, "", float("nan")], [None] * 3, dict.fromkeys(range(3), ("missing label", ""))),
        ([float("inf"), "1_000"], [None] * 2, {
            0: ("label is not a finite number", "inf"), 1: ("label is not a finite number", "'1_000'"),
        }),
        ([10**13, 1.1e13, 10**30, 10**300], [1e13, None, None, None], {
            1: ("count beyond the largest rate, 1.07e+13", "11000000000000.0"),
            2: ("count beyond the largest rate, 1.07e+13", str(10**30)),
            3: ("label is not a finite number", str(10**300)),
        }),
        ([[1, 2]], [None], {0: ("label is not a finite number", "[1, 2]")}),
        ([[1, 2], [3, 4]], [None] * 2, {
            0: ("label is not a finite number", "[1, 2]"), 1: ("label is not a finite number", "[3, 4]"),
        }),
        ([[3], 2, {"a": 1}], [None, 2, None], {
            0: ("label is not a finite number", "[3]"), 2: ("label is not a finite number", "{'a': 1}"),
        }),
    ],
)  # fmt: skip
def test_counts_are_whole_numbers_from_zero_on(values: list, targets: list, bad: dict) -> None:
    encoded = Poisson.encode(values, Coding())
    assert encoded.targets.dtype == torch.float32
    assert {i: tuple(reason) for i, reason in encoded.bad.items()} == bad
    for found, expected in zip(encoded.targets.tolist(), targets, strict=True):
        assert expected is None or found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "classes", "separator"),
    [
        (["b;a", "a", ""], ("a", "b"), ";"),
        (["b|a, c", "a, c"], ("a, c", "b"), "|"),
        (["b, a", "c"], ("a", "b", "c"), ","),
        (['["b", "a"]', "[]"], ("a", "b"), ";"),
        ([("b", "a"), (), None], ("a", "b"), ";"),
        ([1, 10], ("1", "10"), ";"),
    ],
)
def test_several_labels_come_as_a_list(values: list, classes: tuple, separator: str) -> None:
    coding = Bernoulli.infer(values)
    assert (coding.classes, coding.options["separator"]) == (classes, separator)
    targets, bad = Bernoulli.encode(values, coding)
    assert targets.shape == (len(values), len(classes))
    assert list(bad) == [i for i, value in enumerate(values) if value is None]
    for i, value in enumerate(values):
        names = labels_in(value, separator) or []
        assert [classes[k] for k in targets[i].nonzero().flatten().tolist()] == sorted(names)


def test_a_label_that_is_not_among_the_classes_is_named() -> None:
    coding = Bernoulli.infer([], ["a", "b"])
    assert Bernoulli.encode(["a;z"], coding).bad == {0: ("label not among the classes a, b", "'z'")}
    with pytest.raises(ValueError, match="two different labels at least"):
        Bernoulli.infer(["a", "a;"])


def test_predicted_labels_are_joined_by_the_separator_of_the_data() -> None:
    coding = Coding(("x", "y", "z"), {"separator": "|"})
    z, C = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0]]), 4 * torch.eye(3).expand(2, 3, 3)
    found = Bernoulli(z).columns(coding, C, Bernoulli(z).predictive(C))
    assert found["prediction"] == ["x|z", ""]
    assert found["probability_x"] == pytest.approx(z[:, 0].sigmoid().tolist())
    assert found["logit_std_y"] == [2.0, 2.0]
    assert 0.5 < found["probability_bayes_z"][0] < found["probability_z"][0]
    assert Bernoulli(z).summary(coding) == "2 rows, predicted: 1 as 'x', 1 as 'z'"


def test_counts_are_predicted_with_the_uncertainty_of_their_logarithm() -> None:
    z, C = torch.tensor([[0.0], [1.0]]), torch.tensor([[[0.5]], [[0.0]]])
    found = Poisson(z, torch.tensor([2.0])).columns(Coding(), C, Poisson(z, torch.tensor([2.0])).predictive(C))
    assert found["prediction"] == pytest.approx([math.exp(2), math.exp(3)])
    assert found["log_rate_std"] == pytest.approx([0.5**0.5, 0])
    assert found["prediction_bayes"] == pytest.approx([math.exp(2.25), math.exp(3)])


# the state of the targets


@pytest.mark.parametrize("B", [1, 4, 40])
def test_location_and_scale_are_those_of_all_targets_so_far(B: int) -> None:
    """In float64, however they are parted into batches; the first target's share in the scale is 1/n^5."""
    y = 3e5 + 1e5 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = TargetScaling(1)
    for batch in y.split(B):
        state.see_targets(batch)
    location, scale, *_ = state.value()
    share = 40**-5
    expected = ((y.var() * 39 + share * y[0].square()) / (39 + share)).sqrt()
    assert float(location) == pytest.approx(float(y.mean()), rel=1e-13)
    assert float(scale) == pytest.approx(float(expected), rel=1e-12)
    assert expected == pytest.approx(float(y.std()), rel=1e-6)


@pytest.mark.parametrize("y", [[5.0], [5.0, 5.0, 5.0], [0.0], [0.0, 0.0], [-2e-7, 3e-7], [1e30, -1e30]])
def test_a_scale_is_positive_and_standardised_targets_are_bounded(y: list[float]) -> None:
    """A target is learnt in units that know it: its size is the root of their number at most."""
    state = TargetScaling(1)
    for value in y:
        state.see_targets(torch.tensor([value]))
        scaling = state.value()
        t = Gaussian(torch.zeros(1, 1), scaling).innovation(torch.tensor([value])).observed
        assert float(scaling.scale) > 0
        assert float(t.abs()) <= len(y) ** 0.5


def test_the_noise_is_the_mean_square_of_the_residuals() -> None:
    """From its prior on, over a memory, within its bounds; a residual that is no number changes nothing."""
    state, generator = TargetScaling(1), torch.Generator().manual_seed(0)
    state.see_targets(torch.tensor([0.0, 2.0]))
    expected = 1.0
    for seen in range(600):
        z = 0.3 * torch.randn(1, 1, generator=generator)
        observation = Gaussian(z, state.value()).observe(torch.tensor([1.0]))
        state.see_residuals(observation)
        weight = min(PRIOR + seen, MEMORY)
        expected += (float(z.double().square()) - expected) / (weight + 1)
    assert LEAST_NOISE < expected < MOST_NOISE
    assert float(state.value().variance) == pytest.approx(expected, rel=1e-5)
    state.see_residuals(Gaussian(torch.tensor([[float("nan")]]), state.value()).observe(torch.tensor([1.0])))
    assert float(state.value().variance) == pytest.approx(expected, rel=1e-5)
    for residual, noise in ((0.0, LEAST_NOISE), (1.0, MOST_NOISE)):
        state.residual.fill_(residual)
        assert (float(state.value().variance), float(state.value().residual)) == (noise, residual)


def test_one_diverged_prediction_does_not_ruin_the_noise() -> None:
    state = TargetScaling(1)
    state.see_targets(torch.tensor([0.0, 2.0]))
    for _ in range(100):
        state.see_residuals(Gaussian(torch.tensor([[0.3]]), state.value()).observe(torch.tensor([1.0])))
    before = float(state.residual)
    state.see_residuals(Gaussian(torch.tensor([[1e15]]), state.value()).observe(torch.tensor([1.0])))
    assert before < float(state.residual) <= before + MOST_RESIDUAL / (PRIOR + 100)


def test_the_log_mean_is_that_of_all_counts() -> None:
    state = LogMean(1)
    assert float(state.value()) == 0
    assert not state.is_ready
    state.see_targets(torch.tensor([3.0, 0.0]))
    state.see_targets(torch.tensor([5.0]))
    assert float(state.value().exp()) == pytest.approx(9 / 4)
    assert state.is_ready


@pytest.mark.parametrize("kind", ["regression", "count"])
def test_the_affine_map_of_outputs_needs_no_state(kind: str) -> None:
    """What an export writes: scale z + shift, without a state, predicts the same."""
    likelihood = likelihood_of(kind)
    state = likelihood.build_state(2)
    assert state is not None
    state.see_targets(torch.tensor([[3.0, 40.0], [5.0, 80.0], [4.0, 50.0]]))
    scale, shift = state.affine()
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(likelihood.of(scale * z + shift).mean(), likelihood.of(z, state.value()).mean())


@pytest.mark.parametrize("build", [lambda: TargetScaling(2), lambda: LogMean(2)], ids=["scaling", "log mean"])
def test_a_state_goes_on_from_its_state_dict(build: Callable[[], StreamState]) -> None:
    first, second = build(), build()
    first.see_targets(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    second.load_state_dict(first.state_dict())
    for state in (first, second):
        state.see_targets(torch.tensor([[7.0, 7.0]]))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


# every optimizer


OPTIMIZERS: dict[str, Callable[..., OnlineOptimizer]] = {
    "LoKO": LoKO,
    "LoKO logits": lambda params: LoKO(params, observation="logits"),
    "RKalman": RKalman,
    "EKF": EKF,
    "Filtune": Filtune,
    **{
        f"{rule.__name__}{' exact' if options else ''}": lambda params, rule=rule, options=options: rule(
            params, lr=0.1, **options
        )
        for rule in (NGD, RING, RENG)
        for options in ({}, {"fisher_type": "exact"})
    },
    "Sophia": lambda params: Sophia(params, lr=0.01),
    "AdamW": lambda params: AdamW(params, lr=0.05),
    "AdaGrad": lambda params: AdaGrad(params, lr=0.1),
    "SAM": lambda params, curvature: SAM(params, lr=0.01 / curvature),
    "SGD": lambda params, curvature: SGD(params, lr=0.1 / curvature),
}

CURVATURE = {"regression": 10, "count": 60, "multilabel": 1}
"""Of the negative log-likelihood; steps along the plain gradient must be shorter than its inverse."""


def stream(kind: str, steps: int = 150) -> list[tuple[Tensor, Tensor]]:
    """Features (4, 5) and targets that a linear model can predict: prices of 3e5, counts of 50, three labels."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, generator=generator)
    batches = []
    for _ in range(steps):
        x = torch.randn(4, 5, generator=generator)
        z = x @ weight
        if kind == "regression":
            y = 3e5 + 1e5 * z[:, 0] + 2e4 * torch.randn(4, generator=generator)
        elif kind == "count":
            y = torch.poisson((4 + 0.3 * z[:, 0]).exp(), generator=generator)
        else:
            y = torch.bernoulli((2 * z).sigmoid(), generator=generator)
        batches.append((x, y))
    return batches


KINDS = ["regression", "count", "multilabel"]
CASES: list[Any] = [(name, KINDS[k % 3]) for k, name in enumerate(OPTIMIZERS)]
CASES += [
    pytest.param(name, kind, marks=pytest.mark.slow)
    for name in ("LoKO", "Filtune", "RING", "AdamW")
    for kind in KINDS
    if (name, kind) not in CASES
]
"""Every optimizer on one kind, and one of each family on all, which is slow."""


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_optimizer_learns_every_kind(name: str, kind: str) -> None:
    """The loss of the last 50 batches, each before it is learnt from, is well below that of outputs of zero."""
    torch.manual_seed(0)
    likelihood: type[Likelihood] = likelihood_of(kind)
    model = nn.Linear(5, 3 if kind == "multilabel" else 1)
    nn.init.zeros_(model.weight)
    state = likelihood.build_state(model.out_features)
    plain = [CURVATURE[kind]] if name in ("SAM", "SGD") else []
    optimizer = OPTIMIZERS[name](model.parameters(), *plain).attach(model)
    gains = []
    for x, y in stream(kind):
        if state is not None:
            state.see_targets(y)
        value = None if state is None else state.value()
        seen = optimizer.step(lambda x=x, y=y, value=value: likelihood.of(model(x), value).observe(y))
        if state is not None:
            state.see_residuals(seen)
        gains.append(float((seen.at(torch.zeros_like(seen.outputs)).nll() - seen.nll()).detach()))
    assert optimizer.check_divergence() is None
    entropy = {"regression": 1.0, "count": 1.0, "multilabel": 0.5}[kind]
    assert sum(gains[-50:]) / 50 > 0.25 * entropy


def test_the_likelihood_of_the_docs_is_complete() -> None:
    """The file that docs/own_likelihood.md adds: a kind of task, with the same figures as Poisson."""
    page = Path(__file__).resolve().parents[2] / "docs" / "own_likelihood.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0]
    try:
        exec(code, {"__name__": "events"})
        events = likelihood_of("events")
        z, y = torch.randn(3, 1), torch.tensor([0.0, 2.0, 5.0])
        for observation in ("probabilities", "logits"):
            found, expected = (kind(z).innovation(y, observation)[:3] for kind in (events, Poisson))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        found, expected = (kind(z).natural(y)[:4] for kind in (events, Poisson))
        assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))
        assert torch.equal(events(z).nll(y), Poisson(z).nll(y))
        assert set(events.encode([3, -1], Coding()).bad) == {1}
        assert set(events(z).columns(Coding())) == {"prediction"}
    finally:
        REGISTRY.pop("events", None)
