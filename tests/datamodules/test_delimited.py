"""Delimited text files: each row is read once whatever the dialect, or the line that stands against it is named."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filtune.datamodules import DataError, TextDataModule
from filtune.datamodules.delimited import DelimitedFile
from filtune.datamodules.source import TextOptions, read_source
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text("a\",;\t\n\r\\ |'", max_size=6)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tables(draw: Any) -> list[list[str]]:
    """A header of distinct plain names, and rows of any cells."""
    width = draw(st.integers(1, 3))
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=6))
    return [["text", "label", "third"][:width], *rows]


@st.composite
def dialects(draw: Any) -> dict[str, Any]:
    """Any of csv's registered dialects, or one made of its parts."""
    if draw(st.booleans()):
        return {"dialect": draw(st.sampled_from(["excel", "excel-tab", "unix"]))}
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE]))
    escaped = quoting == csv.QUOTE_NONE or draw(st.booleans())
    return {
        "delimiter": draw(st.sampled_from(",;\t|")),
        "quoting": quoting,
        "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "doublequote": not escaped,
        "escapechar": "\\" if escaped else None,
    }


def written(table: list[list[str]], options: dict[str, Any]) -> tuple[str, str]:
    """Return what csv writes of a table, and the ending of the file."""
    # a line feed ends a line with or without a carriage return: one that csv left unquoted before it is no cell's
    ends = options.get("lineterminator") == "\n" and options.get("quoting") != csv.QUOTE_ALL
    assume(not (ends and any(row[-1].endswith("\r") for row in table)))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, **options)
    writer.writerows(table)
    return buffer.getvalue(), ".tsv" if writer.dialect.delimiter == "\t" else ".csv"


def opened(path: Path) -> DelimitedFile | str:
    """Return the file, or the error."""
    try:
        return DelimitedFile(path)
    except DataError as error:
        return str(error)


@SETTINGS
@given(table=tables(), options=dialects())
def test_each_row_is_read_once_or_its_line_is_named(tmp_path: Path, table: list, options: dict) -> None:
    try:
        text, ending = written(table, options)
    except csv.Error:  # no such file can be written
        return
    path = tmp_path / f"table{ending}"
    path.write_bytes(text.encode())
    file = opened(path)
    if isinstance(file, str):
        assert "line " in file
        return
    rows = [list(row.values()) for row in file.table().to_pylist()]
    assert len(rows) == len(table) - 1
    standard = not options.get("escapechar")
    if standard:
        assert rows == table[1:]
    records = list(file.records())
    assert "".join(record.text for record in records).replace("\r", "").replace("\n", "") == text.replace(
        "\r", ""
    ).replace("\n", "")


@SETTINGS
@given(table=tables(), dialect=st.sampled_from(["excel", "excel-tab", "unix"]))
def test_the_registered_dialects_are_read_but_for_two_meanings(tmp_path: Path, table: list, dialect: str) -> None:
    """Refused is only what is also a table without quoting, which has other rows."""
    text, ending = written(table, {"dialect": dialect})
    path = tmp_path / f"table{ending}"
    path.write_bytes(text.encode())
    rows = [list(row.values()) for row in DelimitedFile(path, quoting="doubled").table().to_pylist()]
    assert rows == table[1:]
    refused = opened(path)
    if isinstance(refused, str):
        assert "can be read in two ways" in refused


