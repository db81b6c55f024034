"""Trees of plain values in which some are odd or missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, 5, -1, True, 10**400, 1e300, float("nan"), float("inf"), "x", "", "\ud800", "a\n# b", "../../x", "x" * 300,
    [], [[]], [1, "x"], {}, {"x": 1}, {"": None}, [[1, 2], [1]], [["a"], ["b"]], [[2, 1], [1.0, 2.0]],
]  # fmt: skip
"""Values that stand where others belong."""


def places(tree: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values of a tree, but one entry of each list."""
    yield way
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*way, key))


def changed(tree: Any, way: tuple[Any, ...], value: Any, drop: bool) -> Any:
    """A copy of a tree with another value at a place, or none."""
    if not way:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if drop and len(way) == 1:
        del copy[way[0]]
    else:
        copy[way[0]] = changed(tree[way[0]], way[1:], value, drop)
    return copy


@st.composite
def structural(draw: st.DrawFn, tree: Any, odd: Sequence[Any] = ODD) -> Any:
    """A tree in which one or two values are odd or missing."""
    for _ in range(draw(st.integers(1, 2))):
        tree = changed(tree, draw(st.sampled_from(list(places(tree)))), draw(st.sampled_from(odd)), draw(st.booleans()))
    return tree
