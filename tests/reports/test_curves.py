"""Curves of several seeds on one grid."""

from __future__ import annotations

import numpy as np
import pytest
from filtune.reports.curves import mean_band, tag_of

from tests.reports.factory import record


def curve(at: list[int], values: list[float], tag: str = "val/accuracy", **changes: object) -> dict:
    return record("0" * 16, 0, {}, curves={tag: [at, values]}, **changes)


def test_mean_and_deviation_on_a_common_grid() -> None:
    found = mean_band([curve([1, 2, 3], [0.0, 1.0, 2.0]), curve([1, 2, 3], [2.0, 3.0, 4.0])], "val/accuracy")
    assert found is not None
    assert found.x.tolist() == [1, 2, 3]
    assert found.mean.tolist() == [1, 2, 3]
    assert found.deviation == pytest.approx(np.full(3, np.sqrt(2)))


def test_different_grids_are_interpolated_where_all_have_points() -> None:
    # two straight lines, y = x and y = x + 2, logged at different steps
    found = mean_band([curve([0, 10, 20], [0.0, 10.0, 20.0]), curve([5, 15, 40], [7.0, 17.0, 42.0])], "val/accuracy")
    assert found is not None
    assert found.x.tolist() == [5, 10, 15, 20]
    assert found.mean == pytest.approx(found.x + 1)


def test_curves_are_over_samples_where_these_are_known() -> None:
    """Batches differ between methods: over steps their curves could not be compared."""
    changes = {"samples": 320, "steps": 10}
    online = mean_band([curve([5, 10], [1.0, 2.0], "online/loss", **changes)], "online/loss")
    validation = mean_band([curve([5, 10], [1.0, 2.0], **changes)], "val/accuracy")
    measured = mean_band([curve([5, 10], [1.0, 2.0], "measured/x", samples=None, steps=None)], "measured/x")
    assert online is not None
    assert validation is not None
    assert online.x.tolist() == [160, 320]
    assert validation.x.tolist() == [160, 320]
    assert measured is not None
    assert (measured.x.tolist(), measured.unit, validation.unit) == ([5, 10], "steps", "samples")


def test_a_diverged_seed_is_not_averaged_unless_all_diverged() -> None:
    good, bad = curve([1, 2], [1.0, 1.0]), curve([1, 2], [9.0, 9.0], status="diverged")
    mixed, all_bad = mean_band([good, bad], "val/accuracy"), mean_band([bad], "val/accuracy")
    assert mixed is not None
    assert all_bad is not None
    assert (mixed.deviation, mixed.mean.tolist()) == (None, [1.0, 1.0])
    assert all_bad.mean.tolist() == [9.0, 9.0]
    assert mean_band([curve([], [])], "val/accuracy") is None


def test_what_a_panel_shows() -> None:
    runs = [curve([1, 2], [1.0, 2.0], "online/loss"), curve([1], [1.0], "val/loss")]
    assert tag_of("online/l1", "online_accuracy", runs) == "online/loss"
    assert tag_of("metric", "val_matthews", [curve([1, 2], [1.0, 2.0], "val/matthews")]) == "val/matthews"
    assert tag_of("online/accuracy", "", runs) is None
    assert tag_of("val/loss", "", runs) is None  # a point is no curve
