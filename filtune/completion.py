"""``filtune completion bash|zsh``: a static completion script for commands, options, configurations and class names.

No Python process runs on TAB. Generate the script again after an update or after adding an optimizer.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin
from unittest import mock

from filtune.experiments.classes import classes, options
from filtune.experiments.composition import CONFIGS, shipped
from filtune.lightning_modules.trust import SWITCH

from .arguments import FOLDERS

INSTALL = """\
examples:
  filtune completion bash > ~/.local/share/bash-completion/completions/filtune
  filtune completion zsh > ~/.zfunc/_filtune      where ~/.zshrc has fpath+=~/.zfunc before compinit
"""

BASH = """\
# bash completion of filtune {version}; written by: filtune completion bash
_filtune() {{
    local cur prev words cword command options values
    cur="${{COMP_WORDS[COMP_CWORD]}}"
    prev="${{COMP_WORDS[COMP_CWORD-1]}}"
    # readline splits words at the equals sign
    [[ "$cur" == "=" ]] && cur=""
    [[ "$prev" == "=" ]] && prev="${{COMP_WORDS[COMP_CWORD-2]}}"
    command="${{COMP_WORDS[1]}}"
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$cur"))
        return
    fi
    values=""
    case "$prev" in
{values}
    esac
    if [[ -n "$values" && "$cur" != -* ]]; then
        COMPREPLY=($(compgen -W "$values" -- "$cur"))
        [[ "$prev" == --config || "$prev" == -c ]] && COMPREPLY+=($(compgen -f -- "$cur"))
        return
    fi
    case "$command" in
{options}
    esac
    if [[ "$cur" == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ "$command" == completion ]]; then
        COMPREPLY=($(compgen -W "bash zsh" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}}
complete -o filenames -o bashdefault -F _filtune filtune
"""

ZSH = """\
#compdef filtune
# zsh completion of filtune {version}; written by: filtune completion zsh
_filtune() {{
    local -a found
    local previous="${{words[CURRENT-1]}}"
    if (( CURRENT == 2 )); then
        found=({commands} --help --version)
        compadd -a found
        return
    fi
    found=()
    case "$previous" in
{values}
    esac
    if (( $#found )) && [[ "$PREFIX" != -* ]]; then
        compadd -a found
        [[ "$previous" == --config || "$previous" == -c ]] && _files
        return
    fi
    case "${{words[2]}}" in
{options}
    esac
    if [[ "$PREFIX" == -* ]]; then
        compadd -a found
    elif [[ "${{words[2]}}" == completion ]]; then
        compadd bash zsh
    else
        _files
    fi
}}
if [[ "$zsh_eval_context[-1]" == loadautofunc ]]; then
    _filtune "$@"
else
    compdef _filtune filtune
fi
"""


class _Caught(Exception):
    """The parser of a command has been built."""


def parser_of(command: Any) -> argparse.ArgumentParser:
    """Return the parser of a command, intercepted before it parses.

    Raises:
        AssertionError: If the command parses nothing.
    """
    caught: list[argparse.ArgumentParser] = []

    def catch(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        caught.append(parser)
        raise _Caught

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch):
        try:
            command([])
        except _Caught:
            return caught[0]
    raise AssertionError("the command parses nothing")


def training_options(command: str) -> list[str]:
    """Return the options of ``fit`` or ``validate``, including those of all optimizers and data modules."""
    from .training import schema_of

    below = {
        f"--{section}.{name}"
        for section in FOLDERS
        for cls in classes(section).values()
        for name in options(section, cls)
    }
    fixed = {f"--{key}" for key in schema_of(command).hints} | {f"--{section}.help" for section in FOLDERS}
    return sorted({*fixed, *below, *([SWITCH] if command == "validate" else [])})


def names(section: str) -> list[str]:
    """Return the values of ``--optimizer`` or ``--data``: classes and configurations."""
    return [*classes(section), *sorted(path.stem for path in (CONFIGS / FOLDERS[section]).glob("*.yaml"))]


def choices() -> dict[str, list[str]]:
    """Return the values of the options of ``fit`` that take one of a few, by option."""
    from filtune.optimizers.likelihoods import REGISTRY
    from filtune.optimizers.parts import Part

    from .training import schema_of

    hints = schema_of("fit").hints
    for section in FOLDERS:
        for cls in classes(section).values():
            hints |= {f"{section}.{name}": option.hint for name, option in options(section, cls).items()}
    found = {f"--{key}": values for key, hint in hints.items() if (values := _values(hint))}
    parts = {f"--optimizer.{family.kind}": sorted(family.registry) for family in Part.__subclasses__()}
    return {**found, **parts, "--data.task": ["auto", *REGISTRY]}


def _values(hint: Any) -> list[str]:
    """Return the values of a type of which there are few: ``true`` and ``false``, or those of a literal."""
    kinds = (hint, *get_args(hint))
    found = [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return ["true", "false"] if bool in kinds and len(kinds) == 1 else found


def script(shell: str) -> str:
    """Return the completion of a shell.

    Args:
        shell: ``bash`` or ``zsh``.
    """
    from . import __version__
    from .cli import COMMANDS

    configurations = shipped()
    short = [name.removeprefix("optimizer/") for name in configurations if name.startswith("optimizer/")]
    values = {
        "--config|-c": [*configurations, *short],
        "--optimizer|--optimizer.help": names("optimizer"),
        "--data|--data.help": names("data"),
        **choices(),
    }
    found = {}
    for name, command in COMMANDS.items():
        if name in ("fit", "validate"):
            found[name] = training_options(name)
        else:
            parser = parser_of(command)
            # argparse has no public way to list its options
            found[name] = [option for option in parser._option_string_actions if option.startswith("--")]
    found["sweep"] = [*found["sweep"], *(option for option in found["fit"] if "." in option)]
    text, form = (BASH, '        {}) {}="{}" ;;') if shell == "bash" else (ZSH, "        {}) {}=({}) ;;")
    variable = ("values", "options") if shell == "bash" else ("found", "found")
    return text.format(
        version=__version__,
        commands=" ".join(COMMANDS),
        values="\n".join(form.format(key, variable[0], _words(words)) for key, words in values.items()),
        options="\n".join(form.format(name, variable[1], _words(words)) for name, words in found.items()),
    )


def _words(found: Iterable[str]) -> str:
    return " ".join(word for word in dict.fromkeys(found) if re.fullmatch(r"[\w./+-]+", word))


def main(args: list[str]) -> None:
    """Run ``filtune completion``."""
    parser = argparse.ArgumentParser(
        prog="filtune completion",
        description="Write the completion of a shell: commands, options, configurations and names of classes.",
        epilog=INSTALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell")
    print(script(parser.parse_args(args).shell), end="")
