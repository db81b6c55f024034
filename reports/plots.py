"""The figures of the project: one palette, one style, one way to draw a mean with its deviation, and to save.

Other modules name no colours. The palette keeps the methods of a page apart for the colour-blind too: the least
distance of two of them in OKLab, times 100, is 14 (2 is just noticeable), for normal vision, protanopia, deuteranopia.
"""

from __future__ import annotations

import colorsys
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtune.lightning_modules.atomic import atomic_write

INK, PAPER, FAINT = "#222222", "white", "#cccccc"
"""Text, axes and Filtune; the ground; bars behind marks."""

METHODS = {
    "filtune": INK, "loko": "#4000b4", "kalman": "#4000b4", "r_kalman": "#32bbff", "rkalman": "#32bbff",
    "ekf": "#1a6de9", "lofi": "#48997d", "ngd": "#c07013", "ring": "#8c34ff", "reng": "#ff75a5", "adamw": "#9d2900",
    "adagrad": "#00dcb5", "soap": "#ce6029", "schedule_free": "#8166ff", "prodigy": "#ff9100", "muon": "#006881",
    "sophia": "#d8bb14", "sam": "#50618e", "sgd": "#ffa400",
}  # fmt: skip
"""Colours by the beginning of an optimizer's name, in the order of legends."""

OTHERS = ("#475569", "#65a30d", "#be185d", "#7c2d12", "#0369a1", "#4d7c0f")
"""Colours of further optimizers."""

STROKES = {"paper": "-", "tuned": "--", "ours": "-."}
"""Strokes by the kind of a row."""

REPEATED = ":"
"""Stroke of a further row of one colour and kind."""

MATRICES = "magma"
"""Colour map of matrices; its lightness rises evenly."""

_STYLE = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 8, "axes.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.xmargin": 0.02, "axes.grid": True, "grid.alpha": 0.22,
    "grid.linewidth": 0.5, "legend.frameon": False, "path.simplify_threshold": 0.4, "svg.fonttype": "none",
    "text.parse_math": False,  # labels are text of whoever made the runs
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "grid.color": INK,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """The style in which a method is drawn.

    Attributes:
        colour: Hexadecimal.
        stroke: As matplotlib writes it.
        rank: Place in legends.
        width: Of a line, in points.
    """

    colour: str
    stroke: str = "-"
    rank: int = len(METHODS)
    width: float = 1.3

    @property
    def ink(self) -> str:
        """The colour for text, no lighter than can be read on white."""
        return _with_light(self.colour, lambda light: min(light, 0.3))


def looks(rows: Iterable[tuple[str, str, str]]) -> dict[str, Look]:
    """Return the look of each row.

    Args:
        rows: Name, optimizer and kind (``paper``, ``tuned``, ``ours``) of each.

    Returns:
        By name: the colour of the optimizer, lighter and dotted for a second row of the same colour and kind.
    """
    found: dict[str, Look] = {}
    seen: dict[tuple[str, str], int] = {}
    others = iter(OTHERS * 99)
    for name, optimizer, kind in rows:
        plain = optimizer.lower().replace("-", "_")
        rank, method = next(((i, m) for i, m in enumerate(METHODS) if plain.startswith(m)), (len(METHODS), ""))
        colour = METHODS[method] if method else next(others)
        before = seen[colour, kind] = seen.get((colour, kind), -1) + 1
        share = 0.35 + 0.1 * before
        shade = _with_light(colour, lambda x, s=share: min(x + s * (1 - x), 0.85)) if before else colour
        found[name] = Look(shade, REPEATED if before else STROKES[kind], rank)
    return found


