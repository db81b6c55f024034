"""scikit-learn's checks, pipelines and ``partial_fit`` on a learner."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filtune.optimizers import AdamW
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn 1.6 has the functions that estimators call")

from filtune.live.adapters.sklearn import SklearnClassifier, SklearnRegressor
from sklearn.utils.estimator_checks import check_estimator

FAST = partial(AdamW, lr=1e-2)


def iris() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], np.array(["setosa", "versicolor", "virginica"])[y[order]]


@pytest.mark.slow
@pytest.mark.parametrize("cls", [SklearnClassifier, SklearnRegressor])
def test_checks_of_sklearn(cls: Any) -> None:
    check_estimator(cls(optimizer=FAST), on_skip=None)


def test_fit_and_partial_fit_are_one_pass() -> None:
    X, y = iris()
    whole = SklearnClassifier(optimizer=FAST).fit(X, y)
    parts = SklearnClassifier(optimizer=FAST)
    for start in range(0, len(y), 50):
        parts.partial_fit(X[start : start + 50], y[start : start + 50], classes=np.unique(y))
    assert (whole.predict_proba(X) == parts.predict_proba(X)).all()
    assert whole.score(X, y) > 0.85
    assert whole.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    for twin in (pickle.loads(pickle.dumps(parts)), copy.deepcopy(parts)):
        assert (twin.predict_proba(X) == whole.predict_proba(X)).all()


def test_classes_that_come() -> None:
    X, y = iris()
    model = SklearnClassifier(optimizer=FAST)
    is_last = y == "setosa"  # the first by name
    model.partial_fit(X[~is_last][:20], y[~is_last][:20])
    assert model.classes_.tolist() == ["versicolor", "virginica"]
    model.partial_fit(X[is_last][:20], y[is_last][:20])
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    found = model.predict_proba(X)
    assert np.abs(found.sum(1) - 1).max() < 1e-12
    assert (model.classes_[found.argmax(1)] == model.predict(X)).all()


def test_a_pipeline_and_a_missing_value() -> None:
    X, y = iris()
    model = make_pipeline(PolynomialFeatures(2), SklearnClassifier(optimizer=FAST, epochs=2, batch_size=5)).fit(X, y)
    assert model[-1].learner_.steps == 60
    assert model.score(X, y) > 0.8
    X[3, 1] = np.nan
    alone = SklearnClassifier(optimizer=FAST).fit(X[:9], y[:9])
    assert alone.predict(X[3:4])[0] in alone.classes_


def test_a_regression() -> None:
    X, _ = iris()
    model = SklearnRegressor(optimizer=FAST, epochs=4, batch_size=5).fit(X[:, :3], 100 + X[:, 3])
    assert model.score(X[:, :3], 100 + X[:, 3]) > 0.5


def test_texts(tiny_bert: Path) -> None:
    model = SklearnClassifier(str(tiny_bert), FAST).fit(["good film", "bad film"] * 3, ["yes", "no"] * 3)
    assert model.predict(["good film"])[0] in ("no", "yes")
    assert model.predict_proba(["good film", "bad plot"]).shape == (2, 2)
