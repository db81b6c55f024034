"""Prequential metrics against their definitions."""

from __future__ import annotations

import pytest
import torch
from filtune.lightning_modules.metrics import Matthews, MetricSet, Prequential, WindowedMean, build_metric
from filtune.optimizers import Categorical, Gaussian
from filtune.optimizers.likelihoods import likelihood_of
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_poisson_deviance

from tests.conftest import Task


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 9))
def test_windowed_mean_is_the_mean_of_the_last(batches: list[int], size: int) -> None:
    window, everything = WindowedMean(size), torch.empty(0)
    for batch in batches:
        batch = min(batch, size)
        values = torch.rand(batch)
        everything = torch.cat([everything, values])
        window.update(values)
    torch.testing.assert_close(window.compute(), everything[-size:].mean())


def test_windowed_mean_continues_from_its_state() -> None:
    first, second = WindowedMean(4), WindowedMean(4)
    first.update(torch.rand(3))
    second.load_state_dict(first.state_dict())
    more = torch.rand(3)
    first.update(more)
    second.update(more)
    assert torch.equal(first.compute(), second.compute())


@given(st.integers(2, 4), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_matthews_is_zero_where_one_class_is_all_there_is(classes: int, pairs: list[tuple[int, int]]) -> None:
    target, predicted = (torch.tensor(column) % classes for column in zip(*pairs, strict=True))
    metric = Matthews(classes, validate_args=False)
    metric.update(torch.nn.functional.one_hot(predicted, classes).float(), target)
    # counts are exact in float32 here; a square root and a division are rounded
    assert float(metric.compute()) == pytest.approx(matthews_corrcoef(target, predicted), abs=1e-6)


def test_a_run_has_the_corrected_correlation_and_likelihoods_name_torchmetrics_alone() -> None:
    assert isinstance(build_metric("classification", 3, "matthews"), Matthews)
    kinds = ("classification", "regression", "count", "multilabel")
    paths = [metric.path for kind in kinds for metric in likelihood_of(kind).metrics(6).values()]
    assert all(path.startswith("torchmetrics.") for path in paths)


@pytest.mark.parametrize("classes", [2, 10])
def test_online_accuracy_is_the_share_of_right_predictions(classes: int) -> None:
    online = Prequential(Task(outputs=classes))
    logits, target = torch.randn(50, classes), torch.randint(classes, (50,))
    for z, y in zip(logits.split(1), target.split(1), strict=True):
        online.update(Categorical(z).observe(y))
    figures = online.compute()
    right = (logits.argmax(-1) == target).double().mean() * 100
    assert float(figures["online/accuracy"]) == pytest.approx(float(right))
    assert float(figures["online/loss"]) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-5
    )
    assert ("online/top5" in figures) == (classes > 5)
    assert int(online.samples) == 50


def test_online_pearson() -> None:
    online = Prequential(Task(kind="regression", outputs=1, metrics=("pearson",)))
    values, target = torch.randn(40, 1), torch.randn(40)
    for v, y in zip(values.split(1), target.split(1), strict=True):
        online.update(Gaussian(v).observe(y))
    expected = 100 * torch.corrcoef(torch.stack([values.squeeze(-1), target]))[0, 1]
    assert float(online.compute()["online/pearson"]) == pytest.approx(float(expected), rel=1e-4)


def test_metrics_of_glue() -> None:
    metrics = MetricSet(Task(), ("accuracy", "f1", "matthews"))
    logits, target = torch.randn(60, 2), torch.randint(2, (60,))
    metrics.update(Categorical(logits[:25]).observe(target[:25]))
    metrics.update(Categorical(logits[25:]).observe(target[25:]))
    predicted = logits.argmax(-1)
    found = {name: float(value) for name, value in metrics.compute("val/").items()}
    assert found == pytest.approx(
        {
            "val/accuracy": 100 * accuracy_score(target, predicted),
            "val/f1": 100 * f1_score(target, predicted),
            "val/matthews": 100 * matthews_corrcoef(target, predicted),
        },
        rel=1e-5,
    )


def test_a_metric_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="pearson not known for classification; choose from accuracy"):
        MetricSet(Task(), ("pearson",))


def test_state_is_saved_whole() -> None:
    online, restored = Prequential(Task(outputs=3)), Prequential(Task(outputs=3))
    online.update(Categorical(torch.randn(5, 3)).observe(torch.randint(3, (5,))))
    restored.load_state_dict(online.state_dict())
    before, after = online.compute(), restored.compute()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_batch_that_could_not_be_predicted_is_counted_alone() -> None:
    """The first of a stream of values, whose units are not known before it."""
    online = Prequential(Task(kind="regression", outputs=1, metrics=("pearson",)))
    online.update(Gaussian(torch.tensor([[1e9]])).observe(torch.tensor([0.0])), score=False)
    online.update(Gaussian(torch.tensor([[1.0], [2.0]])).observe(torch.tensor([2.0, 4.0])))
    assert int(online.samples) == 3
    assert float(online.compute()["online/pearson"]) == pytest.approx(100)
    assert float(online.compute()["online/loss"]) == pytest.approx(0.5 * (1 + 4) / 2)


@pytest.mark.parametrize("kind", ["count", "multilabel"])
def test_metrics_are_those_that_the_likelihood_declares(kind: str) -> None:
    task = Task(kind=kind, outputs=1 if kind == "count" else 3)
    likelihood = likelihood_of(kind)
    names = tuple(likelihood.metrics(task.outputs))
    metrics, online = MetricSet(task, names), Prequential(task)
    z = torch.randn(40, task.outputs)
    y = likelihood(z).sample()
    for start in (0, 15):
        observation = likelihood(z[start : start + 15]).observe(y[start : start + 15])
        metrics.update(observation)
        online.update(observation)
    z, y = z[:30], y[:30]
    found = {name: float(value) for name, value in metrics.compute("").items()}
    if kind == "count":
        rate, y = z[:, 0].exp(), y[:, 0]
        expected = {
            "deviance": mean_poisson_deviance(y, rate),
            "mae": float((y - rate).abs().mean()),
            "rmse": float((y - rate).square().mean().sqrt()),
            "pearson": 100 * float(torch.corrcoef(torch.stack([y, rate]))[0, 1]),
        }
    else:
        guess = (z > 0).int()
        expected = {
            "f1": 100 * f1_score(y, guess, average="micro"),
            "macro_f1": 100 * f1_score(y, guess, average="macro"),
            "accuracy": 100 * float((y == guess).float().mean()),
            "exact_match": 100 * accuracy_score(y, guess),
        }
        figures = online.compute()
        p = z.sigmoid()
        nll = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        assert float(figures["online/nll"]) == pytest.approx(float(nll), rel=1e-5)
        assert float(figures["online/brier"]) == pytest.approx(2 * float((p - y).square().mean()), rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-4)
