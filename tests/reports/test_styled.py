"""One frame of texts is a table of Markdown, of LaTeX and of HTML, and of the terminal."""

from __future__ import annotations

import io

import pytest
from filtune.experiments.terminal import terminal_table
from filtune.reports.styled import LANGUAGES, html_table, latex_table, markdown_table, text_frame
from rich.console import Console

from tests.reports.test_render import NASTY, Page

ROWS = [("a", ["1", "2"]), ("a", ["3", ""])]


def test_titles_may_be_equal_and_cells_empty() -> None:
    frame = text_frame("method", ["x", "x"], ROWS)
    assert markdown_table(frame).splitlines() == [
        "| method | x | x |", "| --- | ---: | ---: |", "| a | 1 | 2 |", "| a | 3 |  |",
    ]  # fmt: skip
    assert " & x & x" in latex_table(frame, "c", "a_b").replace("method ", " ")
    assert r"\label{tab:a-b}" in latex_table(frame, "c", "a_b")
    assert html_table(frame, "n").count("<td") == 4


@pytest.mark.parametrize("rows", [[], [("a", [])]])
def test_nothing_is_a_table_too(rows: list[tuple[str, list[str]]]) -> None:
    frame = text_frame("method", [], rows)
    assert markdown_table(frame).split("\n")[1] == "| --- |"
    assert "<table" in html_table(frame, "n")


def test_heads_of_several_lines_are_rows_of_a_head() -> None:
    text = latex_table(text_frame("", ["data\nnet", "data\nother"], ROWS), "c", "l")
    assert " & data & data \\\\\n & net & other \\\\\n\\midrule" in text


def test_html_has_no_style_of_its_own_and_each_id_once() -> None:
    page = Page("".join(html_table(text_frame("", ["x", "y"], ROWS), name) for name in ("n", "m")))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "style" not in page.tags


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_bold_text_is_escaped(language: str) -> None:
    markup = LANGUAGES[language]
    opening, closing = markup.bold.split("{}") if language != "tex" else (r"\textbf{", "}")
    assert markup.strong(NASTY) == opening + markup.escape(NASTY) + closing
    assert markup.strong(NASTY, False) == markup.escape(NASTY) != NASTY


def test_numbers_on_the_terminal_are_aligned_to_the_right() -> None:
    table = terminal_table(
        "title", ("name", "where", "figure"), [("a", "b", "1"), ("c", "d", "100"), ("e", "f")], ("where",)
    )
    out = io.StringIO()
    Console(file=out, width=60).print(table)
    (line,) = [line for line in out.getvalue().splitlines() if " a " in line]
    cells = line.split("│")[1:-1]
    assert [cell.startswith(" " + text) for cell, text in zip(cells[:2], "ab", strict=True)] == [True, True]
    assert cells[2].endswith("1 ")
