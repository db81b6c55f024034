"""The colour and stroke of a row: the same in every figure and table, after the papers."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

_FAMILIES = (
    ("filtune", "#111827"),
    ("r_kalman", "#0891b2"),
    ("rkalman", "#0891b2"),
    ("loko", "#2563eb"),
    ("kalman", "#2563eb"),
    ("ekf", "#6366f1"),
    ("lofi", "#0f766e"),
    ("adamw", "#dc2626"),
    ("adagrad", "#16a34a"),
    ("sophia", "#ca8a04"),
    ("ngd", "#ea7317"),
    ("ring", "#9333ea"),
    ("reng", "#db2777"),
    ("sam", "#78716c"),
    ("sgd", "#a16207"),
)
_OTHERS = ("#475569", "#65a30d", "#be185d", "#7c2d12", "#0369a1", "#4d7c0f")
_STROKES = {"paper": "-", "tuned": "--", "ours": "-."}


@dataclass(frozen=True)
class Look:
    """How a row is drawn.

    Attributes:
        colour: Hexadecimal.
        stroke: As matplotlib writes it.
    """

    colour: str
    stroke: str = "-"


def looks(rows: list[tuple[str, str, str]]) -> dict[str, Look]:
    """The look of each row.

    Args:
        rows: Name, optimizer and kind (``paper``, ``tuned``, ``ours``) of each.

    Returns:
        By name: the colour of the optimizer's family, lighter for a second row of the family and kind.
    """
    found: dict[str, Look] = {}
    seen: dict[tuple[str, str], int] = {}
    others = 0
    for name, optimizer, kind in rows:
        colour = next((colour for family, colour in _FAMILIES if optimizer.lower().startswith(family)), None)
        if colour is None:
            colour, others = _OTHERS[others % len(_OTHERS)], others + 1
        before = seen.get((colour, kind), 0)
        seen[colour, kind] = before + 1
        found[name] = Look(_lighter(colour, 0.45 * min(before, 1) + 0.1 * max(before - 1, 0)), _STROKES[kind])
    return found


def distinct(names: list[str]) -> dict[str, Look]:
    """Looks that only tell names apart, where the optimizer does not."""
    colours = [colour for _, colour in _FAMILIES[1:]] + list(_OTHERS)
    apart = [colour for i, colour in enumerate(colours) if colour not in colours[:i]]
    strokes = list(_STROKES.values())
    count = len(apart)
    return {name: Look(apart[i % count], strokes[i // count % len(strokes)]) for i, name in enumerate(names)}


def _lighter(colour: str, share: float) -> str:
    if not share:
        return colour
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, full = colorsys.rgb_to_hls(red, green, blue)
    mixed = colorsys.hls_to_rgb(hue, min(light + share * (1 - light), 0.85), full)
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
