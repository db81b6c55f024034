"""Labels of a file without types: the strings that stand there, numbers where all are, and a refusal in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from filtune.datamodules import DataError, TextDataModule


@pytest.fixture
def table_of(write: Callable[[str, str], str]) -> Callable[..., TextDataModule]:
    """Return the data module of a table with these labels."""

    def table_of(labels: Sequence[str], name: str = "a.csv", delimiter: str = ",", **options: Any) -> TextDataModule:
        rows = "".join(f"film {i}{delimiter}{label}\n" for i, label in enumerate(labels))
        source = write(name, f"text{delimiter}label\n{rows}")
        module = TextDataModule(source, ["text"], **{"val_fraction": 0, "shuffle": False, **options})
        module.setup()
        return module

    return table_of


def values(module: TextDataModule) -> list[float]:
    return module.part.samples.labels.tolist()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["01", "02", "2", "01"], ("01", "02", "2")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["true", "false"], ("false", "true")),
        (["2020-01-01", "2020-01-02"], ("2020-01-01", "2020-01-02")),
        (["NA", "EU"], ("EU", "NA")),
        (["1", "2", "1", "2", "unknown", "1"], ("1", "2", "unknown")),
    ],
)
def test_labels_are_the_strings_that_stand_there(table_of: Any, labels: list[str], classes: tuple) -> None:
    module = table_of(labels)
    assert (module.task.kind, module.task.classes) == ("classification", classes)
    assert [module.task.classes[target] for target in values(module)] == labels
    assert "blanks" not in str(module.report())


def test_given_classes_are_strings(table_of: Any) -> None:
    assert values(table_of(["01", "02", "2"], classes=["01", "02", "2"])) == [0, 1, 2]
    assert table_of(["1.0", "0.0"], task="classification").task.classes == ("0.0", "1.0")


@pytest.mark.parametrize(
    ("labels", "delimiter", "targets"),
    [
        (["0.5", "1", "-2e3"], ",", [0.5, 1.0, -2000.0]),
        (["1,5", "2", "-3,25"], ";", [1.5, 2.0, -3.25]),
        (["+1.5", " 2.0 "], ",", [1.5, 2.0]),
    ],
)
def test_fractions_are_values(table_of: Any, labels: list[str], delimiter: str, targets: list[float]) -> None:
    module = table_of(labels, delimiter=delimiter)
    assert (module.task.kind, values(module)) == ("regression", targets)
    assert f"values from {min(targets):g} to {max(targets):g}" in str(module.report())


def test_integers_may_be_values(table_of: Any) -> None:
    labels = [str(100_000 + 250 * i) for i in range(40)]
    assert values(table_of(labels, task="regression"))[:2] == [100_000.0, 100_250.0]
    module = table_of(labels)
    assert len(module.task.classes) == 40
    assert "nearly every row has a class of its own: for numbers set --data.task regression" in str(module.report())


@pytest.mark.parametrize("odd", ["many", "1.234,50", "12%", "?"])
@pytest.mark.parametrize("number", ["{}.5", "{}"])
def test_one_odd_label_among_numbers_is_named(table_of: Any, odd: str, number: str) -> None:
    labels = [number.format(100 + i) for i in range(30)]
    with pytest.raises(DataError) as error:
        table_of([*labels, f'"{odd}"'])
    message = str(error.value)
    assert f"column 'label' has 30 numbers and 1 labels that are none, such as {odd!r}" in message
    assert "--data.task regression (with --data.on_bad_row skip" in message
    assert "\n" not in message


def test_one_odd_label_among_numbers_of_json(write: Callable[[str, str], str]) -> None:
    rows = [{"text": f"film {i}", "label": i / 4} for i in range(12)] + [{"text": "x", "label": "many"}]
    source = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="has 12 numbers and 1 labels that are none, such as 'many'"):
        TextDataModule(source, ["text"]).setup()


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NULL", "n/a"])
@pytest.mark.parametrize("number", ["1", "1.5"])
def test_a_missing_number_is_a_bad_row(table_of: Any, missing: str, number: str) -> None:
    labels = [number, f"2{number}", missing]
    with pytest.raises(DataError, match=r"row 2 \(from 0\), column 'label': missing label, line 4 of the file"):
        table_of(labels)
    with pytest.warns(UserWarning, match="bad rows left out: 1 "):
        module = table_of(labels, on_bad_row="skip")
    assert module.report().skipped == {"missing label": 1}
