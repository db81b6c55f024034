"""What a run keeps of its predictions: counts by class, and the samples of the largest loss."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.lightning_modules.callbacks.summary import RunSummary
from filtune.lightning_modules.predictions import PENDING, TEXT, WORST, PredictionLog, thumbnail
from filtune.optimizers.likelihoods.categorical import Categorical
from PIL import Image


class Texts:
    """A stream whose samples have their position as text."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels

    def sample_at(self, position: int) -> dict[str, Any]:
        return {"text": f"text {position}", "label": self.labels[position], "row": 1000 + position}


def outputs_and_labels(samples: int = 3 * PENDING + 5, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(samples, classes, generator=rng), torch.randint(classes, (samples,), generator=rng)


def feed(log: PredictionLog, outputs: torch.Tensor, labels: torch.Tensor, size: int = 1) -> None:
    for part, target in zip(outputs.split(size), labels.split(size), strict=True):
        log.update(Categorical(part).observe(target))


@pytest.mark.parametrize("size", [1, 7])
def test_counts_and_worst_samples_are_those_of_all_predictions(size: int) -> None:
    outputs, labels = outputs_and_labels()
    log = PredictionLog(4, True)
    feed(log, outputs, labels, size)
    found = log.results(Texts(labels))
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, predicted in zip(labels, outputs.argmax(1), strict=True):
        expected[label, predicted] += 1
    assert found["confusion"] == expected.tolist()
    losses = torch.nn.functional.cross_entropy(outputs.double(), labels, reduction="none")
    order = losses.argsort(descending=True)[:WORST]
    assert [each["position"] for each in found["worst"]] == (order + 1).tolist()
    assert [each["loss"] for each in found["worst"]] == losses[order].tolist()
    first, at = found["worst"][0], int(order[0])
    assert (first["label"], first["predicted"]) == (int(labels[at]), int(outputs[at].argmax()))
    assert first["probability"] == pytest.approx(float(outputs[at].double().softmax(0).max()), abs=1e-12)
    assert (first["row"], first["text"]) == (1000 + at, [f"text {at}"])
    assert found["samples"] == len(labels)


def test_a_resumed_log_is_that_of_the_whole_run() -> None:
    outputs, labels = outputs_and_labels()
    whole, before, after = (PredictionLog(4, True) for _ in range(3))
    feed(whole, outputs, labels)
    feed(before, outputs[:70], labels[:70])
    after.load(before.state())
    feed(after, outputs[70:], labels[70:])
    assert after.results(Texts(labels)) == whole.results(Texts(labels))


def test_a_checkpoint_of_an_earlier_release_has_the_number_of_samples_alone() -> None:
    outputs, labels = outputs_and_labels()
    log = PredictionLog(4, True)
    log.load({"samples": 70})
    feed(log, outputs[70:], labels[70:])
    found = log.results(Texts(labels))
    assert sum(map(sum, found["confusion"])) == len(labels) - 70
    assert min(each["position"] for each in found["worst"]) > 70
    assert all(each["text"] == [f"text {each['position'] - 1}"] for each in found["worst"])


def test_predictions_that_are_not_finite_are_left_out_and_keep_their_position() -> None:
    outputs, labels = outputs_and_labels(10)
    outputs[3] = float("nan")
    log = PredictionLog(4, False)
    feed(log, outputs, labels)
    found = log.results(Texts(labels))
    assert found["confusion"] is None
    assert sorted(each["position"] for each in found["worst"]) == [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_a_sample_that_cannot_be_shown_is_named_all_the_same() -> None:
    """Another label at its place, a stream that gives nothing, and one that fails."""

    class Gone(Texts):
        def sample_at(self, position: int) -> dict[str, Any]:
            raise OSError(position)

    outputs, labels = outputs_and_labels(5)
    log = PredictionLog(4, True)
    feed(log, outputs, labels)
    for stream in (Texts((labels + 1) % 4), Gone(labels), object()):
        found = log.results(stream)["worst"]  # type: ignore[arg-type]
        assert len(found) == 5
        assert not any({"row", "text", "image"} & each.keys() for each in found)
        json.dumps(found)


def test_long_texts_are_cut_and_pairs_stay_pairs() -> None:
    class Pairs(Texts):
        def sample_at(self, position: int) -> dict[str, Any]:
            return {**super().sample_at(position), "text": ("a" * 5000, "b")}

    outputs, labels = outputs_and_labels(1)
    log = PredictionLog(4, True)
    feed(log, outputs, labels)
    assert log.results(Pairs(labels))["worst"][0]["text"] == ["a" * TEXT, "b"]


@pytest.mark.parametrize("image", [
    torch.zeros(1, 8, 8, dtype=torch.uint8), torch.rand(3, 300, 200), torch.rand(4, 32, 32), torch.rand(2, 9, 9),
])  # fmt: skip
def test_thumbnails_are_small_pictures(image: torch.Tensor) -> None:
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(image)))) as picture:
        assert picture.format == "PNG"
        assert max(picture.size) == min(64, max(image.shape[1:]))


def test_no_sample_is_shown_where_none_is_wanted(tmp_path: Path) -> None:
    outputs, labels = outputs_and_labels()
    log = PredictionLog(4, True)
    feed(log, outputs, labels)
    found = log.results(Texts(labels), 0)
    assert found["worst"] == []
    assert sum(map(sum, found["confusion"])) == len(labels)
    with pytest.raises(ValueError, match=r"run\.worst_samples: must be between 0 and 12, got 13"):
        RunSummary(tmp_path, "SGD", {"run": {"worst_samples": 13}})
