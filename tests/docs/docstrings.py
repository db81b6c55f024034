"""The check of first lines of docstrings; ``python -m tests.docs.docstrings [FOLDER ...]`` prints what it finds."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from tests.docs.pages import ROOT

FOLDERS = (
    "optimizers lightning_modules datamodules exports filtune experiments reports live benchmarks docs/site".split()
)
FEWEST_WORDS = 3

CLAUSES = frozenset(
    "what whether how why who whose whom which where when while that if as because of by it its they their this these "
    "nothing both so see from in on to with without".split()
)
"""Words that open a relative clause, a fragment, or a sentence about something said elsewhere."""

VERBS = frozenset(
    """
    add allow answer append apply arrange assert attach average begin bind bring broadcast build call cancel
    change check choose clip close collect compare compose compute continue convert copy count create cut decide
    decode delete destroy detach discard divide do download draw end enter estimate evaluate exchange exit export
    extend fail fill find finish fit fold follow format forward free gather give group hand handle hold ignore
    import include infer install invert join keep kill learn leave let list load lock log make map mark match
    measure merge move name observe open pack parse patch place plot point predict prepare print process put quote
    raise read rebuild receive recompute record refuse register release remember remove rename render repeat
    replace replay report requeue reset resolve restore resume retry return rewrite run sample save scale score
    search seed select send serve set share show shut silence skip sort split start stop store submit subtract sum
    suppress switch synchronize take test time track train transform translate turn undo update upload use
    validate wait warn watch wrap write yield
    """.split()
)
"""Verbs that open the docstring of a function, in the imperative of PEP 257."""

NOUNS = frozenset(
    "averages counts draws estimates formats groups leaves loads locks logs marks matches measures names plots points "
    "records reports resets runs samples saves scales scores sets shares starts stops stores sums tests times".split()
)
"""Plurals that open the docstring of a class or a module although they could be verbs."""


class Hit(NamedTuple):
    """A docstring whose first line is no sentence."""

    path: str
    line: int
    name: str
    fault: str
    first: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name} {self.fault}: {self.first}"


def fault(first: str, kind: str) -> str | None:
    """Return what is wrong with the first line of a docstring, or None.

    Args:
        first: The first paragraph, joined into one line.
        kind: ``function``, ``property``, ``class`` or ``module``.
    """
    words = first.split()
    ends = (
        ".;" if kind in ("class", "module") else ".;:"
    )  # a noun and its explanation is a sentence, "Measure: ..." none
    sentence = re.split(rf"(?<=[^\s.])(?<!eq)(?<!eqs)[{ends}](?=\s|$)", first)[0].split()
    opening = re.sub(r"\W+$", "", words[0])
    if not re.search(r"[.:][)`\"]*$", first):
        return "does not end with a full stop"
    if len(sentence) < FEWEST_WORDS:
        return "begins with a fragment"
    if opening.lower() in CLAUSES:
        return f"opens with {opening!r}"
    if kind == "function" and opening.lower() not in VERBS:
        return "does not open with a verb"
    if kind in ("class", "module") and is_inflected(opening):
        return "opens with a verb, and a noun says what it is"
    return None


def is_inflected(word: str) -> bool:
    """Return whether a word is a verb in the third person, such as ``Writes``; some are nouns, too."""
    stems = {word.lower().removesuffix("s"), word.lower().removesuffix("es")}
    return word.endswith("s") and word.lower() not in NOUNS and bool(stems & VERBS)


def hits(path: str, source: str) -> Iterator[Hit]:
    """Yield the docstrings of a module whose first line is no sentence; private ones, too.

    Args:
        path: Path of the module, as a hit names it.
        source: Its text.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
        if first and (found := fault(first, kind_of(node))):
            yield Hit(path, getattr(node, "lineno", 1), getattr(node, "name", "module"), found, first)


def kind_of(node: ast.AST) -> str:
    """Return the kind of a node, as :func:`fault` distinguishes them."""
    if isinstance(node, ast.Module):
        return "module"
    if isinstance(node, ast.ClassDef):
        return "class"
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return "property" if decorators & {"property", "cached_property"} else "function"


def silent_errors(path: str, source: str) -> Iterator[Hit]:
    """Yield the public functions that raise an error of which neither their docstring nor that of their class speaks.

    Args:
        path: Path of the module, as a hit names it.
        source: Its text.
    """
    tree = ast.parse(source)
    bodies = [(tree, "")] + [
        (node, ast.get_docstring(node) or "") for node in tree.body if isinstance(node, ast.ClassDef)
    ]
    for owner, about in bodies:
        for node in owner.body:
            if not isinstance(node, ast.FunctionDef) or (node.name.startswith("_") and node.name != "__init__"):
                continue
            text = (ast.get_docstring(node) or "") + (about if node.name == "__init__" else "")
            raised = {ast.unparse(found.exc) for found in ast.walk(node) if isinstance(found, ast.Raise) and found.exc}
            if any(not SELF_EVIDENT.match(error) for error in raised) and not re.search(
                r"Raises:|[Ee]rror|[Rr]efus", text
            ):
                yield Hit(path, node.lineno, node.name, "is silent about an error", sorted(raised)[0])


SELF_EVIDENT = re.compile(r"(NotImplementedError|AttributeError|AssertionError|TypeError$|_\w+|Stop)\b")
"""Errors of the programmer, and exceptions that do not leave a module."""


def main(folders: list[str]) -> list[Hit]:
    """Return the hits of all modules of some folders, those of the first lines before those of the errors."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    return [hit for check in (hits, silent_errors) for path, source in sources.items() for hit in check(path, source)]


if __name__ == "__main__":
    print(*main(sys.argv[1:] or list(FOLDERS)), sep="\n")
