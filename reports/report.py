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
        formats = options.formats or [end if (end := output.suffix.lstrip(".")) in FORMATS else "md"]
        studies = assemble_studies(options.study, find_roots(roots), output, options.title, options.posterior)
        write_report(studies, output, formats, console)
    else:
        from .document import assemble

        write_report(assemble(roots, options.tables), options.output or Path("report"), options.formats, console)


def write_report(document: Document, output: Path, formats: Sequence[str] | None, console: Console) -> None:
    """Draw the figures of a report and write its pages.

    Args:
        document: The report.
        output: Its folder; of studies the path of the page, with figures beside it.
        formats: Of ``html``, ``md`` and ``tex``; all by default.
        console: Where messages go.

    Raises:
        ValueError: If the folder cannot be made.
    """
    from .figures import draw_figure
    from .rendering import render_document

    folder = output if document.commands is None else output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output: {folder} cannot be made a folder ({error.strerror}); name another") from error
    plans = [plan for part in document.parts for plan in part.plans]
    drawn = track(plans, "figures", console=console, transient=True)
    figures = [path for plan in drawn for path in draw_figure(plan, folder)]
    pages = render_document(document, output, formats or FORMATS)
    warn_of(document.left_out)
    _say(console, "see", *pages, *([] if document.commands is None else figures))


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
