"""One palette: no other module names a colour, and the methods of a page are apart for the colour-blind."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from filtune.experiments.tables import load_table, table_names
from filtune.reports import plots
from filtune.reports.plots import METHODS, OTHERS, distinct_looks, draw_legend, draw_mean, looks, looks_of, new_figure
from PIL import Image

ROOT = Path(__file__).parents[2]
PLACES = (
    "benchmarks",
    "datamodules",
    "docs",
    "experiments",
    "exports",
    "filtune",
    "lightning_modules",
    "optimizers",
    "reports",
)
NAMED = re.compile(r"#[0-9a-fA-F]{3}|#[0-9a-fA-F]{6}|C\d|[bgrcmykw]|0?\.\d+|1|1\.0|tab:\w+|xkcd:.+")
"""Colours as matplotlib takes them, besides words."""
SETS_COLOUR = re.compile(r"(edge|face|marker|hatch|line)?colou?rs?|cmap|c|.*\.(color|colormap|prop_cycle)")

PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
"""Dichromacy in linear RGB: Machado, Oliveira and Fernandes (2009), severity 1."""


def colours_named(path: Path) -> list[str]:
    """Colours that a module gives to matplotlib, or keeps as hexadecimal numbers."""
    from matplotlib.colors import is_color_like

    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"#[0-9a-fA-F]{3}([0-9a-fA-F]{3})?([0-9a-fA-F]{2})?", node.value):
                found.append(node.value)
        elif isinstance(node, ast.keyword | ast.Dict):
            pairs = (
                [(node.arg, node.value)] if isinstance(node, ast.keyword) else zip(node.keys, node.values, strict=True)
            )
            for key, value in pairs:
                name = key.value if isinstance(key, ast.Constant) else key
                texts = [part.value for part in ast.walk(value) if isinstance(part, ast.Constant)]
                if isinstance(name, str) and SETS_COLOUR.fullmatch(name):
                    found += [
                        str(t) for t in texts if isinstance(t, str) and (is_color_like(t) or name == "cmap" or t == "C")
                    ]
    return found


def oklab(colour: str, seen: list[list[float]]) -> np.ndarray:
    """Return a colour as OKLab (Ottosson, 2020), times 100, as seen through a matrix in linear RGB."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
             [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    axes = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return 100 * np.array(axes) @ np.cbrt(np.array(cones) @ np.clip(np.array(seen) @ linear, 0, 1))


def test_no_other_module_names_colours() -> None:
    files = [path for place in PLACES for path in (ROOT / place).rglob("*.py") if path != ROOT / "reports" / "plots.py"]
    assert len(files) > 100
    assert {str(path.relative_to(ROOT)): named for path in files if (named := colours_named(path))} == {}
    others = [path for path in files if "pyplot" in path.read_text()]
    assert [path.name for path in others] == ["tour.py"]  # a script of the documentation that stands alone


@pytest.mark.parametrize(
    "line", ['f(color="C1")', 'f(color=f"C{n}")', 'x = "#a1b2c3"', '{"facecolor": "red"}', 'f(cmap="jet")']
)
def test_a_colour_is_noticed(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(line)
    assert colours_named(tmp_path / "a.py")


@pytest.mark.parametrize("seen", [np.eye(3).tolist(), PROTAN, DEUTAN], ids=["normal", "protanopia", "deuteranopia"])
def test_the_methods_of_a_page_are_apart(seen: list[list[float]]) -> None:
    """Five times what is just noticeable in OKLab, 0.02, for methods that any shipped table or study compares."""
    names = [*table_names(), *map(str, (ROOT / "configs" / "studies").glob("*.yaml"))]
    pairs = set()
    for name in names:
        optimizers = {row.optimizer for row in load_table(name).rows if row.optimizer}
        colours = {look.colour for optimizer in optimizers for look in looks([("", optimizer, "paper")]).values()}
        pairs |= set(itertools.combinations(sorted(colours), 2))
    assert len(pairs) > 40
    assert min(float(np.linalg.norm(oklab(a, seen) - oklab(b, seen))) for a, b in pairs) > 10


def test_every_colour_can_be_seen_on_white() -> None:
    """Lightness of 82 of 100 at most."""
    assert max(oklab(colour, np.eye(3).tolist())[0] for colour in (*METHODS.values(), *OTHERS)) < 82


def test_a_method_has_one_colour_however_its_configuration_is_called() -> None:
    names = [
        ("adamw", "AdamW"),
        ("adamw_1e-3", "adamw_warmup"),
        ("r_kalman", "r-kalman"),
        ("r_kalman", "RKalman"),
        ("loko", "LoKO"),
    ]
    for first, second in names:
        one, other = (looks([("", name, "paper")])[""].colour for name in (first, second))
        assert one == other
    assert looks([("", "my_rule", "paper")])[""].colour in OTHERS


def test_a_row_has_the_colour_of_its_method_and_a_stroke_of_its_kind() -> None:
    rows = [
        ("loko", "loko", "paper"),
        ("adamw", "adamw", "paper"),
        ("tuned", "adamw_1e-3", "tuned"),
        ("dora", "loko", "paper"),
    ]
    found = looks(rows)
    assert found["tuned"].colour == found["adamw"].colour
    assert found["tuned"].stroke != found["adamw"].stroke
    assert (found["dora"].colour, found["dora"].stroke) != (found["loko"].colour, found["loko"].stroke)


def test_rows_of_one_method_are_distinguished() -> None:
    apart = distinct_looks([str(i) for i in range(30)])
    assert len({(look.colour, look.stroke) for look in apart.values()}) == 30
    assert not {METHODS["adamw"], METHODS["filtune"]} & {look.colour for look in apart.values()}
    assert looks_of([("a", "loko"), ("b", "adamw")])["a"].colour == METHODS["loko"]
    found = looks_of([("a", "loko"), ("b", "loko"), *((str(i), "adagrad") for i in range(3)), ("c", "filtune")])
    assert len({look.colour for look in found.values()}) == 6
    assert (found["a"].colour, found["c"].colour) == (METHODS["loko"], METHODS["filtune"])


def test_a_legend_is_in_the_order_of_the_palette() -> None:
    styles = looks([(name, name, "paper") for name in ("sgd", "adamw", "other", "filtune")])
    with new_figure(1, 1, (4, 3)) as (figure, axes):
        handles = {name: draw_mean(axes[0, 0], [0, 1], [0, 1], look) for name, look in styles.items()}
        draw_legend(figure, handles, styles)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["filtune", "adamw", "sgd", "other"]
        draw_legend(figure, {}, {})
        assert len(figure.legends) == 1


def test_a_png_has_the_colour_of_every_line(tmp_path: Path) -> None:
    """Of few colours, for its size; a line's may differ by no more than is just noticeable."""
    styles = looks([(name, name, "paper") for name in METHODS])
    with new_figure(1, 1, (4, 3)) as (figure, axes):
        for height, look in enumerate(styles.values()):
            draw_mean(axes[0, 0], [0, 1], np.full(2, height), look, deviation=np.ones(2) if height == 3 else None)
        plots.save_png(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        found = [f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in image.convert("RGB").getcolors() or []]
    assert len(found) < 256
    shown = np.stack([oklab(colour, np.eye(3).tolist()) for colour in found])
    for colour in METHODS.values():
        assert np.linalg.norm(shown - oklab(colour, np.eye(3).tolist()), axis=1).min() < 2


def test_labels_are_no_mathematics() -> None:
    with new_figure(1, 1, (4, 3)) as (figure, axes):
        axes[0, 0].set_title(r"$\frac")
        assert r"$\frac" in plots.to_svg(figure)
