"""Hooks of the documentation site: equations as MathML, the tour as a page, and scripts from the site itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

SHIM = "https://unpkg.com/iframe-worker/shim"
"""Script that the theme loads for the search from the disk; ``frame_worker.js`` does the same."""

TOUR = "tour/tour.py"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Register fences of the language ``math`` as equations."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": equation})
    return config


def equation(source: str, *_: Any, **__: Any) -> str:
    """Return LaTeX as MathML, which browsers set without a script."""
    source = source.replace("{aligned}", "{align*}")  # the converter knows the one, code hosts the other
    source = re.sub(r"& *(\([^()\\]*\)) *(\\\\|\n|$)", r"& \\text{\1}\2", source)  # equation numbers are upright
    return f'<div class="equation">{convert(source, display="block")}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the tour as a page."""
    script = (Path(config.docs_dir) / TOUR).read_text(encoding="utf-8")
    files.append(File.generated(config, TOUR.replace(".py", ".md"), content=page_of(script)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to the script of the tour to its page."""
    return re.sub(r"(\]\([^)]*tour)\.py\)", r"\1.md)", markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Load the script of the search from the site, and name its dialog for screen readers."""
    output = output.replace(SHIM, get_relative_url("site/frame_worker.js", page.url))
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"')


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """Load the script of the search from the site on the page for a missing page as well."""
    return output_content.replace(SHIM, "site/frame_worker.js")


def page_of(script: str) -> str:
    """Return a script of cells as Markdown.

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
