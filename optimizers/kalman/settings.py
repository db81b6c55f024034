"""What a filter is told beside its parameters, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..likelihoods.base import OBSERVATIONS
from .covariance import COVARIANCES, Covariance
from .jacobian import Method
from .noise import NOISES

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Settings:
    """Everything a filter is told beside its parameters; see the optimizers for what it means."""

    covariance: str = "diagonal"
    rank: int = 0
    buffer: int = 0
    keep: int = 0
    window: int = 0
    forget: float = 1.0
    renew: float = 0.0
    noise: str = "ema-2"
    beta: float = 0.95
    r0: float = 1.0
    observation: str = "probabilities"
    rho: float = 0.0
    neumann: bool = False
    process_noise: float = 0.0
    row_tolerance: float = 0.0
    likely: int = 0
    explode: float = 100.0
    dtype: str = "float32"
    jacobian: Method = "batched"
    max_rows: int = 256

    def build_covariance(self, shapes: list[torch.Size]) -> Covariance:
        """The covariance of parameters of these shapes."""
        return COVARIANCES[self.covariance](shapes, self.rank, self.buffer, self.keep, self.forget)

    def check(self, name: str) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: Naming the argument.
        """
        choices: list[tuple[str, str, Iterable[str]]] = [
            ("covariance", self.covariance, COVARIANCES),
            ("noise", self.noise, NOISES),
            ("observation", self.observation, OBSERVATIONS),
            ("dtype", self.dtype, DTYPES),
            ("jacobian", self.jacobian, ("batched", "loop")),
        ]
        for argument, choice, known in choices:
            if choice not in known:
                raise ValueError(f"{name}: {argument} must be one of {', '.join(known)}; got {choice!r}")
        forgets = NOISES[self.noise].forgets_start or NOISES[self.noise].natural
        finite = float("inf")
        ranges: list[tuple[str, float, bool, str]] = [
            ("beta", self.beta, 0 <= self.beta < 1, "lie in [0, 1)"),
            (
                "r0",
                self.r0,
                (0 if forgets else 1e-300) <= self.r0 < finite,
                f"be {'zero or ' if forgets else ''}positive and finite with noise {self.noise}",
            ),
            ("rho", self.rho, 0 <= self.rho < finite, "be zero or positive, and finite"),
            ("process_noise", self.process_noise, 0 <= self.process_noise < finite, "be zero or positive, and finite"),
            ("row_tolerance", self.row_tolerance, 0 <= self.row_tolerance < 1, "lie in [0, 1)"),
            ("likely", self.likely, self.likely >= 0, "be zero or positive"),
            ("explode", self.explode, self.explode > 1, "be above 1"),
            ("max_rows", self.max_rows, self.max_rows >= 1, "be at least 1"),
            ("rank", self.rank, self.rank >= 1 or self.covariance not in ("low-rank", "buffered"), "be at least 1"),
            ("buffer", self.buffer, self.buffer >= 0, "be zero or positive"),
            ("keep", self.keep, self.keep >= 0, "be zero or positive"),
            ("window", self.window, self.window >= (self.forget < 1), "be zero or positive; positive to forget"),
            ("forget", self.forget, 0 <= self.forget <= 1, "lie in [0, 1]"),
            ("renew", self.renew, 0 <= self.renew < finite, "be zero or positive, and finite"),
        ]
        for argument, value, holds, allowed in ranges:
            if not holds:
                raise ValueError(f"{name}: {argument} must {allowed}; got {value}")
        if self.window and not NOISES[self.noise].natural:
            raise ValueError(f"{name}: window needs noise mode or softmax; got {self.noise}")
        for argument, used in (("forget", self.forget < 1), ("renew", self.renew > 0)):
            if used and self.covariance != "buffered":
                raise ValueError(f"{name}: {argument} needs covariance buffered; got {self.covariance}")
        if NOISES[self.noise].natural and self.observation != "probabilities":
            raise ValueError(f"{name}: noise {self.noise} is that of probabilities; take observation probabilities")
        if NOISES[self.noise].at_mode and self.rho:
            raise ValueError(f"{name}: noise mode takes no rho; got {self.rho}")
        if self.likely and not NOISES[self.noise].at_mode:
            raise ValueError(f"{name}: likely needs noise mode; got {self.noise}")
        if self.row_tolerance and self.noise != "softmax":
            raise ValueError(f"{name}: row_tolerance needs noise softmax; with other noise no row can be left out")
