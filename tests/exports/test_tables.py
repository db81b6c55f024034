"""The columns of the source come back as they were, and each row has the prediction that is its own."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filtune.datamodules import DataError
from filtune.datamodules.source import TextOptions, read_source
from filtune.exports.tables import write_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.datamodules.test_delimited import dialects, tables, written


@dataclass
class Rows:
    """What the writer asks of the rows of a source."""

    path: Path
    left_out: tuple[int, ...] = ()
    options: TextOptions = field(default_factory=TextOptions)

    def __post_init__(self) -> None:
        source = read_source(str(self.path), options=self.options)
        self.file, self.table = source.file, source.splits["train"]
        self.kept = np.setdiff1d(np.arange(len(self.table)), self.left_out)

    def columns(self) -> pa.Table:
        return self.table.data.table.take(pa.array(self.kept))


def predicted(rows: Rows, values: list[Any] | None = None) -> dict[str, list[Any]]:
    return {"prediction": values or [f"class {row}" for row in rows.kept], "probability": [0.25] * len(rows.kept)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), options=dialects(), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_records_are_copied_byte_for_byte(tmp_path: Path, table: list, options: dict, encoding: str) -> None:
    try:
        text, ending = written(table, options)
        path = tmp_path / f"table{ending}"
        path.write_bytes(text.encode(encoding))
        rows = Rows(path)
    except (csv.Error, DataError):  # cannot be written, or is refused
        return
    output = tmp_path / f"output{ending}"
    write_table(rows, predicted(rows), output, ending)  # type: ignore[arg-type]
    found = output.read_bytes().decode(encoding)
    reader = csv.reader(io.StringIO(found, newline=""), **rows.file.dialect.options)  # type: ignore[union-attr]
    records = [record for record in reader if record]
    assert [record[-2:] for record in records[1:]] == [[f"class {i}", "0.25"] for i in range(len(table) - 1)]
    mark = rows.file.dialect.delimiter  # type: ignore[union-attr]
    for i, record in enumerate(rows.file.records()):  # type: ignore[union-attr]
        more = f"{mark}class {i - 1}{mark}0.25" if i else f"{mark}prediction{mark}probability"
        end = next((end for end in ("\r\n", "\n", "\r") if record.text.endswith(end)), "")
        assert f"{record.text.removesuffix(end)}{more}" in found
    assert len(records) == len(table)
    if not options.get("escapechar"):
        assert [record[:-2] for record in records] == table


def test_rows_that_were_left_out_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\r\n007,"a\nb"\r\n\r\n1.10, x\r\n0x1,"say ""hi"""')
    rows = Rows(path, left_out=(1,))
    write_table(rows, predicted(rows, ["p, q", "r"]), tmp_path / "out.csv", ".csv")  # type: ignore[arg-type]
    expected = b'id,text,prediction,probability\r\n007,"a\nb","p, q",0.25\r\n0x1,"say ""hi""",r,0.25\r\n'
    assert (tmp_path / "out.csv").read_bytes() == expected


def test_what_the_dialect_or_the_encoding_has_no_place_for(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\n"x\n')
    rows = Rows(path, options=TextOptions(quoting="none"))
    with pytest.raises(ValueError, match=r"--output: .* cannot be written without quotes .* name a .jsonl or .parquet"):
        write_table(rows, predicted(rows, ["tab\there"]), tmp_path / "out.tsv", ".tsv")  # type: ignore[arg-type]
    path = tmp_path / "a.csv"
    path.write_bytes("text\né\n".encode("latin-1"))
    rows = Rows(path, options=TextOptions(encoding="latin-1"))
    with pytest.raises(ValueError, match=r"--output: '☃' is not in iso8859-1, the encoding of .*a.csv; name a .jsonl"):
        write_table(rows, predicted(rows, ["☃"]), tmp_path / "out.csv", ".csv")  # type: ignore[arg-type]


OBJECTS = [
    '{"text": "é", "id": 1.10, "more": {"x": [1, null]}}',
    "{}",
    '{"id": 12345678901234567890, "text": "\\u00e9"}',
]


def test_objects_are_copied_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n".join(OBJECTS))
    rows = Rows(tmp_path / "a.jsonl")
    write_table(rows, predicted(rows, ["p", "q", "r"]), tmp_path / "out.jsonl", ".jsonl")  # type: ignore[arg-type]
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert lines[0] == OBJECTS[0][:-1] + ', "prediction": "p", "probability": 0.25}'
    assert lines[1] == '{"prediction": "q", "probability": 0.25}'
    assert [json.loads(line)["prediction"] for line in lines] == ["p", "q", "r"]


def test_objects_as_cells_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(OBJECTS))
    rows = Rows(tmp_path / "a.jsonl")
    write_table(rows, predicted(rows, ["p", "q", "r"]), tmp_path / "out.csv", ".csv")  # type: ignore[arg-type]
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [
            ["é", "1.1", '{"x": [1, null]}', "p", "0.25"],
            ["", "", "", "q", "0.25"],
            ["é", "12345678901234567890", "", "r", "0.25"],
        ]


TABLE = pa.table(
    {
        "text": ["a,b", None],
        "when": pa.array([datetime(2020, 1, 2, 3, 4, 5), None], pa.timestamp("us")),
        "share": [0.1234567890123456, float("nan")],
        "size": pa.array([2**60, None], pa.int64()),
        "more": [{"x": [1]}, None],
    }
)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_with_types(tmp_path: Path, ending: str) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    rows = Rows(tmp_path / "a.parquet")
    output = tmp_path / f"out{ending}"
    write_table(rows, predicted(rows, ["p", "q"]), output, ending)  # type: ignore[arg-type]
    if ending == ".parquet":
        found = pq.read_table(output)
        assert found.column_names == [*TABLE.column_names, "prediction", "probability"]
        assert found.slice(0, 1).select(TABLE.column_names).to_pylist() == TABLE.slice(0, 1).to_pylist()
        return
    if ending == ".jsonl":
        first, second = map(json.loads, output.read_text().splitlines())
        expected = {"text": "a,b", "when": "2020-01-02 03:04:05", "share": 0.1234567890123456, "size": 2**60}
        assert first == {**expected, "more": {"x": [1]}, "prediction": "p", "probability": 0.25}
        assert second["share"] is None
        return
    with output.open(newline="") as file:
        _, first, second = csv.reader(file, delimiter="," if ending == ".csv" else "\t")
    expected = ["a,b", "2020-01-02 03:04:05", "0.1234567890123456", str(2**60), '{"x": [1]}', "p", "0.25"]
    assert first == expected
    assert second == ["", "", "nan", "", "", "q", "0.25"]
