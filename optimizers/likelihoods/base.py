"""Likelihoods: the distribution of the target given the model's outputs, in the coordinates a filter observes.

Shapes throughout: ``B`` batch, ``m`` outputs, ``d`` observation coordinates.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from .tasks import Coding, Encoded, Metric, StreamState

OBSERVATIONS = ("probabilities", "logits")

REGISTRY: dict[str, type[Likelihood]] = {}
"""Likelihood classes by kind of task; a class joins when it is defined."""


class Innovation(NamedTuple):
    """A batch in observation coordinates.

    Attributes:
        residual: e = y - h(x, theta) in observation coordinates, (B, d).
        cotangents: Derivative of each observation coordinate with respect to the model's outputs, (B, d, m).
            Pulled back through the model they are the rows of the Jacobian H.
        observed: y in the same coordinates, (B, d).
        factor: L with LL' = F, the likelihood's own precision of the natural parameters, (B, d, k); None where
            something else is observed.
        has_residual_probe: Whether the last coordinate is a random probe of the directions that were left out.
        foreseen: M, (B, j, k): the directions among them, orthonormal, that do not depend on the target.
    """

    residual: Tensor
    cotangents: Tensor
    observed: Tensor
    factor: Tensor | None = None
    has_residual_probe: bool = False
    foreseen: Tensor | None = None

    @property
    def is_projected(self) -> bool:
        """True if some directions of the outputs are observed, not all."""
        return self.has_residual_probe or self.foreseen is not None


class Likelihood(ABC):
    """Distribution of the target given the model's outputs, one row per sample.

    A subclass in this folder with a ``kind`` of its own is a kind of task: ``--data.task KIND`` trains with it, and
    labels, metrics, predictions and exports follow from its methods.

    Args:
        outputs: Model outputs with their graph attached, (B, m).

    Attributes:
        kind: Name of the kind of task.
        has_classes: Whether labels are names of classes; otherwise they are numbers.
        is_softmax: Whether the target is one class out of m, (B,) int64, with the softmax of the outputs for
            probabilities: a filter then tempers its predictions and can detect drift.
        is_discrete: Whether targets have probabilities, so that the negative log-likelihood is never negative.
        takes_lists: Whether a label may be a list.
        online_metrics: Metrics taken before every update; the first is the score of a run.
        validation_metrics: Metrics of a validation, unless others are asked for.
        problem_type: What transformers calls the problem.
        target_requirement: What an entry of the target must do, for messages.
        export_note: A sentence for the model card about what the exported outputs mean; empty where it is plain.

    Raises:
        ValueError: If the outputs are not a (B, m) tensor.
    """

    kind: ClassVar[str]
    has_classes: ClassVar[bool] = False
    is_softmax: ClassVar[bool] = False
    is_discrete: ClassVar[bool] = False
    takes_lists: ClassVar[bool] = False
    online_metrics: ClassVar[tuple[str, ...]]
    validation_metrics: ClassVar[tuple[str, ...]]
    problem_type: ClassVar[str] = "regression"
    target_requirement: ClassVar[str] = ""
    export_note: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Register a class that names its kind."""
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            known = REGISTRY.setdefault(cls.kind, cls)
            if known.__qualname__ != cls.__qualname__:
                raise TypeError(f"{cls.__name__}: the kind {cls.kind!r} is that of {known.__name__}; choose another")

    def __init__(self, outputs: Tensor) -> None:
        if outputs.dim() != 2:
            raise ValueError(f"a likelihood takes outputs of shape (batch, outputs), got {tuple(outputs.shape)}")
        self.outputs = outputs

    @classmethod
    def of(cls, outputs: Tensor, value: Any = None) -> Self:
        """Return the likelihood of outputs (B, m), given what its state says (:meth:`StreamState.value`)."""
        return cls(outputs)

    def observe(self, target: Tensor) -> Observation:
        """Bind the likelihood to the target that was observed, (B,) or (B, m), of the type that it takes.

        Raises:
            ValueError: On a CPU, if the target has another shape or values that the likelihood excludes. On other
                devices the values are not looked at: that would wait for the device at every step.
        """
        name, shape, shapes = type(self).__name__, tuple(self.outputs.shape), self._target_shapes()
        if tuple(target.shape) not in shapes:
            expected = " or ".join(map(str, shapes))
            raise ValueError(
                f"{name}: outputs of shape {shape} need a target of shape {expected}, got {tuple(target.shape)}"
            )
        target = self._typed(target)
        has_values = target.device.type == "cpu" and torch._C._functorch.peek_interpreter_stack() is None  # no vmap
        if has_values and not bool((valid := self._is_valid(target)).all()):
            value = target[~valid][0].item()
            raise ValueError(f"{name}: a target is {value}, must {self.target_requirement.format(m=shape[1])}")
        return Observation(self, target)

    def _target_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes that a target may have."""
        B, m = self.outputs.shape
        return [(B, m), (B,)] if m == 1 else [(B, m)]

    def _typed(self, target: Tensor) -> Tensor:
        """Return a target of one of these shapes, of the type that the likelihood computes with."""
        return target

    def _is_valid(self, target: Tensor) -> Tensor:
        """Return which entries of a target the likelihood allows; steps with others that are not finite are skipped."""
        return torch.ones_like(target, dtype=torch.bool)

    def at(self, outputs: Tensor) -> Self:
        """Return the same likelihood of other outputs, (B, m)."""
        other = copy.copy(self)
        other.outputs = outputs
        return other

    @abstractmethod
    def mean(self) -> Tensor:
        """Return the expected observation, (B, m)."""

    @abstractmethod
    def nll(self, target: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats, averaged over the batch, ()."""

    @abstractmethod
    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Return residual and cotangents in observation coordinates.

        Args:
            target: The target.
            observation: ``probabilities``, the mean; or ``logits``, the outputs themselves.
        """

    @abstractmethod
    def natural(self, target: Tensor) -> Innovation:
        """Return the target observed through the natural parameters eta, with their precision F.

        The residual is the gradient of the log-likelihood with respect to eta, F its expected square.
        """

    def contrasts(self, k: int, target: Tensor | None = None) -> Tensor | None:
        """Return orthonormal directions of the outputs that distinguish the k most probable classes.

        Args:
            k: How many classes are distinguished from each other and from the rest.
            target: The target, which is distinguished too, so that the directions hold the residual.

        Returns:
            (B, k, m), or (B, k + 1, m) where a target is not among the k most probable; None where they save nothing.
        """
        return None

    def natural_along(self, target: Tensor, directions: Tensor) -> Innovation:
        """Return :meth:`natural` in orthonormal directions of the outputs, such as :meth:`contrasts`, (B, k, m)."""
        raise NotImplementedError(f"{type(self).__name__} has no contrasts")

    @abstractmethod
    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """Return how fast the curvature of the log-likelihood can change along a direction of the outputs, ().

        The least M known with |D^3 l[u, v, v]| <= M D^2 l[v, v] for all v, where l is the negative log-likelihood of
        the batch and u the direction, (B, m): generalised self-concordance (Sun & Tran-Dinh 2019).
        """

    @abstractmethod
    def covariance(self) -> Tensor:
        """Return the covariance of the observed mean, in its observation coordinates, (B, d, d)."""

    def square_cumulants(self) -> Tensor | None:
        """Return mean, variance and third cumulant of the squared residuals of ``natural``, (3, B, d).

        None where they are normal, or where the coordinates are no independent ones.
        """
        return None

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one target per sample from the model's own distribution, shaped like a target."""

    # the task: labels, metrics, answers

    @classmethod
    def infer(cls, values: Sequence[Any], classes: Sequence[str] | None = None) -> Coding:
        """Return how labels are encoded.

        Args:
            values: The distinct labels, as Python values; missing ones are None.
            classes: Names of the classes, where they are given.

        Raises:
            ValueError: If they make no task of this kind; a phrase such as "needs two different classes".
        """
        return Coding()

    @classmethod
    @abstractmethod
    def encode(cls, values: Sequence[Any], coding: Coding) -> Encoded:
        """Return the targets of labels, given as Python values, and what is wrong with some of them."""

    @classmethod
    def count_outputs(cls, coding: Coding) -> int:
        """Return the number of model outputs m: the classes, or one."""
        return len(coding.classes) or 1

    @classmethod
    @abstractmethod
    def metrics(cls, outputs: int) -> Mapping[str, Metric]:
        """Return the metrics of m outputs by name."""

    @classmethod
    def build_state(cls, outputs: int) -> StreamState | None:
        """Return the module that follows the targets of a run with m outputs; None where there is nothing to follow."""
        return None

    @classmethod
    def needs_scaling(cls, targets: Tensor) -> bool:
        """Return whether a run with these targets, (N,) or (N, m), should have the state of :meth:`build_state`."""
        return False

    def answer(self) -> Tensor:
        """Return the point prediction, shaped like a target: the most probable class, or the mean."""
        return self.mean()

    def metric_target(self, target: Tensor) -> Tensor:
        """Return the target as metrics take it, shaped like the answer."""
        return target.reshape(self.answer().shape)

    def outcomes(self, mean: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return probabilities of exclusive outcomes (N, k) and which occurred (N,); None where the target is a number.

        Args:
            mean: Probabilities as of :meth:`mean` or :meth:`predictive`, (B, m).
            target: The target.
        """
        return None

    @abstractmethod
    def predictive(self, covariance: Tensor) -> Tensor:
        """Return the posterior predictive mean, (B, m), where the outputs are uncertain: N(outputs, covariance).

        Args:
            covariance: C, (B, m, m).
        """

    @abstractmethod
    def columns(
        self, coding: Coding, covariance: Tensor | None = None, predictive: Tensor | None = None
    ) -> dict[str, list[Any]]:
        """Return the columns of ``filtune predict``, by name.

        Args:
            coding: How labels are encoded.
            covariance: C of the outputs, (B, m, m), where a filter knows it.
            predictive: Posterior predictive mean, (B, m), where there is one.
        """

    @abstractmethod
    def summary(self, coding: Coding) -> str:
        """Return one line about many predictions."""


@dataclass(frozen=True)
class Observation:
    """A likelihood bound to its target; what ``closure()`` hands to ``optimizer.step``.

    Attributes:
        likelihood: The likelihood over the model's outputs.
        target: Class indices (B,) for ``Categorical``, numbers (B,) or (B, m) for the others.
    """

    likelihood: Likelihood
    target: Tensor

    @property
    def outputs(self) -> Tensor:
        """Model outputs with their graph, (B, m)."""
        return self.likelihood.outputs

    def nll(self) -> Tensor:
        """Return the mean negative log-likelihood of the target, ()."""
        return self.likelihood.nll(self.target)

    def innovation(self, observation: str = "probabilities") -> Innovation:
        """Return residual (B, d) and cotangents (B, d, m) of the target."""
        return self.likelihood.innovation(self.target, observation)

    def natural(self) -> Innovation:
        """Return the target observed through the natural parameters."""
        return self.likelihood.natural(self.target)

    def at(self, outputs: Tensor) -> Observation:
        """Return the same target under other outputs, (B, m)."""
        return replace(self, likelihood=self.likelihood.at(outputs))


def likelihood_of(kind: str) -> type[Likelihood]:
    """Return the likelihood of a kind of task.

    Raises:
        ValueError: If there is none; the message names those there are.
    """
    if kind not in REGISTRY:
        raise ValueError(f"there is no task of the kind {kind!r}; choose from {', '.join(sorted(REGISTRY))}")
    return REGISTRY[kind]


def upcast(outputs: Tensor) -> Tensor:
    """Return detached outputs in at least float32, so that half-precision models get full-precision residuals."""
    outputs = outputs.detach()
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def upcast_graph(outputs: Tensor) -> Tensor:
    """Return the outputs with their graph, in at least float32, for a loss."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def identity_cotangents(z: Tensor) -> Tensor:
    """Return the cotangents of outputs that are observed as they are, (B, m, m)."""
    return torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), -1, -1)


def check_observation(observation: str) -> None:
    """Refuse an unknown observation.

    Raises:
        ValueError: Naming the known ones.
    """
    if observation not in OBSERVATIONS:
        raise ValueError(f"observation must be one of {OBSERVATIONS}, got {observation!r}")
