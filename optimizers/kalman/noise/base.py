"""The interface of an observation noise, as a filter calls it.

Shapes: ``B`` batch, ``d`` observation coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ...parts import Part, State
from ...ranges import NOT_NEGATIVE, POSITIVE, check_arguments


class ObservationNoise(Part, ABC):
    """An estimator of the observation noise R, (d, d).

    It has no state of its own: what it remembers is passed in and returned. A new noise is a subclass with a ``name``
    in a file of this folder; its options are the keyword-only parameters of its constructor.

    Attributes:
        from_likelihood: Whether R is the likelihood's own covariance, so that the batch is observed through the natural
            parameters and nothing is estimated.
    """

    kind = "noise"
    from_likelihood: ClassVar[bool] = False

    def start(self, d: int, like: Tensor) -> State:
        """Return what is remembered before the first step, in the dtype and on the device of a tensor."""
        return {}

    def grow(self, state: State, like: Tensor, d: int) -> State:
        """Return what is remembered once there are d coordinates, the last of them new.

        Of a coordinate that was never observed nothing is known: its noise is that of a first step, and it is
        uncorrelated with the others.

        Args:
            state: What is remembered so far.
            like: A tensor of the dtype and on the device.
            d: Coordinates from now on.
        """
        fresh = self.start(d, like)
        if "R" in state and "R" in fresh:
            k = len(state["R"])
            fresh["R"][:k, :k] = state["R"]
        return {**{name: state[name] for name in fresh if name in state}, **({"R": fresh["R"]} if "R" in fresh else {})}

    @abstractmethod
    def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
        """Return R of this step, (d, d), and what is remembered.

        Args:
            state: What is remembered so far.
            e: Residuals, (B, d).
            HPH: H P H', (B*d, B*d).
        """


def check_r0(r0: float, noise: str, can_be_zero: bool) -> None:
    """Check that r0 is positive, or zero where it can be.

    Raises:
        ValueError: If it is not.
    """
    needed = NOT_NEGATIVE if can_be_zero else POSITIVE
    check_arguments("", [("r0", r0, needed.judge(r0)[0], f"{needed.requirement}, with noise {noise}")])
