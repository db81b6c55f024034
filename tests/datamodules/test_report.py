"""The data that were read are reported: in one line, and as the entry ``data`` of summary.json."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from datasets import Dataset
from filtune.datamodules import DataError, DigitsDataModule, ImageDataModule, TextDataModule


def test_a_table(write: Callable[[str, str], str]) -> None:
    rows = "".join(f"film {i},{'pos' if i % 2 else 'neg'}\n" for i in range(40))
    source = write("films.csv", f"text,label\n{rows},pos\nx,\n")
    module = TextDataModule(source, ["text"], max_samples=30, on_bad_row="skip")
    with pytest.warns(UserWarning, match="bad rows left out"):
        module.setup()
    line = (
        f"data {source}: 42 rows, 30 used, 2 skipped (1 empty text, 1 missing label); classification, 2 classes (neg, "
        "pos); 4 rows for validation (no split 'validation', val_fraction 0.1 of 40 rows)"
    )
    assert str(module.report()) == line
    entry = module.report().to_dict()
    assert entry == json.loads(json.dumps(entry))
    assert entry == {
        "source": source,
        "rows": 42,
        "rows_used": 30,
        "rows_skipped": {"missing label": 1, "empty text": 1},
        "kind": "classification",
        "classes": ["neg", "pos"],
        "rows_held_out": 4,
        "held_out": "no split 'validation', val_fraction 0.1 of 40 rows",
        "notes": [],
    }


def test_digits() -> None:
    module = DigitsDataModule(max_samples=40)
    module.setup()
    assert str(module.report()).startswith("data digits: 1797 rows, 40 used, none skipped; classification, 10 classes")


@pytest.mark.parametrize(
    ("fraction", "message"),
    [(0.99, "--data.val_fraction: 0.99 of the 20 good rows of .* leaves none to learn from"), (0.9, None)],
)
def test_too_large_a_fraction(reviews: str, fraction: float, message: str | None) -> None:
    module = TextDataModule(reviews, ["text"], val_fraction=fraction)
    if message is None:
        module.setup()
        assert module.sizes == {"train_rows": 20, "val_rows": 18}
        return
    with pytest.raises(DataError, match=message):
        module.setup()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "cannot be read: it is empty"),
        ("a.jsonl", "\n", "cannot be read: it is empty"),
        ("a.csv", "text,label\n", "split 'train' has no rows"),
        ("a.csv", "text,label\nx,a\ny,a\n", "--data.label_column: .* column 'label' has a; choose another column"),
    ],
)
def test_nothing_to_learn_from(write: Callable[[str, str], str], name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TextDataModule(write(name, text), ["text"]).setup()


@pytest.mark.parametrize("header", [" text , label", '" text"," label"', "\ufefftext,label", "text,label ,"])
def test_blanks_in_a_header(write: Callable[[str, str], str], header: str) -> None:
    more = "," if header.endswith(",") else ""
    module = TextDataModule(write("a.csv", f"{header}\nx,a{more}\ny,b{more}\n"), ["text"], val_fraction=0)
    module.setup()
    assert module.task.classes == ("a", "b")


def test_a_folder_of_tables_has_a_name(write: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(write("train.csv", "text,label\na,01\nb,2\nc,1\n")).parent
    write("test.csv", "text,label\nd,2\n")
    write("more.csv", "text,label\ne,2\n")
    monkeypatch.chdir(folder)
    module = TextDataModule(".", ["text"], val_split="test")
    module.setup()
    assert (module.label, module.task.classes) == (folder.name, ("01", "1", "2"))
    assert module.sizes == {"train_rows": 3, "val_rows": 1}
    assert "not read: 1 files of no split (more.csv): their names decide that" in str(module.report())
    with pytest.raises(DataError, match=r"\. \(train.csv, test.csv\) has no column 'title'; choose from text, label"):
        TextDataModule(".", ["title"]).setup()
    with pytest.raises(DataError, match="--data.source: it is empty"):
        TextDataModule("", ["text"]).setup()


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_changed_data_is_read_though_its_time_and_size_are_the_same(tmp_path: Path, ending: str, folder: bool) -> None:
    path = tmp_path / f"train.{ending}"

    def texts(text: str) -> list[str]:
        table = Dataset.from_dict({"text": [text] * 3, "label": ["a", "b", "a"]})
        getattr(table, {"jsonl": "to_json", "csv": "to_csv", "parquet": "to_parquet"}[ending])(path)
        os.utime(path, (1e9, 1e9))
        module = TextDataModule(str(tmp_path if folder else path), ["text"], val_fraction=0)
        module.setup()
        return [module.part.samples.read(row) for row in range(3)]

    assert texts("one") == ["one"] * 3
    size = path.stat().st_size
    assert texts("two") == ["two"] * 3
    assert path.stat().st_size == size


def test_a_cache_that_cannot_be_written(tmp_path: Path, reviews: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    TextDataModule(reviews, ["text"]).setup()  # which needs none
    path = tmp_path / "a.parquet"
    Dataset.from_dict({"text": ["x", "y"], "label": ["a", "b"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"HF_DATASETS_CACHE: the cache folder .*file/cache cannot be written \(Not a"):
        TextDataModule(str(path), ["text"]).setup()


@pytest.mark.parametrize("name", ["a.ndjson", "A.JSONL", "a.json"])
def test_json_lines(write: Callable[[str, str], str], name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "2020-01-01", "label": "a", "more": {"x": [1]}},
        {"text": "y", "label": "b", "more": 1},
    ]
    module = TextDataModule(write(name, "\n\n".join(map(json.dumps, rows))), ["text"], val_fraction=0, shuffle=False)
    module.setup()
    assert [module.part.samples.read(row) for row in range(2)] == ["2020-01-01", "y"]


@pytest.mark.parametrize("line", ["{oops", "[1]", "3", '{"text": 1', "nul", '{"text": "\\ud800"}'])
def test_bad_lines_of_json_are_named(write: Callable[[str, str], str], line: str) -> None:
    path = write("a.jsonl", f'{{"text": "x", "label": "a"}}\n{line}\n')
    with pytest.raises(DataError) as error:
        TextDataModule(path, ["text"]).setup()
    assert path in str(error.value)
    assert "line 2" in str(error.value) or "column 'text' has half of a surrogate pair" in str(error.value)


def test_declared_classes_may_be_many(pictures: Path) -> None:
    """Folders of images, and classes that the data declares, are no numbers that were taken for classes."""
    for k in range(12):
        (pictures / f"kind {k}").mkdir()
        shutil.copy(next((pictures / "cat").iterdir()), pictures / f"kind {k}")
    module = ImageDataModule(str(pictures), max_samples=14, val_fraction=0.0)
    module.setup()
    assert len(module.task.classes) == 14
    assert "class of its own" not in str(module.report())


def test_a_validation_without_samples_is_refused(reviews: str) -> None:
    """A run goes on without one; the command that is nothing else does not end as if it had scored something."""
    module = TextDataModule(reviews, text_columns=["text"], val_fraction=0.0)
    module.setup()
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"), world_size=1, global_rank=0)
    module.trainer = trainer
    assert module.val_dataloader() == []
    trainer.state.fn = "validate"
    with pytest.raises(DataError, match=r"^--data: there are no validation .*val_fraction 0 of 20 rows\); name"):
        module.val_dataloader()