@settings(SETTINGS, max_examples=50)
@given(
    rows=st.lists(st.tuples(CELLS, st.sampled_from(["a", "b", "01", "1", "", "x,y"])), min_size=1, max_size=6),
    dialect=st.sampled_from(["excel", "excel-tab", "unix"]),
)
def test_the_stream_has_each_good_row_once(tmp_path: Path, rows: list, dialect: str) -> None:
    text, ending = written([["text", "label"], ["first", "a"], ["second", "b"], *rows], {"dialect": dialect})
    path = tmp_path / f"table{ending}"
    path.write_bytes(text.encode())
    if isinstance(opened(path), str):
        return
    module = TextDataModule(str(path), ["text"], on_bad_row="skip", val_fraction=0, task="classification")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.setup()
    good = {i: row for i, row in enumerate([("first", "a"), ("second", "b"), *rows]) if row[0].strip() and row[1]}
    found = {row: (module.part.samples.read(row), module.task.classes[label]) for row, label in stream(module)}
    assert found == good
    assert module.report().rows == 2 + len(rows) == len(good) + sum(module.skipped_rows.values())


def stream(module: TextDataModule) -> list[tuple[int, int]]:
    """Return row and target of every sample of an epoch."""
    return [(int(batch["row"]), int(batch["label"])) for batch in module.train_dataloader()]


def cells(path: Path | str, **options: Any) -> list[tuple[str, ...]]:
    """The header and the rows of a file."""
    table = read_source(str(path), options=TextOptions(**options)).splits["train"]
    return [tuple(table.column_names), *(tuple(row.values()) for row in table)]


LITERAL = "text\tlabel\n" + "".join(f"{'QUOTE' if i in (5, 20) else ''}film {i}\tpos\n" for i in range(40))


@pytest.mark.parametrize("quote", ['"', "'", '""', '"x" '])
def test_quotes_that_open_no_field_are_characters_in_a_tsv(write: Callable[[str, str], str], quote: str) -> None:
    rows = cells(write("quotes.tsv", LITERAL.replace("QUOTE", quote)))
    assert len(rows) == 41
    assert rows[6] == (f"{quote}film 5", "pos")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", 'text,label\nx,1\n"film,1\ny,2\n', "line 3: a quote opens a field here that no quote closes"),
        ("a.csv", 'text,label\n"good" film,1\n', "line 2: a quoted field goes on behind its closing quote"),
        ("a.csv", "text,label\nx,1\ny,2,3\n", "line 3: 3 fields, where the header has 2"),
        ("a.csv", 'text,label\n"a\nb",1\ny\n', "line 4: 1 fields, where the header has 2"),
        ("a.tsv", 'text\tlabel\n"x\t1\ny\n', "line 3: 1 fields, where the header has 2"),
        ("a.csv", "text,label\nx\ry,1\n", "line 2: a field without quotes has a carriage return"),
        ("a.csv", 'text,label\n"x,1\ny,2\nz",3\n', "line 2: its quotes can be read in two ways: set --data.quoting"),
        (
            "a.tsv",
            'text\tlabel\nw\t0\n"x\t1\ny\t2\nz"\t3\n',
            "line 3: its quotes can be read in two ways: set --data.quoting",
        ),
        ("a.tsv", 'text\tlabel\n"x\t1 \ny\t2\nz"\t3\n', "line 2: its quotes can be read in two ways"),
        ("a.csv", "\n \n", "it is empty"),
        (
            "a.csv",
            "sep=;\ntext;label\nx;1\n",
            "line 1 is not the header but a note of Excel's, 'sep=;'; delete the line",
        ),
        ("a.csv", "text,text\nx,y\n", "has the column 'text' more than once"),
    ],
)
def test_the_line_is_named(write: Callable[[str, str], str], name: str, text: str, message: str) -> None:
    path = write(name, text)
    with pytest.raises(DataError) as error:
        TextDataModule(path, ["text"]).setup()
    assert message in str(error.value)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['a "plot",\nNA', "Dear John,\nhi", "good, bad\nand so on", "1,\n2,3\n4"])
def test_texts_of_several_lines_are_no_rows(write: Callable[[str, str], str], text: str) -> None:
    """Even where every line has as many commas as a row."""
    table = [["text", "label"], ["x", "1"], [text, "2"], ["y", "1"]]
    assert cells(write("a.csv", written(table, {"dialect": "unix"})[0]))[1:] == [tuple(row) for row in table[1:]]
    assert cells(write("a.csv", written(table, {"dialect": "excel"})[0]))[2] == (text, "2")


