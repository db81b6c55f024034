"""Small models and streams that the tests share, and how far rounding may carry two results apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from filtune.optimizers import Categorical, Gaussian, OnlineOptimizer
from filtune.optimizers.kalman.covariance import Covariance
from filtune.optimizers.kalman.filter import KalmanOptimizer
from filtune.optimizers.likelihoods.base import Likelihood
from torch import Tensor, nn

FEATURES = 5

COVARIANCES = [*Covariance.registry, "buffered"]
"""All covariances; ``buffered`` is ``low_rank`` that compresses now and then."""


def covariance_of(name: str, rank: int = 10) -> dict[str, Any]:
    """Return EKF's options for one of ``COVARIANCES``."""
    if name in ("low_rank", "buffered"):
        return {"covariance": "low_rank", "rank": rank, "buffer_size": 10 if name == "buffered" else 0}
    return {"covariance": name}


Stream = list[tuple[Tensor, Tensor]]


def mlp(m: int, seed: int = 0) -> nn.Module:
    """5 -> 7 -> m with tanh, float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, m)).double()


def convnet(m: int, seed: int = 0) -> nn.Module:
    """The five features as an image of one row: a convolution, ReLU and a dense head, float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, FEATURES)), nn.Conv2d(1, 3, (1, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(9, m)
    ).double()


def linear(m: int, seed: int = 0) -> nn.Module:
    """5 -> m, float64."""
    torch.manual_seed(seed)
    return nn.Linear(FEATURES, m).double()


def labels(steps: int, B: int, m: int, seed: int = 1, features: int = FEATURES) -> Stream:
    """Random features (B, 5) with random labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(B, features, generator=generator, dtype=torch.float64),
            torch.randint(m, (B,), generator=generator),
        )
        for _ in range(steps)
    ]


def values(steps: int, B: int, m: int, seed: int = 1) -> Stream:
    """Random features (B, 5) with random values (B, m)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(B, FEATURES, generator=generator, dtype=torch.float64),
            torch.randn(B, m, generator=generator, dtype=torch.float64),
        )
        for _ in range(steps)
    ]


def stream_of(observed: str, steps: int, B: int, m: int, seed: int = 1) -> Stream:
    """Values or labels."""
    return (values if observed == "values" else labels)(steps, B, m, seed)


def likelihood_of(observed: str) -> type[Likelihood]:
    """Of values or labels."""
    return Gaussian if observed == "values" else Categorical


def coordinates(observed: str, m: int) -> int:
    """How many numbers a sample is observed in."""
    return {"values": m, "logits": 1 if m == 2 else m}.get(observed, m - 1)


def drive(
    optimizer: OnlineOptimizer, model: nn.Module, likelihood: Callable[[Tensor], Likelihood], stream: Iterable
) -> None:
    """The five-line loop."""
    for x, y in stream:
        optimizer.step(lambda x=x, y=y: likelihood(model(x)).observe(y))


def variances(optimizer: KalmanOptimizer) -> Tensor:
    """Variances of all parameters, flat, (n,)."""
    return torch.cat([v.flatten() for v in optimizer.variance()])


def rounding(terms: int, condition: float = 1.0, dtype: torch.dtype = torch.float64) -> float:
    """Higham's bound on the relative error of a result: gamma_k = k u / (1 - k u), times the condition number.

    Args:
        terms: Rounded operations on the longest way from input to result, k.
        condition: How much the problem magnifies a relative change of its data.
        dtype: Floating type, of unit roundoff u = eps / 2.
    """
    u = torch.finfo(dtype).eps / 2
    return condition * terms * u / (1 - terms * u)


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b| in the maximum norm, in float64."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))
