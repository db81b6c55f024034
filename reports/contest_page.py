"""``filtune contest STUDY...``: a method against tuned rivals, seed by seed, as a page of Markdown and figures."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from filtune.experiments.tables import Table, load_table
from rich.console import Console

from . import contest_tables as tables
from .contest import Stream, contest
from .contest_plot import draw
from .goals import Goals
from .posterior import posterior
from .reading import Archive
from .recovery import rules

PROBABILITIES = (
    (("online_moderated_nll", "online_nll"), 3),
    (("online_moderated_brier", "online_brier"), 3),
    (("online_moderated_ece", "online_ece"), 1),
)
AFTERWARDS = (
    (("val_accuracy",), 1),
    (("val_matthews",), 1),
    (("val_pearson",), 1),
    (("val_loss",), 3),
)


def main(args: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="filtune contest", description=__doc__)
    parser.add_argument(
        "studies", nargs="+", metavar="STUDY", help="studies with a contest, such as configs/studies/win_stream.yaml"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("runs/reproduce"), help="what `filtune reproduce --root` named"
    )
    parser.add_argument("--title", help="title of the page (default: that of the study)")
    parser.add_argument("--posterior", type=Path, help="what `python -m benchmarks.uncertainty --output` named")
    parser.add_argument("--output", type=Path, default=Path("contest.md"), help="the page (default: contest.md)")
    options = parser.parse_args(args)
    for path in write(options):
        Console().print(f"see  {path}", highlight=False, soft_wrap=True)


def write(options: argparse.Namespace) -> list[Path]:
    """Write the page and its figures, beside it.

    Returns:
        Their paths.

    Raises:
        ValueError: If there is nothing to compare.
    """
    found = [load_table(study) for study in options.studies]
    archive = Archive([options.root], found)
    output: Path = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    parts, written, short = [], [output], []
    for study, table in zip(options.studies, found, strict=True):
        streams = contest(table, archive)
        if not streams:
            raise ValueError(f"{table.name}: its method was not run; see `filtune reproduce {study}`")
        written.append(output.with_name(f"{output.stem}_{table.name}.png"))
        draw(streams, table, written[-1])
        goals = Goals(table, streams)
        if goals.wanted:
            short.append(f"* [{table.title}](#{_anchor(table.title)}): {goals.summary()}")
        parts += [f"## {table.title}", *_study(table, archive, streams, goals, written[-1].name)]
    if options.posterior:
        parts += posterior(options.posterior)
    if short:
        parts = ["How many of the goals are reached:", "\n".join(short), *parts]
    text = [f"# {options.title or found[0].title}", *parts, "## The commands", _commands(options)]
    output.write_text("\n\n".join(part for part in text if part) + "\n")
    return written


def _anchor(title: str) -> str:
    """The name by which a heading is linked."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _commands(options: argparse.Namespace) -> str:
    said = {"--root": options.root, "--title": options.title, "--posterior": options.posterior}
    words = [f"{name} {shlex.quote(str(value))}" for name, value in said.items() if value]
    lines = [f"filtune reproduce {study} --root {options.root}" for study in options.studies]
    if options.posterior:
        judged = f"{options.studies[0]} --root {options.root} --output {options.posterior}"
        lines.append(f"python -m benchmarks.uncertainty {judged}")
    lines.append(f"filtune contest {' '.join([*options.studies, *words])} --output {options.output}")
    return "\n".join(["```bash", *lines, "```"])


def _study(table: Table, archive: Archive, streams: Sequence[Stream], goals: Goals, figure: str) -> list[str]:
    return [
        " ".join(str(table.raw.get("notes", "")).split()),
        f"![the method and its rivals over the samples]({figure})",
        "Mean ± standard deviation over the seeds; what the method is ahead by is paired by seed, with the p-value of "
        "the paired t-test.",
        "### All seeds",
        tables.scores(streams),
        *_reserved(table, archive),
        *_goals(table, goals),
        "### How soon",
        _soon(streams),
        tables.speeds(streams),
        *_averages(streams),
        *_recoveries(table, streams),
        *_foretold(streams),
        *_section(streams, "Afterwards, on validation samples", AFTERWARDS),
    ]


def _reserved(table: Table, archive: Archive) -> list[str]:
    seeds = (table.raw["contest"].get("reserved") or {}).get("seeds", [])
    if not seeds:
        return []
    rates = "nor were the rivals' rates" if table.tuning_seeds else "the rivals' rates are chosen on them again"
    return [
        f"### Reserved seeds ({', '.join(map(str, seeds))})",
        f"The method was not tuned on them; {rates}.",
        tables.scores(contest(table, archive, seeds)),
    ]


def _goals(table: Table, goals: Goals) -> list[str]:
    if not goals.wanted:
        return []
    words = "What was set out for, all seeds together: points ahead, and samples as a share of the rival's."
    discussion = str(table.raw["contest"].get("discussion", "")).strip()
    return ["### The goals", words, goals.table(), discussion]


def _soon(streams: Sequence[Stream]) -> str:
    online = streams[0].online
    what = "the average online score stays above" if online else "the score on validation samples first reaches"
    share = "those the rival takes itself" if online else "the rival's whole run"
    return (
        f"Samples after which {what} where the rival's ends, as a share of {share}; the mean over the seeds, and how "
        "many never get there."
    )


def _averages(streams: Sequence[Stream]) -> list[str]:
    """The whole course of scores that were taken several times."""
    metric, method = streams[0].metric, streams[0].method
    validations = max(len(method.curve(seed, metric)[1]) for seed in method.records)
    if streams[0].online or validations < 2:
        return []
    return [
        "### Over the whole run",
        "The mean of all validations of a run, which says how soon and how far in one, with less noise than its last; "
        "the rival at the point that is best at the end.",
        tables.averages(streams),
    ]


def _recoveries(table: Table, streams: Sequence[Stream]) -> list[str]:
    found = rules(table)
    if not found:
        return []
    rule = next(iter(found.values()))  # they differ in their changes alone
    return [
        "### How soon after a change",
        f"Samples until {rule.level:g} % of the last {rule.last}, all after the change, are right: the median over "
        "seeds and changes, and the quartiles. Where that does not happen before the next change, it counts as never.",
        tables.recoveries(streams, found),
    ]


def _foretold(streams: Sequence[Stream]) -> list[str]:
    """Nothing where samples come again: they are foretold after they were learnt."""
    if not streams[0].online:
        return []
    return _section(streams, "The probabilities of a sample before it is learnt", PROBABILITIES)


def _section(streams: Sequence[Stream], title: str, what: Sequence[tuple[tuple[str, ...], int]]) -> list[str]:
    found = [text for text in (tables.figures(streams, *each) for each in what) if text]
    return [f"### {title}", *found] if found else []
