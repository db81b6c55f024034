"""What a page says of predictions: by class, confusion matrices, samples with the largest loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filtune.experiments.fields import predictions_fault
from filtune.experiments.records import write_json
from filtune.reports import figures
from filtune.reports.class_tables import Predictions, class_frame, joint_predictions, worst_frame
from filtune.reports.document import assemble
from filtune.reports.formatting import DASH
from filtune.reports.report import main
from filtune.reports.styled import LANGUAGES
from sklearn.metrics import precision_recall_fscore_support

from tests.odd_values import ODD
from tests.reports.test_compare import make_run
from tests.reports.test_render import NASTY, check_md, check_page

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def content(**changes: Any) -> dict[str, Any]:
    """A ``predictions.json`` of two classes."""
    sample = {"loss": 2.0, "position": 7, "label": 0, "predicted": 1, "probability": 0.9, "row": 3, "text": ["a text"]}
    return {"classes": ["no", "yes"], "samples": 10, "confusion": [[4, 1], [2, 3]], "worst": [sample], **changes}


def with_predictions(folder: Path, optimizer: str = "AdamW", seed: int = 0, **changes: Any) -> Path:
    run = make_run(folder, optimizer, seed=seed, lr=0.1)
    write_json(run / "predictions.json", content(**changes))
    return run


def test_precision_recall_and_f1_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, 200), rng.integers(0, 4, 200)  # class 4 is never predicted
    confusion = np.zeros((5, 5), dtype=np.int64)
    np.add.at(confusion, (true, predicted), 1)
    found = Predictions([*"abcde"], confusion, []).scores()
    expected = precision_recall_fscore_support(true, predicted, zero_division=np.nan)[:3]
    assert np.isnan(found[4, 0])
    np.testing.assert_allclose(found, 100 * np.stack(expected, 1), rtol=1e-12)


def test_seeds_are_counted_together_unless_their_classes_differ() -> None:
    found = joint_predictions([(0, content()), (1, content(worst=[{**content()["worst"][0], "loss": 3.0}]))])
    assert found is not None
    assert found.confusion is not None
    assert found.confusion.tolist() == [[8, 2], [4, 6]]
    assert [(sample["loss"], sample["seed"]) for sample in found.worst] == [(3.0, 1), (2.0, 0)]
    assert joint_predictions([(0, content()), (1, content(classes=["no", "maybe"]))]) is None
    assert joint_predictions([]) is None
    many = joint_predictions([(0, content(confusion=None))])
    assert many is not None
    assert many.confusion is None


def test_a_class_without_samples_has_dashes_and_does_not_enter_the_mean() -> None:
    found = Predictions(["a", "b"], np.array([[3, 1], [0, 0]]), [])
    frame = class_frame([("AdamW", found)], LANGUAGES["md"])
    assert frame.loc["b"].tolist() == ["0", f"0.0 (P 0.0, R {DASH})"]
    assert frame.loc["mean of the classes"].tolist() == ["4", "85.7 (P 100.0, R 75.0)"]


def test_samples_show_their_text_their_image_or_their_row() -> None:
    sample = content()["worst"][0]
    plain = {name: value for name, value in sample.items() if name not in ("text", "row")}
    worst = [{**each, "seed": 0} for each in (sample, {**plain, "row": 5, "image": PIXEL}, plain)]
    found = Predictions(["no", "yes"], None, worst)
    assert worst_frame(found, LANGUAGES["md"])["sample"].tolist() == ["a text", "row 5", DASH]
    html = worst_frame(found, LANGUAGES["html"])["sample"].tolist()
    assert html[1] == f'<img alt="row 5" src="data:image/png;base64,{PIXEL}">'
    assert worst_frame(found, LANGUAGES["md"]).iloc[0, 2] == "yes (0.900)"


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save_figure", lambda *_: "<svg></svg>")


@pytest.mark.usefixtures("_undrawn")
def test_the_page_has_classes_confusions_and_worst_samples(tmp_path: Path) -> None:
    for seed in (0, 1):
        with_predictions(tmp_path / "runs" / f"a{seed}", seed=seed)
    with_predictions(tmp_path / "runs" / "b", "LoKO", confusion=[[5, 0], [0, 5]])
    main([str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--formats", "html", "md"])
    page, text = ((tmp_path / "out" / name).read_text() for name in ("index.html", "runs-toy-net.md"))
    check_page(page)
    check_md(text)
    for found in (page, text):
        for words in ("AdamW lr=0.1", "72.7", "a text", "yes (0.900)", "seed 0, row 3", str(tmp_path / "runs" / "a0")):
            assert words in found.replace("\\", "")
    assert page.count('class="shade"') == 8
    assert page.index("a text") > page.index("<details><summary>Samples with the largest loss")


@pytest.mark.usefixtures("_undrawn")
def test_names_of_classes_and_texts_of_a_stranger_are_no_markup(tmp_path: Path) -> None:
    sample = {**content()["worst"][0], "text": [NASTY, "</td>\n| a | b |"]}
    with_predictions(tmp_path / "runs" / "a", classes=[NASTY, "</table>\n# x"], worst=[sample])
    main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    page, text = ((tmp_path / "out" / name).read_text() for name in ("index.html", "runs-toy-net.md"))
    check_page(page)
    check_md(text)
    assert "<script>alert" not in page + text
    assert "\n# x" not in text


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        ("classes is 5, not a list", {"classes": 5}),
        ("classes is 5, not a text", {"classes": [5, "yes"]}),
        ("confusion is 'list', not a row per class", {"confusion": [[1, 2]]}),
        ("confusion is 'list', not a list of a count per class", {"confusion": [[1, 2], [1]]}),
        ("confusion is -1, not a whole number", {"confusion": [[1, -1], [1, 1]]}),
        ("worst.label is 2, not a class", {"worst": [{**content()["worst"][0], "label": 2}]}),
        ("worst.loss is nan, not a finite number", {"worst": [{**content()["worst"][0], "loss": float("nan")}]}),
        ("worst.text is 7, not a text", {"worst": [{**content()["worst"][0], "text": [7]}]}),
        (
            "worst.image is '\"><script>', not a PNG in base64",
            {"worst": [{**content()["worst"][0], "image": '"><script>'}]},
        ),
    ],
)
def test_a_damaged_file_costs_the_predictions_alone(tmp_path: Path, fault: str, changes: dict[str, Any]) -> None:
    run = with_predictions(tmp_path / "runs" / "a", **changes)
    with_predictions(tmp_path / "runs" / "b", "LoKO")
    document = assemble([tmp_path / "runs"], [])
    assert document.left_out == [
        f"{run / 'predictions.json'}: damaged, or no predictions: {fault}: predictions left out"
    ]
    assert [name for name, _ in document.listings[0].predicted] == ["LoKO lr=0.1"]
    assert len(document.listings[0].entries) == 2


@pytest.mark.parametrize("value", ODD)
def test_what_is_something_else_has_a_fault(value: Any) -> None:
    assert predictions_fault(value)
    for name in content():
        if name != "confusion" or value is not None:
            changed = content(**{name: value})
            assert predictions_fault(changed) or (name, value) == ("samples", changed["samples"]) or value in ([], {})


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    run = with_predictions(tmp_path / "runs" / "a")
    text = (run / "predictions.json").read_text().replace('"a text"', '"b text"')
    (run / "predictions.json").write_text(text)
    (line,) = assemble([tmp_path / "runs"], []).left_out
    assert line.endswith("its checksum does not match: predictions left out")
    assert json.loads(text)["classes"] == ["no", "yes"]
