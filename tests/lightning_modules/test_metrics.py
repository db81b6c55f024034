"""Prequential metrics against their definitions."""

from __future__ import annotations

import pytest
import torch
from filtune.lightning_modules.metrics import Matthews, MetricSet, Prequential, WindowedMean
from filtune.optimizers import Categorical, Gaussian
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

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
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

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
