"""A figure on a page says what the drawn one says."""

from __future__ import annotations

import re
from pathlib import Path

from filtune.reports.figures import Line, draw_figure, plan_curves
from filtune.reports.plots import distinct_looks

from tests.reports.factory import record


def test_the_axes_numbers_are_whole(tmp_path: Path) -> None:
    """Coordinates are cut to hundredths, but 0.172 on an axis is not 0.17."""
    curves = {"online/l1": [[10, 20, 30], [0.1721, 0.1713, 0.1702]]}
    lines = [Line("LoKO", distinct_looks(["LoKO"])["LoKO"], {"a": [record("0" * 16, 0, {}, curves=curves)]})]
    figure = plan_curves("own", "Loss", [("a", "A", "online_accuracy")], ["online/l1"], lines)
    assert draw_figure(figure, tmp_path) == [tmp_path / "own.png", tmp_path / "own.svg"]
    written = re.findall(r"<text[^>]*>([^<]+)</text>", (tmp_path / "own.svg").read_text())
    assert any(re.fullmatch(r"0\.17\d+", text) for text in written)
    assert re.findall(r"<text[^>]*>([^<]+)</text>", figure.inline) == written
    coordinates = re.findall(r' d="([^"]+)"', figure.inline)
    assert coordinates
    assert not re.search(r"\d\.\d{3}", " ".join(coordinates))
