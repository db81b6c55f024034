"""``filtune report [ROOT ...]``: runs as tables and figures beside what was published: a page, Markdown and LaTeX."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track

FORMATS = ("html", "md", "tex")


def main(args: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="filtune report", description=__doc__)
    parser.add_argument(
        "roots", nargs="*", type=Path, default=[Path("runs/reproduce")], metavar="ROOT",
        help="what `filtune reproduce --root` or `filtune sweep --root` named, or folders of runs of `filtune fit` "
        "(default: runs/reproduce)",
    )  # fmt: skip
    parser.add_argument(
        "--tables",
        nargs="+",
        default=[],
        metavar="TABLE",
        help="only these, such as loko.table2, or a file of your own",
    )
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument(
        "--formats", nargs="+", default=list(FORMATS), choices=FORMATS, help="what to write (default: all)"
    )
    options = parser.parse_args(args)
    write(options.roots, options.tables, options.output, options.formats, Console())


def write(roots: list[Path], tables: list[str], output: Path, formats: list[str], console: Console) -> None:
    """Read the roots and write the report.

    Args:
        roots: Folders of ``filtune reproduce``, ``sweep`` or ``fit``.
        tables: Only these; all there are where none is named.
        output: Folder of the report.
        formats: Of ``html``, ``md`` and ``tex``.
        console: Where it tells what it does.

    Raises:
        ValueError: If there is nothing to report, or a table is not known or was not run.
    """
    from . import render
    from .document import assemble, figure_plans
    from .figures import draw

    document = assemble(roots, tables)
    output.mkdir(parents=True, exist_ok=True)
    plans = [*figure_plans(document.sections), *((listing, listing.plan()) for listing in document.listings)]
    for place, plan in track(plans, "figures", console=console, transient=True):
        figure = draw(plan, output)
        if figure is not None:
            place.figures.append(figure)
    written = []
    if "html" in formats:
        written.append(render.page(document, output))
    for part in [*document.sections, *document.listings]:
        written += [render.markdown(part, output)] if "md" in formats else []
        written += [render.latex(part, output)] if "tex" in formats else []
    for words in document.left_out:
        console.print(words, style="yellow", highlight=False, soft_wrap=True, markup=False)
    for path in written:
        console.print(f"see  {path}", highlight=False, soft_wrap=True)
