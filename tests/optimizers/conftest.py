"""One thread, one seed."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers.kalman import jacobian

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same global seed."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _small_layers_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense layers of a few units are kept in factors, too."""
    monkeypatch.setattr(jacobian, "FACTORED_PARAMETERS", 0)
