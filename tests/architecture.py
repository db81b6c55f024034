"""The code as a graph of imports, read from its syntax trees; ``python -m tests.architecture`` prints the arrows."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("optimizers", "datamodules", "lightning_modules", "experiments", "exports", "reports", "live")
"""Folders at the root that are sub-packages of ``filtune``."""

FACE = "filtune"
"""The package itself: the public names and the command line."""


@dataclass(frozen=True)
class Import:
    """One imported name.

    Attributes:
        source: The module that imports.
        target: The module of ours that is imported, or of which a name is imported; else the full name as written.
        name: The name, where it is not a module.
        line: Where.
        is_relative: Whether it is written with leading dots.
    """

    source: str
    target: str
    name: str | None
    line: int
    is_relative: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} -> {self.target}{f' ({self.name})' if self.name else ''}"


@dataclass(frozen=True)
class Module:
    """One file of the code.

    Attributes:
        name: Its full name, such as ``filtune.optimizers.base``.
        path: The file.
    """

    name: str
    path: Path

    @property
    def folder(self) -> str:
        """The folder at the root."""
        return self.path.relative_to(ROOT).parts[0]

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def package(self) -> str:
        """The package that leading dots begin at."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def public(self) -> list[str]:
        """Names of the functions and classes at the top level without an underscore."""
        definitions = (ast.FunctionDef, ast.ClassDef)
        return [node.name for node in self.tree.body if isinstance(node, definitions) and node.name[0] != "_"]

    @property
    def typing_lines(self) -> set[int]:
        """Lines below ``if TYPE_CHECKING``."""
        blocks = [node for node in ast.walk(self.tree) if isinstance(node, ast.If)]
        blocks = [node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING"]
        return {line for node in blocks for line in range(node.lineno, (node.body[-1].end_lineno or 0) + 1)}

    def imports(self) -> Iterator[Import]:
        """All imports, those inside functions as well."""
        known = {module.name for module in modules()}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(self.name, alias.name, None, node.lineno, False)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    package = self.package.split(".")
                    base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    target, name = (inner, None) if inner in known else (base, alias.name)
                    yield Import(self.name, target, name, node.lineno, bool(node.level))


@cache
def modules() -> tuple[Module, ...]:
    """All files of the package and of ``benchmarks/``."""
    found = []
    for folder in (*PARTS, FACE, "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found.append(Module(".".join((FACE, *parts) if folder in PARTS else parts), path))
    return tuple(found)


@cache
def internal_imports() -> tuple[Import, ...]:
    """Imports between files of ours."""
    known = {module.name for module in modules()}
    return tuple(edge for module in modules() for edge in module.imports() if edge.target in known)


def folder_of(name: str) -> str:
    """Return the folder at the root that a module is in; ``filtune`` for the package's own files."""
    top, _, rest = name.partition(".")
    inner = rest.partition(".")[0]
    return inner if top == FACE and inner in PARTS else top


def arrows() -> Counter[tuple[str, str]]:
    """Return how many imports lead from one folder to another."""
    pairs = ((folder_of(edge.source), folder_of(edge.target)) for edge in internal_imports())
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def circles() -> list[list[str]]:
    """Return the sets of files that import each other, directly or by way of others (Tarjan 1972).

    What is imported for type checkers alone does not count, for it is never executed.
    """
    graph: dict[str, set[str]] = defaultdict(set)
    typing_only = {(module.name, line) for module in modules() for line in module.typing_lines}
    for edge in internal_imports():
        if (edge.source, edge.line) not in typing_only:
            graph[edge.source].add(edge.target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1 or node in graph[node]:
                found.append(sorted(component))

    for name in sorted({module.name for module in modules()}):
        if name not in index:
            visit(name)
    return found


def shared_names() -> dict[str, list[str]]:
    """Return the public names that are defined in more than one file, with the files.

    Benchmarks do not count: each is a program of its own, with functions of the same few names.
    """
    where: dict[str, list[str]] = defaultdict(list)
    for module in modules():
        if module.name.startswith("benchmarks"):
            continue
        for name in module.public:
            where[name].append(module.name)
    return {name: files for name, files in sorted(where.items()) if len(files) > 1}


PUBLIC_ALL_THE_SAME = ("_foreach_", "_replace", "_asdict", "_exit")
"""Torch's multi-tensor operations, which have no other name; and documented names of the standard library."""


def private_access() -> Iterator[str]:
    """Yield each use of a private name that the file does not define itself and that no comment explains."""
    for module in modules():
        lines = module.text.splitlines()
        own = {node.name for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own |= {target.id for target in targets if isinstance(target, ast.Name)}
        for edge in module.imports():
            foreign = edge.target.partition(".")[0] not in (FACE, "benchmarks", "tests", "__future__")
            explained = "#" in "".join(lines[max(edge.line - 2, 0) : edge.line])
            if foreign and (edge.name or "").startswith("_") and not explained:
                yield str(edge)
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
                continue
            if node.attr.startswith(PUBLIC_ALL_THE_SAME):
                continue
            inherited = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            inherited = inherited or (isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()")
            explained = "#" in "".join(lines[max(node.lineno - 2, 0) : node.lineno])
            if not inherited and node.attr not in own and not explained:
                yield f"{module.name}:{node.lineno} {ast.unparse(node)}"


if __name__ == "__main__":
    for (source, target), count in sorted(arrows().items()):
        print(f"{source:18} -> {target:18} {count:4}")