def distinct_looks(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, Look]:
    """Return looks that distinguish names, in no colour that is taken, and none in that of AdamW or Filtune."""
    left_out = {METHODS["filtune"], METHODS["adamw"], *taken}
    colours = [colour for colour in dict.fromkeys([*METHODS.values(), *OTHERS]) if colour not in left_out]
    strokes, count = list(STROKES.values()), len(colours)
    return {name: Look(colours[i % count], strokes[i // count % len(strokes)]) for i, name in enumerate(names)}


def looks_of(rows: Sequence[tuple[str, str]]) -> dict[str, Look]:
    """Return the looks of names with their optimizers: that of the optimizer, unless it has three names or more."""
    count = Counter(optimizer for _, optimizer in rows)
    own = looks((name, optimizer, "paper") for name, optimizer in rows if count[optimizer] < 3)
    many = (name for name, optimizer in rows if count[optimizer] > 2)
    return own | distinct_looks(many, [look.colour for look in own.values()])


def _with_light(colour: str, change: Callable[[float], float]) -> str:
    from matplotlib.colors import to_hex, to_rgb

    hue, light, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, change(light), saturation))


@contextmanager
def new_figure(rows: int, columns: int, size: tuple[float, float], name: str = "") -> Iterator[tuple[Any, Any]]:
    """Yield a figure in the style of the project and its axes (rows, columns); closed at the end.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        size: Width and height in inches.
        name: Seeds the identifiers of an SVG, so that the same figure is the same file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def draw_mean(axis: Any, x: Any, mean: Any, look: Look, deviation: Any = None, **style: Any) -> Any:
    """Draw a mean with a band of one deviation, and return the line; few points are marked."""
    style = {"color": look.colour, "linestyle": look.stroke, "linewidth": look.width, "ms": 3, **style}
    (line,) = axis.plot(x, mean, **{"marker": "o" if len(x) < 3 else None, **style})
    if deviation is not None:
        axis.fill_between(x, mean - deviation, mean + deviation, color=look.colour, alpha=0.13, linewidth=0)
    return line


def draw_points(axis: Any, x: Any, mean: Any, look: Look, deviation: Any) -> Any:
    """Draw means over the values of an option with bars of one deviation, and return the handle."""
    style = {"color": look.colour, "linestyle": look.stroke, "marker": "o", "ms": 3, "capsize": 2, "linewidth": 1.3}
    return axis.errorbar(x, mean, deviation, **style)


def draw_legend(figure: Any, handles: Mapping[str, Any], styles: Mapping[str, Look]) -> None:
    """Draw a legend below the panels, in the order of the palette, of equals the widest first; none for no handles."""
    if handles:
        known = {name: (look.rank, -look.width) for name, look in styles.items()}
        names = sorted(handles, key=lambda name: known.get(name, (len(METHODS), 0.0)))
        entry = max(1.6, 0.5 + 0.075 * max(map(len, names)))  # inches
        columns = max(1, min(len(names), int(figure.get_figwidth() / entry)))
        figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=columns)


def log_scale(axes: Any, which: str, values: Sequence[float] = (1.0,)) -> None:
    """Make an axis logarithmic, linear from zero to the least value if zero is among them, in plain numbers.

    Args:
        axes: The panel.
        which: ``x`` or ``y``.
        values: What is drawn on it.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    least = min((value for value in values if value > 0), default=1.0)
    if min(values) > 0:
        axes.set(**{f"{which}scale": "log"})
    else:
        getattr(axes, f"set_{which}scale")("symlog", linthresh=least)
        axes.set(**{f"{which}lim": (-least / 2, None)})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # labels have no mathematics
    within = max(values) <= 10 * least  # at most one power of ten is there to be labelled
    minor = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axis.set_minor_formatter(minor if within and max(values) > least else NullFormatter())


def to_svg(figure: Any, **options: Any) -> str:
    """Return a figure as SVG, without date and creator."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, **options)
    return buffer.getvalue()


def to_pixels(figure: Any, dpi: int = 110) -> Any:
    """Return a figure as an array of pixels, (height, width, 3) uint8."""
    import numpy as np

    figure.set_dpi(dpi)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save_png(figure: Any, target: Path, dpi: int = 130) -> None:
    """Write a figure as a PNG of 255 colours, no line's colour lost among the greys: less than half of the size."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=PAPER)
    with atomic_write(target, "wb") as file:
        Image.open(buffer).convert("RGB").quantize(255, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
