"""Scores of predicted probabilities: log loss, Brier score, calibration error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 15
"""Number of bins of the confidence in the calibration error."""


class ProbabilityScores(nn.Module):
    r"""Scores of predicted probabilities over a stream of any length, in sums that are saved and restored exactly.

    Over the samples t with probabilities p_t and classes y_t:

    .. math::
        \text{nll} &= \operatorname{mean}_t -\ln p_{t, y_t} \\
        \text{brier} &= \operatorname{mean}_t \sum_k (p_{tk} - [k = y_t])^2 \\
        \text{ece} &= \sum_b \frac{n_b}{n} |\text{accuracy}_b - \text{confidence}_b|

    the last over bins of equal width of the largest probability (Guo et al. 2017), in 0..100. torchmetrics' calibration
    error keeps every prediction it has seen; a stream has no end.
    """

    nll: Tensor
    brier: Tensor
    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("nll", torch.zeros((), dtype=torch.float64))
        self.register_buffer("brier", torch.zeros((), dtype=torch.float64))
        self.register_buffer("bins", torch.zeros(3, BINS, dtype=torch.float64))  # samples, confidence, accuracy

    @torch.no_grad()
    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch; samples whose probabilities are not finite are left out.

        Args:
            probabilities: (B, m).
            target: Classes, (B,).
        """
        p = probabilities.double()
        counts = p.isfinite().all(1)
        p, counts = torch.where(counts.unsqueeze(1), p, 1 / p.shape[1]), counts.double()
        own = p.gather(1, target.unsqueeze(1)).squeeze(1)
        self.nll += -(counts * own.clamp_min(torch.finfo(p.dtype).tiny).log()).sum()
        self.brier += (counts * (p.square().sum(1) - 2 * own + 1)).sum()
        confidence, predicted = p.max(1)
        place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        self.bins.index_add_(1, place, counts * torch.stack([counts, confidence, (predicted == target).double()]))

    def samples(self) -> int:
        """Return the number of samples; waits for the device."""
        return int(self.bins[0].sum())

    @torch.no_grad()
    def compute(self, prefix: str) -> dict[str, Tensor]:
        """Return the scores by prefixed name."""
        n, confidence, accuracy = self.bins
        samples = n.sum().clamp_min(1)
        ece = 100 * (accuracy - confidence).abs().sum() / samples
        return {f"{prefix}nll": self.nll / samples, f"{prefix}brier": self.brier / samples, f"{prefix}ece": ece}
