"""One thread, one seed, and hypothesis without deadlines or chance."""

from __future__ import annotations

import hypothesis
import pytest
import torch

from optimizers import jacobian

torch.set_num_threads(1)
hypothesis.settings.register_profile("optimizers", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("optimizers")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same global seed."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _small_layers_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense layers of a few units are kept in factors, too."""
    monkeypatch.setattr(jacobian, "FACTORED_PARAMETERS", 0)
