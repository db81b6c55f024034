"""What NGD, RING and RENG are told alike, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .inverses import INVERSES
from .labels import FISHERS

ADAPTATIONS = ("none", "loss", "ratio")

UNFACTORED = ("adamw", "freeze", "refuse")


@dataclass(frozen=True)
class Settings:
    """Everything a natural gradient is told beside its parameters and learning rate; see the optimizers."""

    rho: float
    phi: float
    adapt: str
    skip: int
    inverse: str
    fisher: str
    factor_decay: float
    momentum: float
    kl_clip: float
    unfactored: str
    unfactored_lr: float
    per_layer: bool = False
    grad_reg: float = 0.0

    def as_printed(self) -> Settings:
        """The paper's algorithm to the letter: sampled labels, no averages, no trust region, alpha / L."""
        return replace(
            self,
            fisher="sampled",
            inverse="newton-printed",
            factor_decay=0.0,
            momentum=0.0,
            kl_clip=0.0,
            per_layer=True,
        )

    def check(self, name: str) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: Naming the argument.
        """
        choices: list[tuple[str, str, Iterable[str]]] = [
            ("adapt", self.adapt, ADAPTATIONS),
            ("inverse", self.inverse, INVERSES),
            ("fisher", self.fisher, FISHERS),
            ("unfactored", self.unfactored, UNFACTORED),
        ]
        for argument, choice, known in choices:
            if choice not in known:
                raise ValueError(f"{name}: {argument} must be one of {', '.join(known)}; got {choice!r}")
        infinity = float("inf")
        ranges: list[tuple[str, float, bool, str]] = [
            ("rho", self.rho, 0 < self.rho < infinity, "be positive and finite: it is the damping of the factors"),
            ("phi", self.phi, 0 < self.phi <= 1, "lie in (0, 1]"),
            ("skip", self.skip, self.skip >= 1, "be at least 1"),
            ("factor_decay", self.factor_decay, 0 <= self.factor_decay < 1, "lie in [0, 1)"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "lie in [0, 1)"),
            ("kl_clip", self.kl_clip, 0 <= self.kl_clip < infinity, "be positive and finite, or 0 for none"),
            ("unfactored_lr", self.unfactored_lr, 0 <= self.unfactored_lr < infinity, "be zero or positive"),
            ("grad_reg", self.grad_reg, 0 <= self.grad_reg < infinity, "be zero or positive, and finite"),
        ]
        for argument, value, holds, allowed in ranges:
            if not holds:
                raise ValueError(f"{name}: {argument} must {allowed}; got {value}")
