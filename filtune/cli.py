"""The entry: ``filtune COMMAND ...`` on the command line, ``python cli.py COMMAND ...`` in a clone.

Only the module of the command that is run is imported.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from filtune.lightning_modules import signals
from filtune.lightning_modules.atomic import DiskFull, reason_full

from . import __version__

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the loader forks workers, the tokenizer would complain
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a process that stops with another would log its stack


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        module: The module that has it.
        about: One line of help.
        function: The function in it, called with the arguments of the command.
    """

    module: str
    about: str
    function: str = "main"

    def __call__(self, args: list[str]) -> object:
        """Run the command."""
        return getattr(import_module(self.module), self.function)(args)


COMMANDS = {
    "fit": Command("filtune.training", "learn from a stream of samples, one at a time", "fit"),
    "validate": Command("filtune.training", "score a checkpoint on the validation samples", "validate"),
    "learn": Command("filtune.live.commands", "learn from JSON lines without an end, and predict each", "run_learn"),
    "predict": Command("filtune.exports.commands", "predict texts or images, with their uncertainty", "run_predict"),
    "export": Command("filtune.exports.commands", "write the model for PEFT, transformers or timm", "run_export"),
    "serve": Command("filtune.live.serving.commands", "predict and learn by HTTP, and lose nothing"),
    "compare": Command("filtune.reports.compare", "show finished runs side by side, as a table and curves"),
    "report": Command("filtune.reports.report", "write runs as tables and figures, beside what the papers print"),
    "reproduce": Command("filtune.experiments.reproduce", "run the tables and figures of the papers, or a study"),
    "sweep": Command("filtune.experiments.sweep", "run a configuration over a grid of options and several seeds"),
    "completion": Command("filtune.completion", "write the completion of bash or zsh"),
}
"""The commands in the order of ``filtune --help``."""

RENAMED = {"contest": Command("filtune.cli", "part of report", "contest")}
"""Commands of earlier releases; each prints its new name."""

INTERNAL = {"measure": Command("filtune.experiments.measurements.base", "a cell of a table that is no run of fit")}
"""Commands that the processes of ``filtune reproduce`` run, and nobody types."""

EXAMPLES = """\
  filtune fit --config quickstart
  filtune fit --config task/sst2 --config backbone/minilm --optimizer loko --optimizer.p0 0.1
  filtune fit --optimizer.help LoKO
"""


