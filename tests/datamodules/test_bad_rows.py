"""A row that cannot be learned from is found before training, and named or left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from filtune.datamodules import DataError, ImageDataModule, TextDataModule
from filtune.datamodules.labels import LabelCodec
from PIL import Image

from tests.datamodules.conftest import rows

GOOD = [{"text": f"text {i}", "label": ("a", "b")[i % 2]} for i in range(6)]
CLASSES = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})


def table(path: Path, *bad: dict[str, Any], features: Features | None = None, good: list[dict] = GOOD) -> str:
    """Good rows 0 to 5, then the bad ones."""
    records = [*good, *bad]
    Dataset.from_list(records, features=features).to_parquet(path / "table.parquet")
    return str(path / "table.parquet")


def refused(module: TextDataModule | ImageDataModule) -> str:
    with pytest.raises(DataError) as error:
        module.setup()
    message = str(error.value)
    assert "\n" not in message
    assert module.source in message
    assert "--data.on_bad_row skip" in message
    return message


@pytest.mark.parametrize(
    ("bad", "column", "reason"),
    [
        ({"text": "x", "label": None}, "label", "missing label"),
        ({"text": "x", "label": "  "}, "label", "missing label"),
        ({"text": None, "label": "a"}, "text", "missing text"),
        ({"text": "", "label": "a"}, "text", "empty text"),
        ({"text": " \t\n", "label": "a"}, "text", "empty text"),
    ],
)
def test_texts(tmp_path: Path, bad: dict, column: str, reason: str) -> None:
    source = table(tmp_path, bad, bad)
    message = refused(TextDataModule(source, ["text"]))
    assert f"split 'train', row 6 (from 0), column '{column}': {reason} (and 1 more bad row)" in message
    module = TextDataModule(source, ["text"], on_bad_row="skip", val_fraction=0)
    with pytest.warns(UserWarning, match=rf"bad rows left out: 2 \(2 {reason}\)"):
        module.setup()
    assert module.skipped_rows == {reason: 2}
    assert sorted(rows(module)) == list(range(6))


def test_a_row_is_counted_once(tmp_path: Path) -> None:
    source = table(tmp_path, {"text": "", "label": None}, {"text": "", "label": "a"})
    module = TextDataModule(source, ["text"], on_bad_row="skip")
    with pytest.warns(UserWarning, match=r"bad rows left out: 2 \(1 empty text, 1 missing label\)"):
        module.setup()
    assert module.skipped_rows == {"missing label": 1, "empty text": 1}


def test_labels_of_declared_classes(tmp_path: Path) -> None:
    good = [{**record, "label": i % 2} for i, record in enumerate(GOOD)]
    unlabelled = table(tmp_path, {"text": "x", "label": -1}, features=CLASSES, good=good)
    assert "row 6 (from 0), column 'label': missing label" in refused(TextDataModule(unlabelled, ["text"]))


def test_labels_outside_the_declared_classes() -> None:
    wide = Dataset.from_dict({"text": ["x"] * 3, "label": [0, 1, 7]})
    wide.info.features = CLASSES
    _, bad_rows = LabelCodec.infer(wide, "label").encode(wide)
    assert [(bad.row, bad.detail) for bad in bad_rows] == [(2, "'number 7'")]


def test_labels_outside_the_given_classes(tmp_path: Path) -> None:
    source = table(tmp_path, {"text": "x", "label": "c"})
    message = refused(TextDataModule(source, ["text"], classes=["b", "a"]))
    assert "row 6 (from 0), column 'label': label not among the classes b, a: 'c'" in message


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (None, "missing label"),
        (float("nan"), "missing label"),
        (float("-inf"), "label is not a finite number: -inf"),
        (1e300, "label is not a finite number: 1e+300"),
    ],
)
def test_values(tmp_path: Path, label: float | None, reason: str) -> None:
    good = [{"text": "x", "label": i / 2} for i in range(6)]
    message = refused(TextDataModule(table(tmp_path, {"text": "x", "label": label}, good=good), ["text"]))
    assert f"row 6 (from 0), column 'label': {reason}" in message


def test_values_that_are_no_numbers(write: Callable[[str, str], str]) -> None:
    source = write("a.csv", "text,label\nx,1\ny,many\nz,\n")
    message = refused(TextDataModule(source, ["text"], task="regression"))
    assert "row 1 (from 0), column 'label': label is not a finite number: 'many' (and 1 more bad row)" in message


def test_missing_integers_of_a_csv_file_leave_the_others_integers(write: Callable[[str, str], str]) -> None:
    source = write("a.csv", "text,label\nx,1\ny,\nz,0\n")
    assert "row 1 (from 0), column 'label': missing label" in refused(TextDataModule(source, ["text"]))
    module = TextDataModule(source, ["text"], on_bad_row="skip", val_fraction=0)
    with pytest.warns(UserWarning, match="bad rows left out: 1 "):
        module.setup()
    assert module.task.classes == ("0", "1")


def test_validation_rows_are_checked_against_the_training_classes(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    Dataset.from_list(GOOD).to_parquet(folder / "train.parquet")
    Dataset.from_list([*GOOD, {"text": "x", "label": "new"}]).to_parquet(folder / "validation.parquet")
    message = refused(TextDataModule(str(folder), ["text"]))
    assert "split 'validation', row 6 (from 0), column 'label': label not among the classes a, b: 'new'" in message


def test_nothing_is_left(tmp_path: Path) -> None:
    source = table(tmp_path, good=[{"text": "", "label": "a"}, {"text": "", "label": "b"}])
    with pytest.raises(DataError, match="no good row is left"):
        TextDataModule(source, ["text"], on_bad_row="skip").setup()


@pytest.fixture
def flawed(pictures: Path) -> Path:
    """Pictures of which row 2 is cut short, row 3 is no image, and row 7 has a NaN."""
    whole = (pictures / "cat" / "2.png").read_bytes()
    (pictures / "cat" / "2.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "cat" / "3.png").write_text("no image")
    pixels = np.ones((6, 5), dtype=np.float32)
    pixels[2, 2] = np.nan
    (pictures / "dog" / "1.png").unlink()
    Image.fromarray(pixels).save(pictures / "dog" / "1.tiff")
    return pictures


def test_images(flawed: Path) -> None:
    message = refused(ImageDataModule(str(flawed), val_fraction=0))
    path = flawed / "cat" / "2.png"
    assert f"row 2 (from 0), column 'image': undecodable image: {path} (image file is truncated) (and 2" in message
    module = ImageDataModule(str(flawed), val_fraction=0, on_bad_row="skip")
    with pytest.warns(UserWarning, match="bad rows left out: 3 "):
        module.setup()
    assert module.skipped_rows == {"undecodable image": 2, "NaN or infinite pixel": 1}
    assert sorted(rows(module)) == [0, 1, 4, 5, 6, 8, 9, 10, 11]


@pytest.mark.filterwarnings("ignore:.*bad rows left out")
def test_a_bad_image_is_replaced_by_the_next_of_the_order(flawed: Path) -> None:
    def stream(source: Path, **options: Any) -> list[int]:
        module = ImageDataModule(str(source), val_fraction=0, seed=1, **options)
        module.setup()
        return rows(module)

    good = [row for row in stream(flawed, verify=True, on_bad_row="skip") if row not in (2, 3, 7)]
    for count in (4, 7):
        assert stream(flawed, on_bad_row="skip", max_samples=count) == good[:count]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_was_not_checked_is_an_error_when_it_comes(flawed: Path, workers: int) -> None:
    module = ImageDataModule(
        str(flawed), val_fraction=0, verify=False, on_bad_row="skip", shuffle=False, num_workers=workers
    )
    module.setup()
    seen = []
    with pytest.raises(DataError) as error:
        seen += [batch["row"].item() for batch in module.train_dataloader()]
    message = str(error.value)
    assert message.startswith(f"{flawed}, split 'train', row 2 (from 0), column 'image': undecodable image")
    assert "--data.verify true" in message
    assert "\n" not in message
