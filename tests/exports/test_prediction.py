"""The columns of a table of predictions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from filtune.exports.inputs import Rows
from filtune.exports.predict import predict
from filtune.exports.prediction import Prediction, Predictor
from filtune.lightning_modules.backbones import BackboneConfig
from filtune.optimizers import Categorical, Gaussian
from filtune.optimizers.kalman.predictive import SCALES, scaled_predictive, tempered_predictive
from filtune.optimizers.likelihoods.categorical import predictive_probabilities
from filtune.optimizers.likelihoods.gaussian import Scaling
from filtune.optimizers.likelihoods.tasks import Coding

from tests.exports.runs import logits_of, run_of, text_task


def test_regression() -> None:
    """A value, and the square root of its variance, in the units of the targets; the error of a new value."""
    outputs, C = torch.tensor([[1.5], [-2.0]]), torch.tensor([[[4.0]], [[0.25]]])
    assert Gaussian(outputs).columns(Coding(), C) == {"prediction": [1.5, -2.0], "std": [2.0, 0.5]}
    assert Gaussian(outputs).columns(Coding()) == {"prediction": [1.5, -2.0]}
    assert Gaussian(outputs).summary(Coding()) == "2 rows; mean -0.25, from -2 to 1.5"
    scaling = Scaling(*(torch.tensor([value], dtype=torch.float64) for value in (100.0, 10.0, 0.25, 2.25)))
    assert Gaussian(outputs, scaling).columns(Coding(), C) == {
        "prediction": [115.0, 80.0],
        "std": [20.0, 5.0],
        "predictive_std": [15.0, 15.0],
    }


def test_several_classes() -> None:
    """A deviation for each logit; the classes in the order of the outputs."""
    C, names = torch.diag(torch.tensor([1.0, 4.0, 9.0]))[None], ("bad", "fair", "good")
    prediction = Prediction(Categorical(torch.tensor([[0.0, 0.0, 3.0]])), C)
    found = prediction.likelihood.columns(Coding(names), C, prediction.predictive)
    assert found["prediction"] == ["good"]
    assert [found[f"logit_std_{name}"] for name in names] == [[1.0], [2.0], [3.0]]
    assert sum(found[f"probability_{name}"][0] for name in names) == pytest.approx(1)
    assert found["probability_bayes_good"][0] < found["probability_good"][0]


def test_the_stream_decides_how_wide_the_covariance_is_taken() -> None:
    """No word of it: as wide as it is; all weight on no width at all: the softmax."""
    outputs, C = torch.tensor([[0.0, 1.0, 3.0]]), torch.diag(torch.tensor([1.0, 4.0, 9.0]))[None]
    softmax = -1e3 * (torch.arange(len(SCALES)) > 0)
    assert Prediction(Categorical(outputs)).predictive is None
    for log_weights, expected in ((None, predictive_probabilities(outputs, C)), (softmax, outputs.softmax(1))):
        found = Prediction(Categorical(outputs), C, log_weights).predictive
        assert found is not None
        torch.testing.assert_close(found, expected)
    log_weights = torch.arange(len(SCALES)).float()
    found = Prediction(Categorical(outputs), C, log_weights).predictive
    torch.testing.assert_close(found, tempered_predictive(scaled_predictive(outputs, C), log_weights))


def test_batches_are_joined_in_order() -> None:
    log_weights = torch.arange(len(SCALES)).float()
    parts = [
        Prediction(Gaussian(torch.full((n, 2), float(n))), torch.full((n, 2, 2), float(n)), log_weights) for n in (2, 1)
    ]
    joined = Prediction.join(parts)
    assert joined.tempering_log_weights is log_weights
    assert joined.outputs[:, 0].tolist() == [2, 2, 1]
    assert joined.covariance is not None
    assert joined.covariance.shape == (3, 2, 2)
    assert Prediction.join([Prediction(Gaussian(torch.zeros(1, 2)))]).covariance is None


def test_pairs_in_batches_are_those_one_by_one(encoder: Path, tmp_path: Path) -> None:
    """A regression on pairs of texts; padding does not count, to float32 rounding of outputs of size 1."""
    run = run_of(BackboneConfig(name=str(encoder), adapter="lora", rank=2, head="mean"), text_task(()), tmp_path)
    run.config["optimizer"] = {"class_path": "filtune.AdamW"}
    pairs = [("good film", "a great film"), ("the plot", "dull"), ("bad", "poor and dull actor")]
    pd.DataFrame(pairs, columns=["first", "second"]).to_parquet(tmp_path / "pairs.parquet")
    rows = Rows(run, str(tmp_path / "pairs.parquet"), columns=["first", "second"])
    found = predict(Predictor(run), rows, batch_size=2)[0].outputs
    expected = torch.cat([logits_of(run, {"text": [pair]}) for pair in pairs])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.std() > 1e-3
