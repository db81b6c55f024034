"""``filtune learn`` from data sets of the hub, read from folders in the same layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
from filtune.lightning_modules import signals
from filtune.live.sources import SourceOptions
from filtune.live.sources.hub import HubSource

from filtune.cli import main


def opened(place: Path, query: str = "", state: Any = None) -> HubSource:
    return HubSource(f"hub:{place}{query}", SourceOptions(), state)


@pytest.fixture(autouse=True)
def _no_deferred_signals() -> Any:
    yield
    signals.defer(False)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder of three files, with a class label of which one is missing."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    for part in range(3):
        rows = {"text": [f"text {part} {i}" for i in range(5)], "label": [0, 1, -1, 1, 0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"train-0000{part}-of-00003.parquet")
    return tmp_path


def test_it_goes_on_after_every_row(parts: Path) -> None:
    whole = list(opened(parts))
    assert [row["label"] for row in whole[:5]] == ["ham", "spam", None, "spam", "ham"]
    assert [row["text"] for row in whole] == [f"text {part} {i}" for part in range(3) for i in range(5)]
    source, found = opened(parts), []
    for count in (1, 3, 1, 1, 8, 1, 1):
        found += list(islice(source, count))
        state = json.loads(json.dumps(source.state()))
        assert state["count"] == len(found)
        source = opened(parts, state=state)
    assert found == whole


def test_a_signal_within_a_row_loses_none(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(parts)
    list(islice(source, 3))

    def stopped(row: Any) -> Any:
        raise signals.Stopped(15)

    monkeypatch.setattr(source, "_named", stopped)
    with pytest.raises(SystemExit):
        next(iter(source))
    assert next(iter(opened(parts, state=source.state())))["text"] == "text 0 3"


def test_texts_of_a_folder_of_the_hub(tmp_path: Path, tiny_glue: Path, tiny_bert: Path) -> None:
    """Names of classes as in ``fit``, pairs of texts, and the state of one run after two."""
    config = tmp_path / "own.yaml"
    config.write_text(
        f"model: {{backbone: {{name: {tiny_bert}, adapter: head}}}}\noptimizer: {{class_path: filtune.AdamW}}"
    )
    table = datasets.load_dataset(str(tiny_glue), "mrpc", split="test", streaming=True)
    few = datasets.Dataset.from_list(list(table.take(6)), features=table.features)
    (tmp_path / "pairs").mkdir()
    few.to_parquet(tmp_path / "pairs" / "test.parquet")

    def learn(name: str) -> None:
        main(
            ["learn", "--config", str(config), "--classes", "not_equivalent", "equivalent", "--columns", "sentence1",
             "sentence2", "--state", str(tmp_path / f"{name}.ckpt"), "--input", f"hub:{tmp_path}/pairs?split=test",
             "--output", str(tmp_path / name)]
        )  # fmt: skip

    learn("a")
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert [row["label"] for row in rows] == [table.features["label"].names[i] for i in few["label"]]
    assert all(row["learned"] for row in rows)
    learn("a")
    assert len((tmp_path / "a").read_text().splitlines()) == len(rows)


def test_images(tiny_mnist: Path) -> None:
    row = next(iter(opened(tiny_mnist)))
    assert row["image"].startswith(b"\x89PNG")
    assert row["label"] == "5"


def test_refusals(parts: Path, tiny_glue: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    start = ["learn", "--state", str(tmp_path / "s.ckpt"), "--config", "quickstart", "--input"]
    for address, words in [
        (f"hub:{tiny_glue}", "append ?config=NAME&split=NAME"),
        (f"hub:{tiny_glue}?config=no", "not found. Available: ["),
        (f"hub:{tiny_glue}?config=mrpc&split=no", "Bad split: no"),
        (f"hub:{tiny_glue}?colour=red", "there is no option 'colour'; it has config, split, revision"),
        ("hub:no/such/folder", "there is no such folder"),
        ("hub:owner/name", "name a local folder laid out like the hub's"),
    ]:
        assert words in refused(*start, address)
    assert "a data set has an end" in refused(*start, f"hub:{parts}", "--follow")
    state = opened(parts).state()
    (parts / "train-00002-of-00003.parquet").write_bytes((parts / "train-00001-of-00003.parquet").read_bytes())
    with pytest.raises(ValueError, match="is not the data that the state has read"):
        opened(parts, state=state)
