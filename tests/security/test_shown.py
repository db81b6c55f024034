"""Names and texts of a stranger are shown, and no program that shows them obeys them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from filtune.datamodules import Task
from filtune.experiments import tables
from filtune.experiments.escaping import escape_markdown, markdown_code, plain
from filtune.experiments.run_folder import read_run
from filtune.exports.card import write_card
from filtune.exports.spreadsheet import is_formula, note_formulas
from filtune.lightning_modules.backbones import BackboneConfig
from filtune.reports import compare
from filtune.reports.report import main as report
from rich.console import Console

from filtune.cli import main
from tests.exports.runs import run_of
from tests.reports.factory import manifest, own_table, record, runs
from tests.reports.test_compare import make_run
from tests.security.conftest import Refused, Stranger

TAG = "<script>alert(1)</script>"
NAMES = [TAG, "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "a|b", "`x`", "a\n# heading", "&lt;b&gt;",
         "\x1b]0;title\x07", "\u202egnp", "$\\frac",
         "[bold]x[/y]", "{{ 7 * 7 }}", "]]><svg/onload=alert(1)>"]  # fmt: skip


class Tags(HTMLParser):
    """The names of a page's tags and of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def check_markdown(text: str) -> None:
    """No raw tag but line breaks and what can be opened, no link, no control character."""
    outside = re.sub(r"```[^`]*```|(?m:^    .*$)", "", text)  # code is shown as it is
    assert not re.search(r"<(?!br>|/?(details|summary)\b)[a-zA-Z/!]", outside)
    assert not re.search(r"(?<!\\)\[[^\]]*[^\\]\]\(javascript", outside)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", outside)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_card_shows_names_as_text(name: str, tmp_path: Path) -> None:
    task = Task(name, "classification", 2, (name, "other"), "image", (1, 8, 8), ("accuracy",))
    run = run_of(BackboneConfig("lenet5", pretrained=False), task, tmp_path)
    run.config["optimizer"] = {"class_path": f"x.{name}"}
    run.__dict__["summary"] = {"online_accuracy": name, f"online_{name}": 1.0, "val": {name: 2.0}, "seed": name}
    write_card(run, tmp_path, tmp_path, whole=True, base=None, difference=0.0)
    text = (tmp_path / "README.md").read_text()
    check_markdown(text)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert json.loads((tmp_path / "task.json").read_text())["classes"] == [name, "other"]


def test_a_report_shows_names_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_table(tmp_path)
    monkeypatch.setattr(tables, "PAPERS", tmp_path / "papers")
    roots = [tmp_path / kind for kind in ("tables", "sweep", "fit")]
    for index, name in enumerate([TAG, " ".join(NAMES)]):
        made = {"loko/a": runs(f"loko/a {index}", [80.0])}
        manifest(roots[0], "own.table", made, scale={"backbone": name}, missing={"adamw/a": name})
        made = {name: {0: record(f"k{index}", 0, {"val_accuracy": 1.0}, optimizer=name, task=name, backbone=name)}}
        path = manifest(roots[1], None, made, sweep={"grid": {name: [name]}})
        path.rename(path.with_name(f"{index}.json"))
        folder = make_run(roots[2] / str(index), name=name)  # type: ignore[arg-type]
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "task": name, "backbone": name, "optimizer": name}))
    out = tmp_path / "out"
    report([*map(str, roots), "--output", str(out)])
    page = (out / "index.html").read_text()
    assert html.escape(TAG, quote=False) in page
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img"} & tags.names
    assert not [name for name in tags.attributes if name.startswith("on")]
    for file in out.glob("*.md"):
        check_markdown(file.read_text())
    for file in out.glob("*.svg"):
        assert not re.search(r"<(script|img)", file.read_text())
    assert {file.parent for file in tmp_path.rglob("*.tex")} == {out}


@pytest.mark.parametrize("name", [" ".join(NAMES)])
def test_a_terminal_shows_names_as_text(name: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", **{"x": name})
    make_run(tmp_path / "b", **{"x": "other"})
    out = io.StringIO()
    Console(file=out, width=300, markup=False).print(
        compare.results_table([read_run(folder), read_run(tmp_path / "b")])
    )
    assert plain(name) in " ".join(out.getvalue().replace("│", " ").split())
    assert "\x1b]0" not in out.getvalue()
    compare.main([str(tmp_path), "--output", str(tmp_path / "c.png")])


def test_an_error_shows_a_name_as_text(refused: Refused, tmp_path: Path) -> None:
    said = refused("fit", "--config", f"{tmp_path}/\x1b]0;title\x07\u202e.yaml")
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_the_escapes_keep_the_text() -> None:
    assert escape_markdown("a_b <c> & d < 3") == r"a\_b &lt;c> & d \< 3"
    assert markdown_code("a``b") == "``` a``b ```"
    assert plain("a\n b\x1b[0m") == "a b\ufffd[0m"


@pytest.mark.parametrize(
    ("cell", "runs_it"),
    [
        ('=HYPERLINK("http://example.org")', True), ("=2+3", True), ("+1+cmd|x", True), ("-2+3", True),
        ("@SUM(A1)", True),
        ("\t=1", True), ("\r=1", True), ("-5", False), ("+3.5e-1", False), ("a=b", False), ("'=1", False), ("", False),
        (None, False), (-5, False), ("-", True),
    ],
)  # fmt: skip
def test_what_a_spreadsheet_runs(cell: object, runs_it: bool) -> None:
    assert is_formula(cell) is runs_it


def test_a_note_counts_the_cells_of_text_files() -> None:
    table, predicted = pa.table({"=x": ["=1", "a", None], "n": [-1, 2, 3]}), {"prediction": ["=good", "b", "c"]}
    assert "3 cells are formulas" in note_formulas(table, predicted, ".csv", escaped=False)
    assert "before 3 cells" in note_formulas(table, predicted, ".tsv", escaped=True)
    assert not note_formulas(table, predicted, ".parquet", escaped=False)
    assert not note_formulas(table.drop_columns("=x"), {"prediction": ["a"] * 3}, ".csv", escaped=False)


def test_predictions_say_how_many_formulas_they_hold(
    stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "new.csv").write_text("image,note,=n\nx.png,=2+3,-1\nx.png,plain,\n")
    command = ["predict", f"--ckpt_path={stranger.checkpoint}", f"--input={tmp_path / 'new.csv'}", "--no_uncertainty"]
    written = tmp_path / "new.predictions.csv"
    for options, mark in (([], ""), (["--escape_formulas"], "'")):
        main([*command, *options])
        assert "2 cells" in capsys.readouterr().out
        with open(written, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["note"] for row in rows] == [f"{mark}=2+3", "plain"]
        assert [row[f"{mark}=n"] for row in rows] == ["-1", ""]
