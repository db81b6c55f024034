"""One page model: a study is a page of HTML, tables of LaTeX, and a section of the report of its root."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from filtune.reports import figures
from filtune.reports.page import Fold, Text, bullets
from filtune.reports.rendering import blocks_html, blocks_markdown
from filtune.reports.report import main
from filtune.reports.styled import LANGUAGES

from tests.reports.factory import manifest, runs
from tests.reports.studies import STUDY, VALUES
from tests.reports.test_render import NASTY, check_md, check_page, check_tex


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save_figure", lambda *_: "<svg></svg>")


def test_a_study_is_written_in_every_language(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a stranger's titles and prose."""
    rows = [{**row, "title": f"{row['title']} {NASTY}"} for row in STUDY["rows"]]
    comparison = {
        **STUDY["comparison"],
        "targets": {"AdamW": {"ahead": 2.5}},
        "discussion": f"{NASTY}\n\n![x](http://x)",
    }
    content = {**STUDY, "title": NASTY, "notes": NASTY, "rows": rows, "comparison": comparison}
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    posterior = study.with_name("p.json")
    posterior.write_text(json.dumps({"columns": {NASTY: {"ours, softmax": {NASTY: {"seeds": [1.0, 2.0]}}}}}))
    output = study.parent / "page" / "win.html"
    options = ["--root", str(study.parent), "--posterior", str(posterior), "--output", str(output)]
    main(["--study", str(study), "--formats", "md", "html", "tex", *options])
    page, text, latex = (output.with_suffix(end).read_text() for end in (".html", ".md", ".tex"))
    check_page(page.replace('href="http://x"', ""))  # a link, not a picture
    check_md(text.partition("|")[2])
    tables = latex.split("\n\n")
    assert len(tables) > 4
    for table in tables:
        check_tex(table.removeprefix("% needs booktabs\n"))
    assert "<img" not in page
    assert '<span class="sub">+3.0</span>' in page
    assert "82.0 ±\u00a02.6" in page
    assert r"\textbf{82.0 $\pm$~2.6}" in latex
    assert [Path(line.split()[1]).suffix for line in capsys.readouterr().out.splitlines() if "see" in line][:3] == [
        ".html", ".md", ".tex",
    ]  # fmt: skip


def test_the_end_of_the_output_says_the_format(study: Path) -> None:
    main(["--study", str(study), "--root", str(study.parent), "--output", str(study.parent / "page.html")])
    assert (study.parent / "page.html").read_text().startswith("<!doctype html>")
    assert not (study.parent / "page.md").exists()


def test_a_study_of_a_root_is_a_section_of_its_report(study: Path) -> None:
    output = study.parent / "out"
    main([str(study.parent), "--tables", str(study), "--output", str(output)])
    page = (output / "index.html").read_text()
    check_page(page)
    assert page.index('id="study-comparison"') < page.index("A study: other figures of the same runs")
    assert "paired t-test with Holm" in page
    assert "0 figures that the papers print" not in page
    assert "### Tuned methods" not in (output / "study-comparison.md").read_text()
    assert "## Tuned methods" in (output / "study-comparison.md").read_text()
    check_tex((output / "study-comparison.tex").read_text().partition("\n\n")[0])
    assert (output / "study.md").is_file()


def test_a_study_that_cannot_be_compared_is_left_out_of_a_report(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of its cells stays."""
    made = {cell: runs(f"{cell} without curves", values, curves={}) for cell, values in VALUES.items()}
    manifest(study.parent, "study", made)
    main([str(study.parent), "--tables", str(study), "--output", str(study.parent / "out")])
    assert "study: its method was not run" in capsys.readouterr().err
    assert "82.00" in (study.parent / "out" / "study.md").read_text()


def test_spaces_that_do_not_break_are_kept_in_cells() -> None:
    lines = ["1 ±\u00a02", "a_b", "<i>"]
    assert LANGUAGES["md"].stack(lines, True) == "**1 ±\u00a02**<br>a\\_b<br>&lt;i>"
    assert LANGUAGES["tex"].stack(lines) == r"1 $\pm$~2 {\footnotesize a\_b} {\footnotesize $<$i$>$}"
    assert LANGUAGES["html"].stack(lines) == '1 ±\u00a02<span class="sub">a_b</span><span class="sub">&lt;i&gt;</span>'


def test_prose_is_one_text_in_both_languages() -> None:
    blocks = [
        Text("**a** [b](c.md)", "lead"),
        *bullets(["x", "y"], "notes"),
        Fold("<s> & t", [Text("z")]),
        *bullets([]),
    ]
    assert blocks_markdown(blocks, 1) == [
        "**a** [b](c.md)",
        "* x\n* y",
        '<details markdown="1">\n<summary>&lt;s&gt; &amp; t</summary>',
        "z",
        "</details>",
    ]
    page = blocks_html(blocks, "x")
    assert '<p class="lead"><strong>a</strong> <a href="c.md">b</a></p>' in page
    assert '<ul class="notes">\n<li>x</li>' in page
    assert "<details><summary>&lt;s&gt; &amp; t</summary><p>z</p>" in page
    assert blocks_html([Text("x", only="md")], "x") == ""


def test_what_scrolls_can_be_reached_by_the_keyboard(study: Path) -> None:
    output = study.parent / "page.html"
    main(["--study", str(study), "--root", str(study.parent), "--output", str(output)])
    scrolling = re.findall(r'<\w+ class="(?:scroll|command)"[^>]*>', output.read_text())
    assert len(scrolling) > 4
    assert all('tabindex="0"' in tag for tag in scrolling)
