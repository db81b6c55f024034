"""One thread, one seed, and hypothesis without deadlines or chance."""

from __future__ import annotations

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("optimizers", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("optimizers")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same global seed."""
    torch.manual_seed(0)
