"""The same samples come from a file of any type, a folder laid out like the hub's, or a folder of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from filtune.datamodules import DataError, ImageDataModule, TextDataModule

from tests.datamodules.conftest import rows

RECORDS = [{"a": f"one, {i}", "b": f"two {i}", "label": ("x", "y")[i % 2]} for i in range(10)]


@pytest.fixture(params=["csv", "tsv", "json", "jsonl", "parquet"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The records as a file."""
    path, table = tmp_path / f"pairs.{request.param}", Dataset.from_list(RECORDS)
    if request.param in ("csv", "tsv"):
        table.to_csv(path, sep="," if request.param == "csv" else "\t", index=False)
    elif request.param == "parquet":
        table.to_parquet(path)
    else:
        lines = [json.dumps(record) for record in RECORDS]
        path.write_text("\n".join(lines) if request.param == "jsonl" else f"[{','.join(lines)}]")
    return str(path)


def test_files(pairs: str) -> None:
    module = TextDataModule(pairs, ["a", "b"], batch_size=4, val_fraction=0)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert batch["text"] == [(RECORDS[row]["a"], RECORDS[row]["b"]) for row in batch["row"].tolist()]
    assert batch["label"].tolist() == [row % 2 for row in batch["row"].tolist()]
    assert module.task.classes == ("x", "y")


def test_texts_of_a_csv_file_stay_texts(write: Any) -> None:
    source = write("odd.csv", 'text,label\n007,1\nNA,0\n2020-01-01,1\n" a ""b""\nc ",0\n')
    module = TextDataModule(source, ["text"], batch_size=4, shuffle=False, val_fraction=0)
    module.setup()
    assert next(iter(module.train_dataloader()))["text"] == ["007", "NA", "2020-01-01", ' a "b"\nc ']


@pytest.mark.parametrize(
    ("name", "columns", "outputs"),
    [
        ("sst2", ["sentence"], 2),
        ("cola", ["sentence"], 2),
        ("mrpc", ["sentence1", "sentence2"], 2),
        ("stsb", ["sentence1", "sentence2"], 1),
    ],
)
def test_glue(hub: Path, name: str, columns: list[str], outputs: int) -> None:
    module = TextDataModule(str(hub / "nyu-mll" / "glue"), columns, name=name, batch_size=3)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert (module.task.name, module.task.outputs) == (name, outputs)
    assert len(batch["text"]) == 3
    assert all(isinstance(text, str if len(columns) == 1 else tuple) for text in batch["text"])
    assert batch["label"].dtype == (torch.int64 if outputs > 1 else torch.float32)
    assert sorted(rows(module)) == list(range(256))
    validation = module.val_dataloader()
    assert [row for batch in validation for row in batch["row"].tolist()] == list(range(64))


@pytest.mark.parametrize(
    ("source", "column", "name", "shape"),
    [("ylecun/mnist", "image", None, (1, 28, 28)), ("uoft-cs/cifar10", "img", "plain_text", (3, 32, 32))],
)
def test_images_in_the_layout_of_the_hub(hub: Path, source: str, column: str, name: str | None, shape: tuple) -> None:
    module = ImageDataModule(str(hub / source), column, name=name, val_split="test", max_samples=20)
    module.setup()
    batch = next(iter(module.val_dataloader()))
    assert (module.task.outputs, module.task.image_shape) == (10, shape)
    assert (batch["image"].shape, batch["image"].dtype) == ((64, *shape), torch.uint8)
    assert len(module.train_dataloader()) == 20


def test_a_folder_of_images(pictures: Path) -> None:
    module = ImageDataModule(str(pictures), batch_size=2)
    module.setup()
    assert (module.task.name, module.task.classes, module.task.image_shape) == ("pictures", ("cat", "dog"), (3, 6, 5))
    assert next(iter(module.train_dataloader()))["image"].shape == (2, 3, 6, 5)


def test_a_file_of_paths_of_images(pictures: Path) -> None:
    (pictures / "list.csv").write_text("image,label\ncat/0.png,1\ndog/0.png,2\n")
    module = ImageDataModule(str(pictures / "list.csv"), val_fraction=0)
    module.setup()
    assert module.task.image_shape == (3, 6, 5)


def test_held_out_rows_are_not_in_the_stream(reviews: str) -> None:
    module = TextDataModule(reviews, ["text"], val_fraction=0.25)
    module.setup()
    held_out = [row for batch in module.val_dataloader() for row in batch["row"].tolist()]
    assert len(held_out) == 5
    assert sorted(held_out + rows(module)) == list(range(20))


