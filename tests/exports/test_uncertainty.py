"""The covariance of the outputs against a dense float64 J P J', and predictive probabilities against Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from filtune.exports import prediction
from filtune.exports.prediction import OutputCovariance, Prediction
from filtune.optimizers import EKF, Categorical, Filtune, Gaussian, LoKO
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.likelihoods.tasks import Coding
from torch import Tensor, nn

FILTERS: dict[str, Callable[[Any], KalmanOptimizer]] = {
    "loko": lambda params: LoKO(params, dtype="float64"),
    **{
        name: (lambda params, name=name: EKF(params, covariance=name, dtype="float64"))
        for name in ("full", "block_per_tensor", "block_per_neuron")
    },
    "low_rank": lambda params: EKF(params, covariance="low_rank", rank=3, dtype="float64"),
}


def dense_covariance(optimizer: KalmanOptimizer) -> Tensor:
    """P (n, n), of the tensors that the filter keeps."""
    kept = optimizer.filter
    if "p" in kept:
        return kept["p"].diag()
    if "V" in kept:
        return torch.linalg.inv(kept["precision"].diag() + kept["V"].mT @ kept["V"])
    names = sorted((name for name in kept if name[0] == "P"), key=lambda name: int(name[1:]))
    return torch.block_diag(*(block for name in names for block in kept[name]))


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("name", FILTERS)
def test_output_covariance(name: str, outputs: int) -> None:
    """To float64 rounding: of sums of n^2 = 1600 products, 1600 u = 2e-13, and of a Cholesky factor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()
    optimizer = FILTERS[name](model.parameters()).attach(model)
    if outputs > 1:
        for _ in range(4):
            x, y = torch.randn(3, 4).double(), torch.randint(0, outputs, (3,))
            optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
    x = torch.randn(6, 4).double()
    found = OutputCovariance(optimizer, model)((Categorical if outputs > 1 else Gaussian)(model(x)))
    params = dict(model.named_parameters())
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(params)
    J = torch.cat([jacobian[key].flatten(2) for key in params], dim=2).detach()
    expected = J @ dense_covariance(optimizer) @ J.mT
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("m", [2, 3])
def test_covariance_is_that_of_draws(m: int) -> None:
    """A linear model's outputs are Gaussian with C exactly: the sample covariance of N draws is within 5 of its own
    standard deviations, sqrt((C_ii C_jj + C_ij^2) / N)."""
    torch.manual_seed(0)
    model = nn.Linear(4, m).double()
    optimizer = LoKO(model.parameters(), dtype="float64").attach(model)
    x = torch.randn(1, 4).double()
    (C,) = OutputCovariance(optimizer, model)(Categorical(model(x)))
    N = 20_000
    (weight, bias), (vw, vb) = (p.detach() for p in model.parameters()), optimizer.variance()
    weights, biases = weight + vw.sqrt() * torch.randn(N, m, 4), bias + vb.sqrt() * torch.randn(N, m)
    draws = weights @ x[0] + biases
    spread = ((C.diag()[:, None] * C.diag() + C.square()) / N).sqrt()
    assert ((torch.cov(draws.mT) - C).abs() < 5 * spread).all()


@pytest.mark.parametrize("top_k", [0, 1, 2])
def test_what_is_predicted_is_what_was_scored(top_k: int) -> None:
    """The probabilities of a prediction are those that the next training step scores, with as many directions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6)).double()
    optimizer = Filtune(model.parameters(), top_k=top_k, dtype="float64")
    for _ in range(6):
        x, y = 3 * torch.randn(2, 4).double(), torch.randint(6, (2,))
        outputs = Categorical(model(x).detach())
        covariance, factor = optimizer.output_uncertainty(Categorical(model(x)))
        found = Prediction(outputs, covariance, optimizer.tempering_log_weights(), factor).predictive
        known = optimizer.tempering_log_weights() is not None
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        scored = optimizer.predictive()
        assert found is not None
        assert scored is not None
        if known:  # without a label all scales weigh the same in training, and the posterior is taken as it is after
            torch.testing.assert_close(found, scored, rtol=1e-6, atol=1e-7)


def test_a_covariance_that_does_not_fit_is_left_out_and_the_probabilities_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``top_k``: logit_std_CLASS needs the rows of all classes, the posterior predictive those of k."""
    torch.manual_seed(0)
    model = nn.Linear(4, 5).double()
    optimizer = Filtune(model.parameters(), top_k=2, dtype="float64")
    optimizer.step(lambda: Categorical(model(torch.randn(3, 4).double())).observe(torch.tensor([0, 1, 4])))
    x, coding, found = torch.randn(2, 4).double(), Coding(tuple("abcde")), []
    for elements in (5 * 25, 5 * 25 - 1):
        monkeypatch.setattr(prediction, "MOST_ELEMENTS", elements)
        covariance, factor = OutputCovariance(optimizer, model).factorised(Categorical(model(x)))
        predicted = Prediction(Categorical(model(x).detach()), covariance, None, factor)
        found.append(predicted.likelihood.columns(coding, predicted.covariance, predicted.predictive))
    whole, partial = found
    stds = {f"logit_std_{name}" for name in "abcde"}
    assert whole.keys() - partial.keys() == stds
    for name in "abcde":
        assert partial[f"probability_bayes_{name}"] == pytest.approx(whole[f"probability_bayes_{name}"], rel=1e-12)
