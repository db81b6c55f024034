"""Types of Fisher information: for which labels the log-likelihood is differentiated by every layer's output.

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..likelihoods.base import Innovation, Observation
from ..parts import Part

Derivatives = Sequence[Tensor | None]


class OutputGradients(Part, ABC):
    """Derivatives e of each sample's log-likelihood by every layer's output, for one batch.

    The sum of ee' over them and over the positions, divided by the batch size, is Gamma.

    Args:
        observation: The observation of this rank's samples, its graph attached.
        joint: The observation of all ranks' samples.
        own: This rank's samples in it.
    """

    kind = "fisher_type"

    def __init__(self, observation: Observation, joint: Observation, own: slice) -> None:
        self.observation, self.joint, self.own = observation, joint, own
        self.batch = len(observation.outputs)

    @classmethod
    def of(cls, observation: Observation, joint: Observation, own: slice) -> OutputGradients:
        """Return the output gradients of a batch."""
        return cls(observation, joint, own)

    @property
    def from_loss(self) -> bool:
        """True if they follow from the derivatives of the loss, so that no further backward pass is needed."""
        return False

    def may_need_more(self, shapes: Iterable[torch.Size]) -> bool:
        """Return whether further backward passes may be needed, given the shapes of the layers' outputs."""
        return not self.from_loss

    @abstractmethod
    def each(self, loss_gradients: Derivatives, edges: Sequence[GradientEdge]) -> Iterator[Derivatives]:
        """Yield the derivatives by every layer's output, for one label or coordinate after the other.

        Args:
            loss_gradients: Derivatives of the mean loss by the layers' outputs.
            edges: The layers' outputs in the graph.
        """


class MonteCarlo(OutputGradients):
    """One label per sample, drawn from the model: an unbiased estimate, for one further backward pass."""

    name = "mc"

    def each(self, loss_gradients: Derivatives, edges: Sequence[GradientEdge]) -> Iterator[Derivatives]:
        """Yield the derivatives at the sampled labels."""
        target = self.joint.likelihood.sample()[self.own]
        with torch.enable_grad():
            loss = self.batch * self.observation.likelihood.nll(target)
        yield torch.autograd.grad(loss, edges, allow_unused=True)


class Empirical(OutputGradients):
    """The observed labels, whose second moment is not the Fisher information."""

    name = "empirical"

    @property
    def from_loss(self) -> bool:
        """Return true, because they are the derivatives of the loss."""
        return True

    def each(self, loss_gradients: Derivatives, edges: Sequence[GradientEdge]) -> Iterator[Derivatives]:
        """Yield the derivatives of the samples' losses, up to the sign."""
        yield [None if g is None else self.batch * g for g in loss_gradients]


class Exact(OutputGradients):
    """The expectation over all labels, from a root of the Fisher information of the outputs, F = sum of cc'.

    It takes one backward pass per column c. A single coordinate (two classes, one value) takes none: its residual is
    r, the loss has the derivative -r h for some h, and the Fisher information is F hh', so that e is sqrt(F) / |r|
    times the derivative of the loss. For two classes F / r^2 = p0 p1 / (1 - p_y)^2.
    """

    name = "exact"

    def __init__(self, observation: Observation, joint: Observation, own: slice) -> None:
        super().__init__(observation, joint, own)
        self.natural: Innovation = observation.natural()

    @property
    def from_loss(self) -> bool:
        """True if a single coordinate is observed."""
        return self.natural.residual.shape[1] == 1

    def may_need_more(self, shapes: Iterable[torch.Size]) -> bool:
        """Return whether further passes may be needed: only outputs with the batch dimension first can be scaled."""
        return not self.from_loss or any(shape[0] != self.batch for shape in shapes)

    def each(self, loss_gradients: Derivatives, edges: Sequence[GradientEdge]) -> Iterator[Derivatives]:
        """Yield the derivatives along every column of the root, or the scaled derivatives of the loss."""
        if self.from_loss and all(g is None or len(g) == self.batch for g in loss_gradients):
            yield [None if g is None else self._scaled(g) for g in loss_gradients]
            return
        assert self.natural.factor is not None
        outputs = self.observation.outputs
        rows = (self.natural.factor.mT @ self.natural.cotangents).unbind(1)
        for i, row in enumerate(rows):
            keep = i + 1 < len(rows)
            yield torch.autograd.grad(outputs, edges, row.to(outputs.dtype), retain_graph=keep, allow_unused=True)

    def _scaled(self, g: Tensor) -> Tensor:
        """Return each sample's e from a derivative of the mean loss, (B, ...)."""
        factor = self.natural.factor
        assert factor is not None
        r = self.natural.residual.abs()
        scale = self.batch * torch.where(r > 0, factor.norm(dim=-1) / r, 0)
        return g * scale.view(-1, *[1] * (g.dim() - 1))


class Automatic(OutputGradients):
    """``exact`` where it takes no further backward pass (two classes, one value), else ``mc``."""

    name = "auto"

    @classmethod
    def of(cls, observation: Observation, joint: Observation, own: slice) -> OutputGradients:
        """Return the output gradients of a batch."""
        if observation.outputs.shape[1] <= 2:
            exact = Exact(observation, joint, own)
            if exact.from_loss:
                return exact
        return MonteCarlo(observation, joint, own)

    def each(self, loss_gradients: Derivatives, edges: Sequence[GradientEdge]) -> Iterator[Derivatives]:
        """Do not call: :meth:`of` returns one of the other types."""
        raise NotImplementedError
