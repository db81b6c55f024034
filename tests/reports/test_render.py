"""The page stands alone, and nothing that a table says can break out of HTML, LaTeX or Markdown."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filtune.experiments.escaping import escape_markdown
from filtune.experiments.tables import load_table, table_names
from filtune.reports import formatting
from filtune.reports.document import assemble, figure_plans
from filtune.reports.rendering import render_html, render_latex, render_markdown
from filtune.reports.report import write_report
from filtune.reports.statistics import MeanStd
from filtune.reports.styled import escape_tex
from rich.console import Console

from tests.reports.factory import manifest, own_table, runs, whole_table

NASTY = '<script>alert("x")</script> & 5 % of $x_1^2$ {a} ~ \\end{table} | # *b* `c`'
VOID = {"meta", "br", "wbr", "line", "path", "use", "rect", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags opened and closed, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data", "popovertarget")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def report(root: Path, output: Path, formats: tuple[str, ...] = ("html", "md", "tex")) -> str:
    write_report(assemble([root], []), output, formats, Console(quiet=True))
    return (output / "index.html").read_text() if "html" in formats else ""


def check_tex(text: str) -> None:
    plain = re.sub(r"\\.", "", text)
    depth = 0
    for c in plain:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0
    assert re.findall(r"\\begin\{(\w+)", text) == re.findall(r"\\end\{(\w+)", text)[::-1]
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])  # type: ignore[index]
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    for line in body.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
    assert text.isascii()


def check_md(text: str) -> None:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    for before, line in itertools.pairwise(rows):
        if line.startswith("| ---"):
            assert line.count("--- |") + line.count("---: |") == len(re.findall(r"(?<!\\)\|", before)) - 1


def check_page(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert len(page.ids) == len(set(page.ids))
    for reference in page.references:
        if reference.startswith("data:image/png;base64,"):
            continue
        assert reference.removeprefix("#") in page.ids, reference
    assert not re.search(r"url\((?!#)|@import", text)


@pytest.mark.parametrize("name", [name for name in table_names() if load_table(name).raw.get("kind") == "table"])
def test_every_shipped_table_renders(name: str, tmp_path: Path) -> None:
    of = load_table(name).raw.get("of")
    for source in [name] if of is None else of:
        whole_table(tmp_path / "root", source, seeds=2, scale={"max_samples": 10, "backbone": "minilm"})
    document = assemble([tmp_path / "root"], [name])
    check_page(render_html(document, tmp_path / "page.html").read_text())
    check_tex(render_latex(document.parts, document))
    check_md(render_markdown(document.parts, document))


def test_the_page_stands_alone_with_its_figures(own: Path) -> None:
    (own.parent / "papers" / "own" / "figure1.yaml").write_text(
        "{title: A figure, kind: figure, of: own.table, curves: [online/l1, online/accuracy]}"
    )
    made = {name: runs(name, [80.0, 81.0]) for name in ("loko/a", "loko/b", "adamw/a", "tuned/b/lr=0.1")}
    manifest(own, "own.table", made)
    text = report(own, own.parent / "out")
    check_page(text)
    for word in ("A small table", "prefers-color-scheme: dark", "@media print", "AdamW, tuned", "currentColor"):
        assert word in text
    assert text.count("<figure>") == 1
    svg = (own.parent / "out" / "own.table_figure1.svg").read_text()
    assert svg.startswith("<?xml")
    assert "LoKO" in svg
    assert (own.parent / "out" / "own.table_figure1.png").stat().st_size > 1000
    assert "own.table_figure1.svg" in (own.parent / "out" / "own.table.md").read_text()


@pytest.mark.parametrize("name", [name for name in table_names() if load_table(name).raw.get("kind") == "figure"])
def test_every_shipped_figure_is_planned(name: str, tmp_path: Path) -> None:
    of = load_table(name).raw["of"]
    for source in [of] if isinstance(of, str) else of:
        whole_table(tmp_path, source, seeds=1)
    plans = {plan.title: plan for _, plan in figure_plans(assemble([tmp_path], []).sections)}
    plan = plans[load_table(name).title]
    assert {line.label for line in plan.lines} == {row.title for row in load_table(name).rows}
    assert all(line.records for line in plan.lines)


def test_what_tables_say_is_escaped(own: Path) -> None:
    columns = [{"name": "a", "title": f"{NASTY}, {NASTY}", "task": "t", "backbone": "n"}]
    rows = [{"name": "loko", "title": NASTY, "optimizer": "loko", "published": [[80.0, 1.0]]}]
    own_table(own.parent, title=NASTY, notes=NASTY, columns=columns, rows=rows)
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0, 81.0])}, missing={"loko/a": NASTY})
    check_page(report(own, own.parent / "out"))
    check_tex((own.parent / "out" / "own.table.tex").read_text())
    check_md((own.parent / "out" / "own.table.md").read_text())


def test_escapes() -> None:
    assert escape_tex("5 % of a_b & {c}\\") == r"5 \% of a\_b \& \{c\}\textbackslash{}"
    assert escape_tex("1.0 ± 0.1, \u22122, < 3") == r"1.0 $\pm$ 0.1, $-$2, $<$ 3"
    assert escape_markdown("a|b\nc*d") == r"a\|b c\*d"


def test_figures_have_the_digits_of_their_metric() -> None:
    assert formatting.format_mean_std(MeanStd(88.412, 0.256, 3), "online_accuracy") == "88.41 ± 0.26"
    assert formatting.format_mean_std(MeanStd(0.1, 0.0123, 3), "seconds_per_step") == "0.100 ± 0.012"
    assert formatting.format_mean_std(MeanStd(1883.3, 76.4, 3), "steps_to_convergence") == "1,883 ± 76"
    assert formatting.format_mean_std(MeanStd(0.5, None, 1), "val_loss") == "0.5000"
    assert formatting.format_published(MeanStd(88.7, 0.2, 3), "online_accuracy") == "88.70 ± 0.2"
    assert formatting.format_published(MeanStd(0.02), "seconds_per_step") == "0.02"
    assert formatting.format_published(MeanStd(10308), "wall_seconds") == "10,308"


def test_formats_are_only_what_was_asked_for(own: Path) -> None:
    manifest(own, "own.table", {"loko/a": runs("loko/a", [80.0, 81.0])})
    report(own, own.parent / "out", ("md",))
    assert {path.suffix for path in (own.parent / "out").iterdir()} <= {".md", ".svg", ".png"}
