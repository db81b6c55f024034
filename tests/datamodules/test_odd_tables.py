"""Tables that surely do not mean what stands there are read rightly with a word, or refused in one line."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from filtune.datamodules import DataError, ImageDataModule, TextDataModule
from filtune.datamodules.beginnings import BEGINNINGS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.datamodules.conftest import rows


def read(source: str | Path, **options: Any) -> TextDataModule:
    columns = options.pop("text_columns", ["text"])
    module = TextDataModule(str(source), columns, **{"val_fraction": 0, "shuffle": False, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.setup()
    return module


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        read(source, **options)
    assert "\n" not in str(error.value)
    assert re.search("[;:] [a-z]", str(error.value))
    return str(error.value)


def table(labels: list[str], delimiter: str = ",") -> str:
    cells = [f'"{label}"' if delimiter in label else label for label in labels]
    return f"text{delimiter}label\n" + "".join(f"film {i}{delimiter}{cell}\n" for i, cell in enumerate(cells))


Write = Callable[[str, str], str]


@pytest.mark.parametrize(
    "label", ["{},234", "{} 234", "{}.234.000", "{}%", "{} %", "€{}", "${},500.25", "{},5", "{}'000", "({})", "-${}"]
)
def test_numbers_written_for_people_are_no_classes(write: Write, label: str) -> None:
    labels = [label.format(i) for i in range(1, 31)]
    said = refusal(write("a.csv", table(labels)))
    assert "column 'label' has 0 numbers and 30 labels that are none, such as" in said
    assert "digits and a decimal point alone" in said
    assert read(write("a.csv", table(labels)), task="classification").codec.outputs == 30
    said = refusal(write("a.csv", table(labels)), task="regression")
    assert "row 0 (from 0), column 'label': label is not a finite number" in said
    assert "line 2 of the file" in said


@pytest.mark.parametrize("task", ["auto", "regression"])
@pytest.mark.parametrize(
    ("labels", "delimiter", "targets"),
    [
        (["1,234", "2,500"], ";", None),
        (["1,234", "7"], "\t", None),
        (["1.234", "-2.500"], ";", None),
        (["1,234", "2,5"], ";", [1.234, 2.5]),
        (["0,234", "1,500"], ";", [0.234, 1.5]),
        (["1,234", "2500"], ";", [1.234, 2500.0]),
        (["1.234", "2.500"], ",", [1.234, 2.5]),
        (["1.234", "0.500"], ";", [1.234, 0.5]),
    ],
)
def test_thousands_or_decimals(
    write: Write, labels: list[str], delimiter: str, targets: list[float] | None, task: str
) -> None:
    source = write("a.tsv" if delimiter == "\t" else "a.csv", table(labels, delimiter))
    if targets is None:
        assert f"such as '{labels[0]}', of which nothing says whether" in refusal(source, task=task)
    else:
        assert read(source, task=task).part.samples.labels.tolist() == pytest.approx(targets, rel=1e-6)


@pytest.mark.parametrize("labels", [["good", "bad"], ["0", "1"], ["0.5", "1.5"]])
def test_a_header_in_the_middle(write: Write, labels: list[str]) -> None:
    source = write("a.csv", table(labels * 3) + " text,label \n" + "x," + labels[0] + "\n")
    said = refusal(source)
    assert "row 6 (from 0), column 'text': the row repeats the header, line 8 of the file" in said
    module = read(source, on_bad_row="skip")
    assert module.skipped_rows == {"the row repeats the header": 1}
    assert module.task.kind == ("regression" if "." in labels[0] else "classification")
    assert rows(module) == [0, 1, 2, 3, 4, 5, 7]
    assert not module.task.classes or len(module.task.classes) == 2


def test_blanks_around_labels_do_not_count(write: Write) -> None:
    source = write("a.csv", "text, label\nfilm, good\nplot, bad \nactor,bad\n")
    module = read(source)
    assert module.task.classes == ("bad", "good")
    assert module.part.samples.labels.tolist() == [1, 0, 0]
    assert "; blanks around 2 labels left out" in str(module.report())
    assert read(source, classes=["good", "bad"]).part.samples.labels.tolist() == [0, 1, 1]
    assert read(write("b.csv", "text,label\nx, 1\ny,1\nz,0\n")).task.classes == ("0", "1")


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("\uff21", "a")])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_classes_that_differ_in_case_alone(tmp_path: Path, pair: tuple[str, str], kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    data = Dataset.from_dict({"text": ["x", "y", "z"], "label": [*pair, "dog"]})
    {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[kind](str(path))
    said = refusal(path)
    assert "which differ in case, blanks or encoding alone" in said
    assert all(repr(name) in said for name in pair)
    assert len(read(path, classes=[*pair, "dog"]).task.classes) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text_columns": ["label"]}, "--data.text_columns: 'label' is the column of the labels"),
        ({"text_columns": ["text", "text"]}, "--data.text_columns: 'text' is named twice"),
        ({"val_split": "train"}, "--data.val_split: 'train' is the split that is learned from"),
    ],
)
def test_choices_that_teach_nothing(reviews: str, options: dict[str, Any], said: str) -> None:
    assert refusal(reviews, **options).startswith(said)


def test_classes_may_be_written_as_numbers(write: Write) -> None:
    source = write("a.csv", table(["2", "1", "2"]))
    assert read(source, classes=[2, 1]).part.samples.labels.tolist() == [0, 1, 0]
    for value in (True, 1.0, None, ["a"]):
        assert refusal(source, classes=[value, "b"]).startswith(f"--data.classes: {value!r} is no text but a ")


def test_files_that_are_joined_are_named(write: Write, tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv"):
        write(name, table(["x", "y"]))
    assert "; 2 files read as one split 'train' (a.csv, b.csv)" in str(read(tmp_path).report())
    write("train.csv", table(["x", "y"]))
    said = str(read(tmp_path).report())
    assert "2 rows, 2 used" in said
    assert "not read: 2 files of no split (a.csv, b.csv)" in said


@pytest.mark.parametrize(
    "file", ["runs/x/config.yaml", "records/0.json", "films.predictions.csv", "export/adapter_model.safetensors"]
)
def test_what_a_run_wrote_is_no_data(write: Write, tmp_path: Path, file: str) -> None:
    write("films.csv", table(["x", "y"]))
    target = tmp_path / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("text,label\nmore,x\n")
    (target.parent / "summary.json").write_text('{"text": "more", "label": "x"}') if target.suffix == ".yaml" else None
    (tmp_path / "manifests").mkdir()
    assert "files of runs or models (" in refusal(tmp_path)
    assert read(tmp_path / "films.csv").report().rows == 2


NASTY = {
    "long": "x" * 5000,
    "control": "a\x1b]0;title\x07",
    "bidi": "user\u202egnp",
    "lines": "one\ntwo\u2028three",
    "zero width": "pay\u200bpal",
}


@pytest.mark.parametrize("kind", NASTY)
def test_names_of_classes_are_shown_short_and_escaped(tmp_path: Path, kind: str) -> None:
    name = NASTY[kind]
    path = tmp_path / "a.parquet"
    Dataset.from_dict({"text": ["x", "y", "z"], "label": [name, "b", "c"]}).to_parquet(str(path))
    module = read(path)
    assert name in module.task.classes
    said = [str(module.report()), refusal(path, classes=["b", name]), refusal(path, classes=["b", "c"])]
    said.append(refusal(path, label_column=name))
    for line in said:
        assert line.isprintable()
        assert len(line) < 500 + 2 * len(str(tmp_path))


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, beginning: bytes) -> None:
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        path = tmp_path / name
        path.write_bytes(beginning + b"\0\xff" * 99)
        if beginning != b"par1" or path.suffix != ".parquet":
            assert refusal(path) == f"--data.source: {path} is {BEGINNINGS[beginning]}"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_pipe_is_no_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="is a folder, a pipe or a device, where a file is needed"):
        ImageDataModule(str(tmp_path)).setup()


def test_odd_tables_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts, labels = pa.array(["x", "y"]), pa.array([1, 0])
    twice = pa.Table.from_arrays([texts, labels, labels], names=["text", "label", "label"])
    for table, said in ((twice, "has the column 'label' twice"), (twice.select([0, 1])[:0], "has no rows")):
        pq.write_table(table, path)
        assert said in refusal(path)
    decimals = pa.array([Decimal("1.50"), Decimal("2.25")])
    pq.write_table(pa.table({"text": texts.cast(pa.string_view()), "label": decimals}), path)
    assert read(path).part.samples.labels.tolist() == [1.5, 2.25]


@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_of_save_to_disk(tmp_path: Path, splits: bool) -> None:
    table = Dataset.from_dict({"text": ["x", "y", "z"], "label": ["b", "a", "a"]})
    (DatasetDict(train=table, validation=table) if splits else table).save_to_disk(str(tmp_path / "saved"))
    module = read(tmp_path / "saved")
    assert module.part.samples.labels.tolist() == [1, 0, 0]
    assert ("(split 'validation')" in str(module.report())) == splits


def test_a_key_that_is_there_twice(write: Write) -> None:
    source = write("a.jsonl", '{"text": "x", "label": "a"}\n{"text": "y", "label": "b", "label": "a"}\n')
    assert "line 2: no JSON object (the key 'label' is there twice)" in refusal(source)


def test_what_may_be_meant_otherwise_is_said(write: Write) -> None:
    source = write("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y", "label": "1"}\n{"text": "z", "label": null}\n'
                   '{"text": "u", "label": "no"}\n')  # fmt: skip
    said = str(read(source, on_bad_row="skip").report())
    assert "values of several types in label, taken as they are written" in said
    source = write("b.csv", table(["1.0", "0.0", "1.0"]))
    assert "all values are whole, and few: for classes set --data.task classification" in str(read(source).report())


VALUES = st.sampled_from(
    [None, "", " ", "a", "A", "1", "1.5", "1,5", "nan", "e\u0301", "\u202e", "x\ny", "a;b", '["a"]', 0, 1, -1, 2**70,
     0.5, 1e308, float("nan"), float("inf"), True, [], ["a"], [1, 2], [[1]], {}, {"a": 1}, "\ud800", "\0", "x" * 300]
)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({}, optional={"text": VALUES, "label": VALUES}), min_size=1, max_size=5),
    task=st.sampled_from(["auto", "classification", "regression", "count", "multilabel"]),
    skip=st.booleans(),
    kind=st.sampled_from([TextDataModule, ImageDataModule]),
)
def test_any_json_is_read_or_refused(
    tmp_path: Path, rows: list[dict[str, Any]], task: str, skip: bool, kind: Callable[..., Any]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    module = kind(str(path), ["text"] if kind is TextDataModule else "text", task=task, val_fraction=0,
                  on_bad_row="skip" if skip else "error")  # fmt: skip
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module.setup()
            list(module.train_dataloader())
        except DataError as error:
            said = str(error)
    assert (said or str(module.report())).isprintable()


@pytest.mark.parametrize("source", ["x" * 5000, "a\0b.csv", "~nobody_here/x.csv", "/dev/null", "x" * 300 + ".csv"])
def test_a_source_that_cannot_be_a_file(source: str) -> None:
    with pytest.raises(DataError, match=r"^--data.source: "):
        TextDataModule(source, ["text"]).setup()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("configs: [", "cannot be read: "),
        ("configs: 3", "cannot be read: "),
        ("configs:\n- config_name: default\n  data_files: [1]", "cannot be read: "),
        ("configs:\n- config_name: default\n  data_files: [{split: train, path: none.csv}]", "cannot be read: "),
    ],
)
def test_a_readme_that_declares_what_is_not_there(write: Write, tmp_path: Path, head: str, said: str) -> None:
    write("README.md", f"---\n{head}\n---\n")
    write("a.csv", table(["x", "y"]))
    assert said in refusal(tmp_path)


def test_files_of_several_kinds(write: Write, tmp_path: Path) -> None:
    """The library's own parser of JSON crashes on null."""
    write("a.jsonl", "null\n")
    write("b.zip", "PK")
    assert f"has files of several kinds, such as {tmp_path / 'b.zip'}" in refusal(tmp_path)


def test_classes_that_are_never_learned_are_said(write: Write) -> None:
    source = write("a.csv", table(["a", "b", "a"]))
    said = "; 2 classes have no sample in the stream (c, d)"
    assert said in str(read(source, classes=["a", "c", "b", "d"]).report())
    assert "no sample" not in str(read(source).report())
    assert "no sample" not in str(read(source, max_samples=1).report())
