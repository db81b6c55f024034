"""Online metrics of the predictions that were given out, where a class was not known yet."""

from __future__ import annotations

import math

import torch
from filtune.lightning_modules.metrics import Prequential
from filtune.optimizers import Observation
from filtune.optimizers.likelihoods.base import upcast
from torch import Tensor

UNKNOWN = torch.finfo(torch.float32).eps
"""Probability of a class that the prediction did not know, beside those that it knew: its log loss would be infinite,
and is 15.9 nats, as in ``sklearn.metrics.log_loss``."""


class LivePrequential(Prequential):
    """The online metrics of a learner whose classes come as the stream goes on.

    A sample with the first label of a class is learned from by the grown model, but was predicted without the class.
    It is scored as predicted: wrong, with a probability of zero (:data:`UNKNOWN`) for its class.

    Attributes:
        known: Classes that could be predicted when the batch came; None for all outputs. Of none, samples are counted
            alone.
    """

    known: int | None = None

    @torch.no_grad()
    def update(self, observation: Observation, predictive: Tensor | None = None, score: bool = True) -> None:
        """Take in a batch observed before the update; see :meth:`Prequential.update`."""
        given, known = self.given_out(observation), self.known
        if given is None:
            self.skip(len(observation.target))
            return
        if known is not None and given is not observation and predictive is not None:
            predictive = outputs_known(predictive.log(), known).softmax(1)
        super().update(given, predictive, score)

    @torch.no_grad()
    def given_out(self, observation: Observation) -> Observation | None:
        """Return a batch as it was predicted; None where no class was known."""
        known, outputs = self.known, observation.outputs
        if known is None or known >= outputs.shape[1]:
            return observation
        return observation.at(outputs_known(outputs.detach(), known)) if known else None


def outputs_known(outputs: Tensor, known: int) -> Tensor:
    """Return logits whose softmax is that of the first ``known`` alone, and :data:`UNKNOWN` for each of the others.

    Args:
        outputs: Logits, (B, m).
        known: How many of them there were.
    """
    kept = upcast(outputs[:, :known])
    rest = kept.logsumexp(1, keepdim=True) + math.log(UNKNOWN)
    return torch.cat([kept, rest.expand(-1, outputs.shape[1] - known)], 1)
