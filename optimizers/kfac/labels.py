"""Whose derivatives make up the Fisher information: labels sampled from the model, all labels, or the observed ones.

Shapes: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..likelihoods.base import Innovation, Observation

FISHERS = ("auto", "sampled", "exact", "empirical")

Derivatives = Sequence[Tensor | None]


class Errors:
    """Derivatives of the log-likelihood by every layer's output, of each sample on its own, for one batch.

    sum ee' over them and over the positions, divided by the batch size, is Gamma.

    Args:
        kind: ``sampled``, one label a sample drawn from the model; ``exact``, the expectation over all labels;
            ``empirical``, the labels that were observed, whose Fisher information is another matrix; ``auto``, exact
            where one coordinate is all that can vary, as with two classes, else sampled.
        observation: The observation, its graph attached.
        joint: That of all ranks.
        own: This rank's samples in it.
    """

    def __init__(self, kind: str, observation: Observation, joint: Observation, own: slice) -> None:
        self.observation, self.joint, self.own = observation, joint, own
        self.batch = len(observation.outputs)
        self._natural: Innovation | None = None
        if kind == "exact" or (kind == "auto" and observation.outputs.shape[1] <= 2):
            natural = observation.natural()
            if natural.residual.shape[1] == 1 or kind == "exact":
                self._natural = natural
        self.kind = "sampled" if kind == "auto" and self._natural is None else kind.replace("auto", "exact")

    @property
    def from_ordinary(self) -> bool:
        """Whether they follow from the derivatives of the loss, so that no further backward pass is needed."""
        return self.kind == "empirical" or (self._natural is not None and self._natural.residual.shape[1] == 1)

    def may_need_more(self, shapes: Iterable[torch.Size]) -> bool:
        """Whether further backward passes may be needed.

        A single coordinate's errors are scaled sample by sample, for which it must be clear whose they are: the first
        dimension of the layers' outputs, of these shapes, is the batch.
        """
        return not self.from_ordinary or (self._natural is not None and any(s[0] != self.batch for s in shapes))

    def each(self, ordinary: Derivatives, edges: Sequence[GradientEdge]) -> Iterator[Derivatives]:
        """The errors by every layer, for one label or coordinate after the other.

        Args:
            ordinary: Derivatives of the mean loss.
            edges: Where the layers' outputs stand in the graph.
        """
        clear = self._natural is None or all(g is None or len(g) == self.batch for g in ordinary)
        if self.from_ordinary and clear:
            yield [None if g is None else self._scaled(g) for g in ordinary]
        elif self.kind == "sampled":
            target = self.joint.likelihood.sample()[self.own]
            with torch.enable_grad():
                loss = self.batch * self.observation.likelihood.nll(target)
            yield torch.autograd.grad(loss, edges, allow_unused=True)
        else:
            assert self._natural is not None
            assert self._natural.factor is not None
            outputs = self.observation.outputs
            rows = (self._natural.factor.mT @ self._natural.cotangents).unbind(1)
            for i, row in enumerate(rows):  # F = sum of cc' over them
                keep = i + 1 < len(rows)
                yield torch.autograd.grad(outputs, edges, row.to(outputs.dtype), retain_graph=keep, allow_unused=True)

    def _scaled(self, g: Tensor) -> Tensor:
        """Of a derivative of the mean loss, (B, ...), each sample's error.

        A single coordinate has the residual r, the loss the derivative -r h for some h, and the Fisher information is
        F hh': the error sqrt(F) / |r| times the derivative. For two classes F / r^2 = p0 p1 / (1 - p_y)^2.
        """
        if self._natural is None:
            return self.batch * g
        factor = self._natural.factor
        assert factor is not None
        r = self._natural.residual.abs()
        scale = self.batch * torch.where(r > 0, factor.norm(dim=-1) / r, 0)
        return g * scale.view(-1, *[1] * (g.dim() - 1))
