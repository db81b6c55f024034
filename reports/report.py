"""``filtune report [ROOT ...]``: runs as tables and figures beside the published ones, or beside tuned baselines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filtune.experiments.escaping import plain
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from .document import Document

FORMATS = ("html", "md", "tex")
ROOT = Path("runs")

EXAMPLES = """examples:
  filtune report runs/reproduce runs/sweep --output report
  filtune report runs/reproduce --study win_stream --output study.md
  filtune report runs/reproduce --study win_stream --evaluate mnist sst2 --posterior posterior.json
  filtune report runs/reproduce --pack study.jsonl.xz
"""


def main(args: list[str]) -> None:
    """Run the command ``filtune report``.

    Raises:
        ValueError: If there is nothing to report.
    """
    options = _parser().parse_args(args)
    roots, console = [*options.roots, *options.root] or [ROOT], Console(markup=False, emoji=False)
    for root in roots:
        if root.suffix and not root.exists():
            raise ValueError(f"report: there is no file {root}")
    if options.pack:
        from filtune.experiments.archive import find_roots
        from filtune.experiments.records import pack

        count = pack(find_roots(roots), options.pack)
        _say(console, f"{count} records", options.pack)
    elif options.evaluate:
        from filtune.experiments.archive import find_roots

        from .evaluation import evaluate_posterior

        if len(options.study) != 1 or not options.posterior:
            raise ValueError("--evaluate: name one study by --study and the JSON to write by --posterior")
        (study,), columns, output = options.study, options.evaluate, options.posterior
        evaluate_posterior(study, find_roots(roots), columns, output, options.baseline, options.samples, console)
        _say(console, "see", output)
    elif options.study:
        from filtune.experiments.archive import find_roots

        from .document import assemble_studies

        output = options.output or Path("study.md")
        studies = assemble_studies(options.study, find_roots(roots), output, options.title, options.posterior)
        write_studies(studies, output, options.formats or [output.suffix.lstrip(".")], console)
    else:
        write_report(roots, options.tables, options.output or Path("report"), options.formats or FORMATS, console)


def write_report(roots: list[Path], tables: list[str], output: Path, formats: Sequence[str], console: Console) -> None:
    """Read the roots and write the report: a page of HTML, and each part as Markdown and LaTeX.

    Args:
        roots: Folders of ``filtune reproduce``, ``sweep`` or ``fit``, or packed studies.
        tables: Only these; all there are where none is named.
        output: Folder of the report.
        formats: Of ``html``, ``md`` and ``tex``.
        console: Where messages go.

    Raises:
        ValueError: If there is nothing to report, or a table is not known or was not run.
    """
    from .document import assemble
    from .rendering import render_html, render_latex, render_markdown

    document = assemble(roots, tables)
    _draw(document, output, console)
    written = [render_html(document, output / "index.html")] if "html" in formats else []
    for part in document.parts:
        left_out = document.left_out
        written += [render_markdown(part, output / f"{part.slug}.md", left_out)] if "md" in formats else []
        written += [render_latex([part], output / f"{part.slug}.tex", left_out)] if "tex" in formats else []
    warn_of(document.left_out)
    _say(console, "see", *written)


def write_studies(document: Document, output: Path, formats: Sequence[str], console: Console) -> None:
    """Write the document of studies as one page, its figures beside it.

    Args:
        document: The document.
        output: Path of the page; those of other formats have its name with another end.
        formats: Of ``html``, ``md`` and ``tex``.
        console: Where messages go.

    Raises:
        ValueError: If there is no such format.
    """
    from .rendering import render_html, render_latex, render_whole_markdown

    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"--output: {output} ends in {unknown[0] or 'nothing'}, not in one of {', '.join(FORMATS)}")

    figures = _draw(document, output.parent, console)
    page, text, latex = (output.with_suffix(f".{end}") for end in FORMATS)
    written = [render_whole_markdown(document, text)] if "md" in formats else []
    written += [render_html(document, page)] if "html" in formats else []
    written += [render_latex(document.parts, latex, document.left_out)] if "tex" in formats else []
    warn_of(document.left_out)
    _say(console, "see", *written, *figures)


def _draw(document: Document, folder: Path, console: Console) -> list[Path]:
    """Draw the figures of a document into a folder, and return their files.

    Raises:
        ValueError: If the folder cannot be made.
    """
    from .figures import draw_figure

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output: {folder} cannot be made a folder ({error.strerror}); name another") from error
    plans = [plan for part in document.parts for plan in part.plans]
    drawn = track(plans, "figures", console=console, transient=True)
    return [path for plan in drawn for path in draw_figure(plan, folder)]


def warn_of(left_out: Sequence[str]) -> None:
    """Report on standard error what was left out, one line each."""
    for message in left_out:
        print(f"filtune: warning: {plain(message)}", file=sys.stderr)


def _say(console: Console, word: str, *paths: Path) -> None:
    for path in paths:
        console.print(f"{word}  {plain(path)}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="filtune report",
        description="Write runs as tables and figures beside the published ones: a page of HTML, Markdown and LaTeX. "
        "With --study: a method against tuned baselines, paired by seed, as one page and figures. "
        "With --pack: all records in one file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "roots", nargs="*", type=Path, metavar="ROOT",
        help="what `filtune reproduce --root` or `filtune sweep --root` named, packed studies, or folders of runs of "
        f"`filtune fit`; a folder that holds several of these stands for all of them (default: {ROOT})",
    )  # fmt: skip
    parser.add_argument("--root", action="append", default=[], type=Path, help="a further ROOT; may be repeated")
    parser.add_argument(
        "--tables",
        nargs="+",
        default=[],
        metavar="TABLE",
        help="only these, such as loko.table2, or a file of your own",
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the report (default: report); with --study the page (default: study.md)"
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, help="what to write (default: all; with --study: md)")
    parser.add_argument(
        "--study",
        nargs="+",
        default=[],
        metavar="STUDY",
        help="studies with a comparison, such as win_stream or configs/studies/win_stream.yaml, on one page",
    )
    parser.add_argument("--title", help="title of the page of a study (default: that of the first study)")
    parser.add_argument("--posterior", type=Path, metavar="JSON", help="for the page of a study: what --evaluate wrote")
    parser.add_argument(
        "--evaluate", nargs="+", default=[], metavar="STREAM",
        help="evaluate the posterior of a study's runs on these streams, from their checkpoints, and write --posterior",
    )  # fmt: skip
    parser.add_argument("--baseline", default="AdamW", help="with --evaluate: the baseline (default: AdamW)")
    parser.add_argument("--samples", type=int, default=1000, help="with --evaluate: most validation samples (1000)")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="write all records of the roots to NAME.jsonl.xz")
    return parser
