"""Cumulants of squared residuals, by which the NIS of counts and labels is judged, against sums over all outcomes."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers import Bernoulli, Poisson
from torch import Tensor


def by_enumeration(values: Tensor, probabilities: Tensor) -> Tensor:
    """Mean, variance and third central moment of independent columns, (k, m) to (3, m)."""
    mean = (probabilities * values).sum(0)
    apart = values - mean
    return torch.stack([mean, (probabilities * apart**2).sum(0), (probabilities * apart**3).sum(0)])


def test_of_labels() -> None:
    logits = torch.linspace(-6, 6, 13, dtype=torch.float64)
    p = logits.sigmoid()
    expected = by_enumeration(torch.stack([(1 - p) ** 2, p**2]), torch.stack([p, 1 - p]))
    found = Bernoulli(logits.unsqueeze(0)).square_cumulants()
    assert found is not None
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("rate", [0.1, 1.0, 7.0])
def test_of_counts(rate: float) -> None:
    """Counts up to 200 leave out less than 1e-200 of the probability."""
    z = torch.tensor([[rate]], dtype=torch.float64).log()
    counts = torch.arange(201, dtype=torch.float64).unsqueeze(1)
    probabilities = (counts * z - rate - (counts + 1).lgamma()).exp()
    found = Poisson(z).square_cumulants()
    assert found is not None
    torch.testing.assert_close(found[:, 0], by_enumeration((counts - rate) ** 2, probabilities), rtol=1e-9, atol=0)
