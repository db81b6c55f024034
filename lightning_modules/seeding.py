"""The random numbers of a step, a function of the run's seed and the step alone, so that a resumed run repeats them."""

from __future__ import annotations

import torch


def seed_step(seed: int | None, step: int, device: torch.device) -> None:
    """Seed torch's generators for a step.

    The numbers are those of ``torch.manual_seed``. On a CPU its own generator is seeded alone: where no other device is
    in use, ``torch.manual_seed`` stores a formatted stack trace for each kind of device, 4 % of a short run.

    Args:
        seed: The run's seed.
        step: The number of the step.
        device: Where the model is.
    """
    number = ((seed or 0) * 1_000_003 + step) % (2**63)
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
