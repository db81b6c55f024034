"""The fingerprint of a stream: the same for the same content, and what has changed is named by the entries that do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.datamodules import ChangingDataModule, DigitsDataModule, ImageDataModule, Segment, TextDataModule
from PIL import Image

ROWS = [(f"film {i}", "neg" if i % 2 else "pos") for i in range(20)]


def fingerprint(write: Callable[[str, str], str], rows: list[tuple[str, str]], **options: Any) -> dict[str, str | int]:
    source = write("films.csv", "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    module = TextDataModule(source, ["text"], **{"shuffle": False, "val_fraction": 0.2, **options})
    module.setup()
    return module.fingerprint()


def differing(one: dict, other: dict) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


def test_is_of_plain_values_and_repeats(write: Callable[[str, str], str]) -> None:
    first = fingerprint(write, ROWS)
    assert first == fingerprint(write, ROWS)
    assert {type(value) for value in first.values()} == {int, str}
    assert first["rows"] == 16


CHANGES: dict[str, tuple[Callable[[list], list], set[str]]] = {
    "a text edited": (lambda rows: [("other", rows[0][1]), *rows[1:]], {"inputs", "pairs", "order"}),
    "two labels swapped": (
        lambda rows: [(rows[0][0], rows[1][1]), (rows[1][0], rows[0][1]), *rows[2:]],
        {"pairs", "order"},
    ),
    "a label changed": (lambda rows: [(rows[0][0], "neg"), *rows[1:]], {"labels", "pairs", "order"}),
    "rows in another order": (lambda rows: [rows[1], rows[0], *rows[2:]], {"order"}),
    "a row appended": (lambda rows: [*rows, ("new", "pos")], {"rows", "inputs", "labels", "pairs", "order"}),
    "classes renamed": (lambda rows: [(text, label.upper()) for text, label in rows], {"classes"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_names_what_differs(write: Callable[[str, str], str], change: str) -> None:
    edit, expected = CHANGES[change]
    options = {"val_fraction": 0.0}
    assert differing(fingerprint(write, ROWS, **options), fingerprint(write, edit(ROWS), **options)) == expected


def test_validation_rows_have_their_entry(write: Callable[[str, str], str]) -> None:
    options = {"max_samples": 3, "seed": 1}
    plain = fingerprint(write, ROWS, **options)
    edited = [fingerprint(write, [*ROWS[:i], ("other", "neg"), *ROWS[i + 1 :]], **options) for i in range(20)]
    found = [frozenset(differing(plain, each)) for each in edited]
    assert found.count(frozenset({"validation"})) == 4  # a fifth of the rows
    assert found.count(frozenset()) == 13  # rows that the stream does not reach


def test_images_are_what_their_files_hold(pictures: Path) -> None:
    def of(folder: Path) -> dict[str, str | int]:
        module = ImageDataModule(str(folder), val_fraction=0)
        module.setup()
        return module.fingerprint()

    moved = Path(shutil.copytree(pictures, pictures.parent / "moved"))
    assert of(moved) == of(pictures)
    Image.new("RGB", (6, 5)).save(moved / "cat" / "3.png")
    assert differing(of(moved), of(pictures)) == {"inputs", "pairs", "order"}


def test_segments_count() -> None:
    def of(**segment: Any) -> dict[str, str | int]:
        module = ChangingDataModule([DigitsDataModule()], [Segment(10), Segment(10, **segment)])
        module.setup()
        return module.fingerprint()

    assert of() == of()
    assert differing(of(), of(rotate=30.0)) == {"order"}
    assert differing(of(), of(permute_labels=1)) >= {"labels", "pairs", "order"}


def test_reading_it_leaves_the_stream_alone() -> None:
    module = DigitsDataModule(max_samples=20)
    module.setup()
    state = torch.get_rng_state()
    before = [batch["row"].item() for batch in module.train_dataloader()]
    module.fingerprint()
    assert [batch["row"].item() for batch in module.train_dataloader()] == before
    assert torch.equal(torch.get_rng_state(), state)
