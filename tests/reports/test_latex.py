"""The LaTeX of every kind of table is compiled, with names that are markup elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from filtune.reports.document import assemble
from filtune.reports.rendering import render_document

from tests.reports.factory import key_of, manifest, own_table, record, runs, whole_table
from tests.reports.test_render import NASTY, check_tex

ENGINES = {
    "tectonic": ["tectonic", "--outdir"],
    "pdflatex": ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "-output-directory"],
}


def engine() -> list[str] | None:
    """The command of a LaTeX with booktabs, without the output folder; None if there is none."""
    for name, command in ENGINES.items():
        if shutil.which(name) and (
            name == "tectonic"
            or subprocess.run(["kpsewhich", "booktabs.sty"], stdout=subprocess.DEVNULL).returncode == 0
        ):
            return command
    return None


def written(own: Path) -> list[Path]:
    """Tables as LaTeX: rows of all kinds, of a stranger's names, of times, scaled down, and a listing of a sweep."""
    root, out = own, own.parent / "out"
    columns = [{"name": "a", "title": f"{NASTY}, {NASTY}", "task": "t", "backbone": "n"}]
    rows = [
        {"name": "loko", "title": NASTY, "optimizer": "loko", "published": [[80.0, 1.0]]},
        {"name": "adamw", "title": "AdamW", "optimizer": "adamw", "published": [[75.0, 1.0]]},
        {"name": "tuned", "title": "AdamW, tuned", "optimizer": "adamw", "grid": {"optimizer.lr": [0.1]}},
        {"name": "ring", "title": "RING", "optimizer": "ring"},
    ]
    own_table(own.parent, title=NASTY, columns=columns, rows=rows)
    cells = ("loko/a", "adamw/a", "tuned/a/lr=0.1", "ring/a")
    made = {cell: runs(cell, [80.0, 81.0]) for cell in cells}
    manifest(root, "own.table", made, missing={"loko/a": NASTY})
    manifest(root, "own.table", made, scale={"max_samples": 100, "backbone": NASTY})
    sweep = {NASTY: {s: record(key_of("n", s), s, {"val_accuracy": 90.0 - s, "val_loss": 1.0}) for s in range(2)}}
    sweep["bad"] = {0: record(key_of("bad"), 0, {}, status="diverged")}
    manifest(root, None, sweep, sweep={"grid": {NASTY: [0.1]}, "metric": "val_accuracy"})
    document = assemble([root], [])
    document.left_out.append(NASTY)
    return render_document(document, out, ["tex"])[::-1]


def test_tables_of_strangers_are_balanced(own: Path) -> None:
    paths = written(own)
    assert len(paths) == 3
    for path in paths:
        text = path.read_text()
        assert "% left out: <script>" in text
        check_tex(re.sub(r"(?m)^%.*\n?", "", text))


def test_a_heading_stands_above_the_rows_of_a_kind(own: Path) -> None:
    text = written(own)[0].read_text()
    lines = [line for line in text.splitlines() if "rule" in line or "rlap" in line or "AdamW" in line]
    assert [line.partition(" &")[0] for line in lines[1:]] == [
        "\\midrule", "AdamW", "\\midrule", r"\rlap{Tuned baselines (ours)}", "AdamW, tuned",
        "\\midrule", r"\rlap{Further methods (ours)}", "\\bottomrule",
    ]  # fmt: skip
    assert re.search(r"\\textbf\{81\.00 \$\\pm\$", text) is None
    assert r" & \textit{\textbf{80.00 $\pm$ 1.0}} \\" in text


def test_tables_compile(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = engine()
    if command is None:
        pytest.skip("no LaTeX with booktabs, such as Debian's texlive-latex-recommended")
    paths = written(own)
    monkeypatch.undo()  # the shipped tables again
    whole_table(tmp_path / "times", "loko.table3", seeds=2, scale={"max_samples": 10})
    paths += render_document(assemble([tmp_path / "times"], ["loko.table3"]), paths[0].parent, ["tex"])
    body = "\n".join(
        rf"\input{{{path.stem}}}\clearpage" if " " not in path.stem else path.read_text() for path in paths
    )
    main = paths[0].parent / "main.tex"
    main.write_text(rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}")
    done = subprocess.run([*command, ".", main.name], cwd=main.parent, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert main.with_suffix(".pdf").stat().st_size > 10_000
