"""A changing stream hands out what its segments say, in an order that the seed fixes, and goes on where it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from filtune.datamodules import ChangingDataModule, DataError, DigitsDataModule, Segment, TextDataModule
from filtune.datamodules.segments import derangement, plan_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate


def ready(*segments: Segment, **options: object) -> ChangingDataModule:
    module = ChangingDataModule(segments=list(segments), **{"seed": 3, "streams": [DigitsDataModule()], **options})
    module.setup()
    return module


def columns(module: ChangingDataModule, name: str) -> list[int]:
    return torch.cat([batch[name] for batch in module.train_dataloader()]).tolist()


def source(seed: int = 3) -> list[tuple[torch.Tensor, int]]:
    """The digits as their own module hands them out."""
    module = DigitsDataModule(seed=seed)
    module.setup()
    return [(batch["image"][0], int(batch["label"])) for batch in module.train_dataloader()]


def test_each_segment_goes_on_with_its_stream_under_its_own_alterations() -> None:
    module = ready(Segment(10), Segment(8, permute_labels=1), Segment(6, rotate=30.0))
    plain, relabel = source(), derangement(10, 1)
    batches = list(module.train_dataloader())
    assert [int(batch["row"]) for batch in batches] == list(range(24))
    assert [int(batch["regime"]) for batch in batches] == [0] * 10 + [1] * 8 + [2] * 6
    for position, batch in enumerate(batches):
        image, label = plain[position]
        expected = int(relabel[label]) if 10 <= position < 18 else label
        assert int(batch["label"]) == expected
        if position < 18:
            assert torch.equal(batch["image"][0], image)
        else:
            assert not torch.equal(batch["image"][0], image)
    assert module.changes == [10, 18]


def test_regimes_recur_with_new_samples() -> None:
    module = ready(Segment(5), Segment(5, permute_labels=2), repeat=3)
    assert columns(module, "regime") == ([0] * 5 + [1] * 5) * 3
    assert module.changes == [5, 10, 15, 20, 25]
    images = [batch["image"].flatten().tolist() for batch in module.train_dataloader()]
    assert len({tuple(image) for image in images}) == 30


def test_a_rotation_may_be_gradual() -> None:
    module = ready(Segment(5, rotate=[0.0, 80.0]))  # a list or a tuple
    plain = source()
    for position, (batch, angle) in enumerate(zip(module.train_dataloader(), [0, 20, 40, 60, 80], strict=True)):
        turned = rotate(plain[position][0], angle, InterpolationMode.BILINEAR) if angle else plain[position][0]
        assert torch.equal(batch["image"][0], turned)


def test_a_gradual_change_draws_from_both() -> None:
    """Of 4,000 samples the first quarter of the fading has 7/8 of the old regime, the last 1/8, within 5 deviations."""
    segments = [Segment(10), Segment(4000, permute_labels=1, gradual=4000)]
    regime = plan_stream(segments, 1, [np.arange(50)], seed=0).regime[10:]
    for quarter, expected in enumerate([7 / 8, 5 / 8, 3 / 8, 1 / 8]):
        share = float((regime[1000 * quarter : 1000 * (quarter + 1)] == 0).mean())
        assert abs(share - expected) < 5 * (expected * (1 - expected) / 1000) ** 0.5


@settings(max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1), st.integers(0, 50)), min_size=1, max_size=5),
    repeat=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_every_row_of_a_stream_comes_as_often_as_every_other(
    lengths: list[tuple[int, int, int]], repeat: int, seed: int
) -> None:
    """To within one: a stream that is used up starts again."""
    segments = [Segment(samples, stream=stream, gradual=gradual) for samples, stream, gradual in lengths]
    orders = [np.arange(7), np.arange(100, 112)]
    laid_out = plan_stream(segments, repeat, orders, seed)
    assert len(laid_out.row) == repeat * sum(samples for samples, _, _ in lengths)
    stream = np.array([segment.stream for segment in segments])[laid_out.regime]
    assert all(set(laid_out.row[stream == k]) <= set(orders[k]) for k in (0, 1))
    for k in (0, 1):
        counts = Counter(laid_out.row[stream == k].tolist())
        times = [counts[row] for row in orders[k].tolist()]
        assert max(times) - min(times) <= 1
    again = plan_stream(segments, repeat, orders, seed)
    assert all(np.array_equal(a, b) for a, b in zip(laid_out, again, strict=True))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_permutation_moves_every_class(classes: int) -> None:
    for seed in range(20):
        permuted = derangement(classes, seed)
        assert sorted(permuted.tolist()) == list(range(classes))
        assert bool((permuted != torch.arange(classes)).all())


def test_validation_is_on_the_last_regime() -> None:
    module = ready(Segment(5), Segment(5, permute_labels=1), max_val_samples=40)
    own = DigitsDataModule(seed=3)
    own.setup()
    rows = module._val.rows
    assert len(rows) == 40
    relabel = derangement(10, 1)
    for position in rows.tolist():
        row = int(own.validation.rows[position])
        assert int(module._val.samples[position]["label"]) == int(relabel[own.validation.samples.labels[row]])


def test_it_goes_on_where_a_checkpoint_left_it() -> None:
    segments = (Segment(6), Segment(6, permute_labels=1, gradual=4), Segment(6, rotate=(0.0, 90.0)))
    whole = [batch["image"] for batch in ready(*segments).train_dataloader()]
    first = ready(*segments)
    stream = iter(first.train_dataloader())
    for _ in range(9):
        next(stream)
    second = ready(*segments)
    second.load_state_dict(first.state_dict())
    rest = [batch["image"] for batch in second.train_dataloader()]
    assert len(rest) == 9
    assert all(torch.equal(a, b) for a, b in zip(whole[9:], rest, strict=True))


def texts(path: Path, labels: list[str], **options: object) -> TextDataModule:
    path.write_text("text,label\n" + "".join(f"text {k},{label}\n" for k, label in enumerate(labels)))
    return TextDataModule(str(path), text_columns=["text"], val_fraction=0.2, **options)


def test_tasks_may_switch(tmp_path: Path) -> None:
    """Classes with other names become numbers; the model has as many outputs as the larger task needs."""
    streams = [texts(tmp_path / "a.csv", ["no", "yes"] * 10), texts(tmp_path / "b.csv", ["x", "y", "z"] * 10)]
    module = ready(Segment(8), Segment(8, stream=1), streams=streams)
    assert (module.task.outputs, module.task.classes) == (3, ("0", "1", "2"))
    assert module.label == "changing-a-b"
    labels = columns(module, "label")
    assert set(labels[:8]) == {0, 1}
    assert set(labels[8:]) == {0, 1, 2}


def test_lists_of_labels_may_switch(tmp_path: Path) -> None:
    """A label that a stream does not have is absent from all of its samples."""
    a, b = ["no;yes", "yes"] * 10, ["x", "y;z", "x;z", "y"] * 5
    streams = [texts(tmp_path / f"{name}.csv", labels, task="multilabel") for name, labels in (("a", a), ("b", b))]
    module = ready(Segment(8), Segment(8, stream=1), streams=streams)
    assert (module.task.outputs, module.task.classes) == (3, ("0", "1", "2"))
    labels = torch.cat([batch["label"] for batch in module.train_dataloader()])
    assert labels.shape == (16, 3)
    assert not labels[:8, 2].any()
    assert labels[8:, 2].any()
    assert next(iter(module.val_dataloader()))["label"].shape[1] == 3


def test_labels_of_a_multilabel_task_are_not_permuted(tmp_path: Path) -> None:
    stream = texts(tmp_path / "a.csv", ["no;yes", "yes"] * 10, task="multilabel")
    with pytest.raises(DataError, match=r"segments\[0\].permute_labels: a has several classes per sample; only"):
        ready(Segment(5, permute_labels=3), streams=[stream])


@pytest.mark.parametrize("large", [0, 1])
def test_targets_are_scaled_if_one_stream_needs_it(tmp_path: Path, large: int) -> None:
    labels = [["0.5", "1.5"] * 10, ["0.5", "1.5"] * 10]
    labels[large] = ["100000.5", "350000.5"] * 10
    streams = [texts(tmp_path / f"{i}.csv", values) for i, values in enumerate(labels)]
    assert ready(Segment(5), Segment(5, stream=1), streams=streams).task.target_scaling
    small = texts(tmp_path / "small.csv", ["0.5", "1.5"] * 10)
    assert not ready(Segment(5), streams=[small]).task.target_scaling


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": []}, "one of each at least"),
        ({"segments": [Segment(0)]}, r"segments\[0\].samples: 0 is too small"),
        ({"segments": [Segment(5), Segment(5, stream=1)]}, r"segments\[1\].stream: there is no stream 1; there are 1"),
        ({"segments": [Segment(5)], "repeat": 0}, "repeat: 0 is too small"),
        ({"segments": [Segment(5, gradual=-1)]}, r"segments\[0\].gradual: -1 is too small"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        ChangingDataModule(**{"streams": [DigitsDataModule()], **options})
    assert "\n" not in str(error.value)


def test_streams_of_two_kinds_are_refused(tmp_path: Path) -> None:
    streams = [DigitsDataModule(), texts(tmp_path / "a.csv", ["no", "yes"] * 10)]
    with pytest.raises(DataError, match=r"streams\[1\]: its modality is text, that of the first stream image"):
        ready(Segment(5), Segment(5, stream=1), streams=streams)


def test_texts_are_not_turned_and_values_not_permuted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"segments\[0\].rotate: a has texts, not images"):
        ready(Segment(5, rotate=3.0), streams=[texts(tmp_path / "a.csv", ["no", "yes"] * 10)])
    with pytest.raises(DataError, match=r"segments\[0\].permute_labels: b has values; only a classification"):
        ready(Segment(5, permute_labels=3), streams=[texts(tmp_path / "b.csv", ["0.5", "1.5"] * 10)])
