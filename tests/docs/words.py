"""Expressions that are out of the texts of this project; ``python -m tests.docs.words`` prints where they occur."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.docs.pages import ROOT

LIST = ROOT / "tests" / "docs" / "words_out.tsv"
TEXTS = re.compile(r"\.(py|md|ya?ml|toml|cff|css|j2)$|(^|/)(Makefile|run)$")
GENERATED = re.compile(r"docs/results/(?!README)|tests/docs/(test_)?words")
PAGES = re.compile(r"^(README|CONTRIBUTING|docs/|configs/|mkdocs)")


@cache
def rules() -> tuple[list[tuple[re.Pattern[str], str, bool]], dict[str, re.Pattern[str]]]:
    """Return the patterns with a replacement and whether they are for pages alone, and what a file may contain."""
    patterns, allowed = [], {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        fields = line.split("\t")
        if fields[0] == "!":
            allowed[fields[1]] = re.compile(fields[2])
        elif not line.startswith("#"):
            patterns.append((re.compile(fields[0], re.IGNORECASE), fields[1], fields[2:] == ["pages"]))
    return patterns, allowed


def tracked() -> list[str]:
    """Return the files of the repository with texts; without git, all those of the folder."""
    try:
        done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        listed = done.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        listed = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    return [name for name in listed if TEXTS.search(name) and not GENERATED.match(name) and (ROOT / name).exists()]


def found(name: str, text: str) -> list[str]:
    """Return a line for each expression that is out in the text of a file."""
    patterns, allowed = rules()
    patterns = [rule for rule in patterns if rule[0].search(text)]  # most files have none
    lines = []
    for number, line in enumerate(text.splitlines() if patterns else [], 1):
        if name in allowed and allowed[name].search(line):
            continue
        shown = re.sub(r"`[^`]*`", "", line) if PAGES.match(name) else line
        if name.startswith("configs/"):  # their notes are text of generated pages
            shown = "".join(re.findall(r"(?:^|\s)# (.*)", line))
        for pattern, replacement, pages in patterns:
            if (not pages or PAGES.match(name)) and (hit := pattern.search(shown)):
                lines.append(f"{name}:{number}: {hit[0]!r}; write: {replacement}")
    return lines


def main() -> int:
    """Print all places; return the exit status."""
    places = [line for name in tracked() for line in found(name, Path(ROOT / name).read_text(encoding="utf-8"))]
    print("\n".join(places), end="\n" if places else "")
    return bool(places)


if __name__ == "__main__":
    sys.exit(main())