def usage() -> str:
    """Return the text of ``filtune --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()]
    about = "Online fine-tuning of pre-trained models with Kalman filters, natural gradients and baselines."
    more = "filtune COMMAND --help lists the options of a command, filtune --version prints the version."
    return "\n".join(["usage: filtune COMMAND ...", "", about, "", *lines, "", more, "", EXAMPLES.rstrip()])


def main(args: list[str] | None = None) -> None:
    """Run a command; errors of its user are reported in one line.

    Args:
        args: Command line without the program's name; by default that of the process.
    """
    args = sys.argv[1:] if args is None else args
    try:
        with signals.handled():
            if not args or args[0] in ("-h", "--help", "help"):
                print(usage())
            elif args[0] == "--version":
                print(f"filtune {__version__}")
            else:
                _run(args[0], args[1:])
            sys.stdout.flush()
    except signals.Stopped as stop:
        print(f"filtune: {stop}", file=sys.stderr)
        sys.exit(stop.code)
    except KeyboardInterrupt:
        print("filtune: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as in: filtune --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not isinstance(error, (*explained(), RuntimeError)) and reason_full(error) is None:
            raise
        _report(error)
    finally:
        if launch := sys.modules.get("filtune.lightning_modules.launch"):
            launch.leave()


def _run(name: str, args: list[str]) -> None:
    command = {**COMMANDS, **RENAMED, **INTERNAL}.get(name)
    if command is None:
        from .suggestions import suggest

        if name.startswith("-"):
            raise ValueError(f"{name}: the command comes first, for example filtune fit {name} ...; see filtune --help")
        raise ValueError(f"{name}: no such command; {suggest(name, COMMANDS)}")
    if name in ("fit", "validate"):
        from .option_help import asked, show

        if found := asked(args):
            show(name, *found)
            return
    with one_line_errors():
        status = command(args)
    if isinstance(status, int) and status:
        sys.exit(status)


def explained() -> tuple[type[BaseException], ...]:
    """Return the errors of the user, reported in one line; FILTUNE_DEBUG=1 shows where they come from."""
    found: tuple[type[BaseException], ...] = (
        ValueError,
        OSError,
        argparse.ArgumentError,
        FloatingPointError,
        ImportError,
    )
    if lightning := sys.modules.get("lightning.pytorch.utilities.exceptions"):
        found += (lightning.MisconfigurationException,)
    return found


def _report(error: BaseException) -> NoReturn:
    """Report an error in one line, in one process of a run, and end with its status."""
    launch = sys.modules.get("filtune.lightning_modules.launch")
    first = launch.is_first_to_report() if launch else True
    lost = launch.other_process_lost(error) if launch else None
    full = reason_full(error)
    if os.environ.get("FILTUNE_DEBUG") or (first and not isinstance(error, explained()) and not lost and not full):
        raise error
    if first:
        from filtune.experiments.escaping import plain

        print(f"filtune: error: {plain(lost or _message(error, full))}", file=sys.stderr)
    if isinstance(error, FloatingPointError):
        from filtune.experiments.runs import DIVERGED

        sys.exit(DIVERGED)
    sys.exit(2)


def _message(error: BaseException, full: str | None) -> str:
    """Return an error in one line; one for lack of space, whatever library it comes from, with its remedy."""
    text = " ".join(str(error).split())
    if full is None or isinstance(error, DiskFull):
        return text
    name = getattr(error, "filename", None)
    where = f"{name}: " if name else ""
    return f"{where}{full}; nothing that was complete is lost: make room, and repeat the command ({text[:200]})"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Make argparse report an error in one line with similar names instead of its usage."""
    error = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = _refuse  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = error  # type: ignore[method-assign]


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    from .suggestions import suggest

    see = f"see {parser.prog} --help"
    if found := re.fullmatch(r"unrecognized arguments: (.*)", message, flags=re.DOTALL):
        odd = next((word for word in found[1].split() if word.startswith("-")), found[1].split()[0])
        # argparse has no public way to list its options
        known = [name for name in parser._option_string_actions if name.startswith("--")]
        near = suggest(odd.partition("=")[0], known, see) if odd.startswith("-") else see
        raise ValueError(f"{odd}: no such option of {parser.prog}; {near}")
    if found := re.fullmatch(r"(?:the following arguments are required: |one of the arguments )(.*)", message):
        names = found[1].removesuffix(" is required")
        raise ValueError(f"{names}: required; {see}")
    if found := re.fullmatch(r"argument ([^:]*): (.*)", message, flags=re.DOTALL):
        raise ValueError(f"{found[1].rpartition('/')[2]}: {_plain(found[2])}")
    raise ValueError(f"{message}; {see}")


def _plain(message: str) -> str:
    """Return a message of argparse about a value in plain words."""
    if found := re.fullmatch(r"invalid (\w+) value: (.*)", message):
        kind = {"int": "a whole number", "float": "a number", "Path": "a path"}.get(found[1], found[1])
        return f"must be {kind}, got {found[2]}"
    if found := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", message):
        return f"must be one of {found[2].replace(chr(39), '')}, got {found[1]}"
    return message


def contest(args: list[str]) -> object:
    """Run what ``filtune contest`` was: ``filtune report --study``."""
    from filtune.experiments.composition import notice

    notice("filtune contest is now filtune report --study STUDY.yaml")
    return COMMANDS["report"](study_options(args))


def study_options(args: list[str]) -> list[str]:
    """Return the options of ``filtune report`` for those of ``filtune contest``, whose arguments were studies."""
    after_option = [False, *(arg.startswith("--") and "=" not in arg for arg in args)]
    studies = [
        arg for arg, is_value in zip(args, after_option, strict=False) if not arg.startswith("-") and not is_value
    ]
    others = [arg for arg, is_value in zip(args, after_option, strict=False) if arg.startswith("-") or is_value]
    page = [] if any(arg.startswith("--output") for arg in args) else ["--output", "contest.md"]
    return [*others, *page, *(["--study", *studies] if studies else [])]


if __name__ == "__main__":
    main()
