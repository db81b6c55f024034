"""What the documentation site needs beside its pages: equations as MathML, and the tour as a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOUR = "tour/tour.py"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let fences of the language ``math`` be equations."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": equation})
    return config


def equation(source: str, *_: Any, **__: Any) -> str:
    """LaTeX as MathML, which browsers set without a script."""
    source = source.replace("{aligned}", "{align*}")  # the converter knows the one, code hosts the other
    source = re.sub(r"& *(\([^()\\]*\)) *(\\\\|\n|$)", r"& \\text{\1}\2", source)  # equation numbers are upright
    return f'<div class="equation">{convert(source, display="block")}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the tour as a page."""
    script = (Path(config.docs_dir) / TOUR).read_text(encoding="utf-8")
    files.append(File.generated(config, TOUR.replace(".py", ".md"), content=page_of(script)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the tour's script lead to its page."""
    return re.sub(r"(\]\([^)]*tour)\.py\)", r"\1.md)", markdown)


def page_of(script: str) -> str:
    """A script of cells as Markdown.

    Args:
        script: In the percent format: ``# %%`` opens a cell of code, ``# %% [markdown]`` one of commented text.
    """
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        first, _, body = cell.partition("\n")
        if "[markdown]" in first:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"