def test_a_shorter_stream_is_the_beginning_of_the_longer(reviews: str) -> None:
    def stream(**options: Any) -> TextDataModule:
        module = TextDataModule(reviews, ["text"], seed=4, **options)
        module.setup()
        return module

    short = stream(max_samples=6)
    loader = short.train_dataloader()
    first, second = ([batch["row"].item() for batch in loader] for _ in range(2))
    assert first == rows(stream())[:6]
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_seed_is_the_run_s_unless_given(reviews: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    assert TextDataModule(reviews, ["text"]).seed == 11
    assert TextDataModule(reviews, ["text"], seed=2).seed == 2


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("./nowhere", {}, "--data.source: dataset folder not found: ./nowhere"),
        ("a/b/c", {}, "dataset folder not found: a/b/c"),
        ("nowhere.csv", {}, "dataset file not found: nowhere.csv"),
        ("{reviews}", {"name": "sst2"}, "is a file and has no configuration 'sst2'"),
        ("{reviews}", {"split": "test"}, "--data.split: {reviews} has no split 'test'; choose from train"),
        ("{reviews}", {"val_split": "dev"}, "--data.val_split: {reviews} has no split 'dev'; choose from train"),
        (
            "{reviews}",
            {"label_column": "y"},
            "--data.label_column: {reviews} has no column 'y'; choose from text, label",
        ),
        ("{reviews}", {"text_columns": ["t"]}, "--data.text_columns: {reviews} has no column 't'; choose from text"),
    ],
)
def test_what_does_not_exist_is_named(reviews: str, source: str, options: dict, message: str) -> None:
    options = {"text_columns": ["text"], **options}
    with pytest.raises(DataError) as error:
        TextDataModule(source.format(reviews=reviews), **options).setup()
    assert message.format(reviews=reviews) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "", "cannot be read: it is empty"),
        ("a.csv", "text,label\nx,1,2\n", "line 2: 3 fields, where the header has 2"),
        ("a.csv", "text,label\n", "split 'train' has no rows"),
        ("a.jsonl", "{oops\n", "cannot be read: line 1: no JSON object"),
        ("a.parquet", "oops", "cannot be read: Parquet"),
        ("a.xlsx", "oops", "must end in one of .csv, .tsv, .json, .jsonl, .parquet"),
    ],
)
def test_files_that_cannot_be_read(write: Any, file: str, content: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        TextDataModule(write(file, content), ["text"]).setup()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: The directory .* doesn.t contain any data files"):
        TextDataModule(str(tmp_path), ["text"]).setup()


def test_configurations_are_named(hub: Path) -> None:
    source = str(hub / "nyu-mll" / "glue")
    with pytest.raises(DataError, match="needs a configuration; choose from sst2, cola, mrpc, stsb"):
        TextDataModule(source, ["sentence"]).setup()
    with pytest.raises(DataError, match="has no configuration 'qqp'; choose from sst2, cola, mrpc, stsb"):
        TextDataModule(source, ["sentence"], name="qqp").setup()


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("filtune.datamodules.source.HfApi.dataset_info", unreachable)
    with pytest.raises(DataError, match="could not be reached for 'nyu-mll/glue'; name a local folder laid out like"):
        TextDataModule("nyu-mll/glue", ["sentence"], name="sst2").setup()


def test_reading_is_quiet(reviews: str, hub: Path, capfd: pytest.CaptureFixture) -> None:
    bars = datasets.are_progress_bars_disabled()
    ImageDataModule(str(hub / "ylecun" / "mnist"), val_split="test").setup()
    assert capfd.readouterr() == ("", "")
    assert datasets.are_progress_bars_disabled() == bars


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photo/", "dataset folder not found: photo/; did you mean photos?"),
        ("./phtos", "dataset folder not found: ./phtos; did you mean photos?"),
        ("review.csv", "dataset file not found: review.csv; did you mean reviews.csv?"),
        ("elsewhere/", "dataset folder not found: elsewhere/"),
    ],
)
def test_a_misspelt_path_is_no_data_set_of_the_hub(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "reviews.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        TextDataModule(source, ["text"]).setup()
    assert str(error.value) == f"--data.source: {message}"


def test_a_single_image_is_no_source(pictures: Path) -> None:
    image = next((pictures / "cat").iterdir())
    with pytest.raises(DataError) as error:
        ImageDataModule(str(image)).setup()
    assert (
        str(error.value)
        == f"--data.source: {image} is an image, and images are read by folders; name the one that it is in"
    )
