"""The figures that a run leaves in TensorBoard when it ends."""

from __future__ import annotations

import pytest
import torch
from filtune.reports.final_figures import confusion_figure, reliability_diagram


def test_a_reliability_diagram_of_bins_some_of_which_are_empty() -> None:
    sums = torch.tensor([[0.0, 4.0, 6.0], [0.0, 2.0, 5.5], [0.0, 1.0, 6.0]])
    pixels = reliability_diagram({"softmax": sums, "posterior predictive": sums})
    assert pixels.shape[2] == 3
    assert len({tuple(colour) for colour in pixels.reshape(-1, 3)}) > 10


@pytest.mark.parametrize("m", [2, 10, 50])
def test_a_confusion_matrix_of_any_number_of_classes(m: int) -> None:
    """Names are text, whatever they hold, and long ones are cut; a class that never occurred has a row of zeros."""
    counts = torch.randint(0, 9, (m, m), generator=torch.Generator().manual_seed(0))
    counts[0] = 0
    pixels = confusion_figure(counts, [f"$x_{i}$ {'long' * 9}" for i in range(m)])
    assert pixels.dtype == "uint8"
    assert min(pixels.shape[:2]) > 200