def test_quoting_settles_what_can_be_read_in_two_ways(write: Callable[[str, str], str]) -> None:
    path = write("a.csv", 'text,label\n"x,1\ny,2\nz",3\n')
    assert cells(path, quoting="doubled")[1:] == [("x,1\ny,2\nz", "3")]
    assert cells(path, quoting="none")[1:] == [('"x', "1"), ("y", "2"), ('z"', "3")]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_that_of_the_header(write: Callable[[str, str], str], delimiter: str) -> None:
    text = f"text{delimiter}label\none, two{delimiter}1,5\n"
    assert cells(write("a.csv", text)) == [("text", "label"), ("one, two", "1,5")]


@pytest.mark.parametrize(
    ("name", "quoting"), [("a.tsv", "none"), ("a.tsv", "doubled"), ("a.csv", "doubled"), ("a.csv", "backslash")]
)
def test_real_texts_with_quotes(hub: Path, tmp_path: Path, name: str, quoting: str) -> None:
    """MRPC, whose sentences begin with quotes or end with them: without quoting, and as csv writes it."""
    source = read_source(str(hub / "nyu-mll" / "glue"), "mrpc").splits["train"]
    table = [[str(value) for value in row.values()] for row in source]
    delimiter = "\t" if name == "a.tsv" else ","
    lines = "".join(f"{delimiter.join(row)}\n" for row in [source.column_names, *table])
    options = {"doublequote": quoting == "doubled", "escapechar": "\\" if quoting == "backslash" else None}
    text = (
        lines if quoting == "none" else written([source.column_names, *table], {"delimiter": delimiter, **options})[0]
    )
    (tmp_path / name).write_text(text, newline="")
    file = DelimitedFile(tmp_path / name)
    assert file.dialect.quoting == quoting
    assert [list(row.values()) for row in file.table().to_pylist()] == table


TABLE = [("text", "label"), ("é ü", "1"), ("naïve, plain", "2")]
TEXT = 'text,label\né ü,1\n"naïve, plain",2\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT.encode(encoding))
    assert cells(tmp_path / "a.csv") == TABLE


def test_another_encoding_is_named_and_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT.encode("latin-1"))
    with pytest.raises(DataError, match=r"a.csv, line 2: the byte 0xe9 is not utf-8; .* --data.encoding latin-1"):
        cells(tmp_path / "a.csv")
    assert cells(tmp_path / "a.csv", encoding="latin-1") == TABLE
    (tmp_path / "b.csv").write_bytes(TEXT.encode("utf-16-le"))
    with pytest.raises(DataError, match="--data.encoding: .*"):
        cells(tmp_path / "b.csv")
    assert cells(tmp_path / "b.csv", encoding="utf-16-le") == TABLE
    for unknown in ("klingon", "hex"):
        with pytest.raises(DataError, match=f"--data.encoding: there is no encoding '{unknown}'"):
            cells(tmp_path / "a.csv", encoding=unknown)


@pytest.mark.parametrize(("ending", "open_"), [(".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open)])
def test_compressed_files(tmp_path: Path, ending: str, open_: Any) -> None:
    path = tmp_path / f"A.CSV{ending}"
    with open_(path, "wb") as file:
        file.write(TEXT.encode())
    assert cells(path) == TABLE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"A.CSV\.\w+ (is damaged|cannot be read)"):
        cells(path)


def test_cells_are_of_any_length_and_types_are_not_guessed(write: Callable[[str, str], str]) -> None:
    long = "x" * 200_000
    text = f"id,text,when\n007,{long},2020-01-01\n1.10,NA,true\n"
    assert cells(write("a.csv", text))[1:] == [("007", long, "2020-01-01"), ("1.10", "NA", "true")]
    assert csv.field_size_limit() < 200_000
