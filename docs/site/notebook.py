"""The tour as a notebook: ``python docs/site/notebook.py`` writes ``tour.ipynb`` from ``tour.py``."""

from __future__ import annotations

import json
import re
from pathlib import Path

TOUR = Path(__file__).resolve().parents[1] / "tour" / "tour.py"


def notebook_of(script: str) -> str:
    """Return the text of a notebook without outputs.

    Args:
        script: A script of cells in the percent format.
    """
    cells = []
    for number, cell in enumerate(re.split(r"^# %%", script, flags=re.MULTILINE)[1:]):
        first, _, body = cell.partition("\n")
        is_text = "[markdown]" in first
        text = re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE) if is_text else body.strip()
        extra = {} if is_text else {"execution_count": None, "outputs": []}
        kind = "markdown" if is_text else "code"
        cell_of = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(True)}
        cells.append(cell_of | extra)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TOUR.with_suffix(".ipynb").write_text(notebook_of(TOUR.read_text(encoding="utf-8")), encoding="utf-8")
