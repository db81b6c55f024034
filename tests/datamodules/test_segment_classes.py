"""Segments of some classes alone, and validation on all segments."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from filtune.datamodules import (
    ChangingDataModule,
    DataError,
    DigitsDataModule,
    ImageDataModule,
    Segment,
    TextDataModule,
)
from filtune.datamodules.segments import derangement, plan_stream
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image


def ready(*segments: Segment, **options: object) -> ChangingDataModule:
    module = ChangingDataModule(segments=list(segments), **{"seed": 3, "streams": [DigitsDataModule()], **options})
    module.setup()
    return module


def labels_and_rows(module: ChangingDataModule) -> tuple[list[int], list[int]]:
    samples = module.part.samples
    return [int(samples[i]["label"]) for i in range(len(samples))], samples.plan.row.tolist()


SETS = st.one_of(st.none(), st.sets(st.integers(0, 3), min_size=1))


@given(
    pieces=st.lists(st.tuples(st.integers(1, 25), SETS, st.integers(0, 10)), min_size=1, max_size=5),
    rest=st.lists(st.integers(0, 3), max_size=16),
    repeat=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_each_position_has_the_next_sample_of_its_classes(
    pieces: list[tuple[int, set[int] | None, int]], rest: list[int], repeat: int, seed: int
) -> None:
    """The next of the order that has come least often; so none comes twice before all of its classes have come."""
    labels = np.array([0, 1, 2, 3, *rest])
    order = np.random.default_rng(seed).permutation(len(labels)) + 100
    segments = [Segment(n, classes=None if c is None else sorted(c), gradual=g) for n, c, g in pieces]
    allowed = [None if c is None else np.isin(labels[order - 100], list(c)) for _, c, _ in pieces]
    plan = plan_stream(segments, repeat, [order], seed, allowed)
    counts: Counter[int] = Counter()
    place = {row: index for index, row in enumerate(order.tolist())}
    for regime, row in zip(plan.regime.tolist(), plan.row.tolist(), strict=True):
        may = order if allowed[regime] is None else order[allowed[regime]]
        assert row in may
        fewest = min(counts[each] for each in may.tolist())
        assert counts[row] == fewest
        if not fewest:  # the first pass keeps the order
            assert place[row] == min(place[each] for each in may.tolist() if not counts[each])
        counts[row] += 1


def test_a_plan_without_classes_is_that_of_earlier_releases() -> None:
    order = np.arange(7)[::-1]
    row = plan_stream([Segment(4), Segment(12)], 1, [order], seed=5).row
    again = [order[np.random.default_rng([5, epoch]).permutation(7)] for epoch in (1, 2)]
    assert row.tolist() == np.concatenate([order, *again])[:16].tolist()
    assert repr(Segment(4)) == "Segment(samples=4, stream=0, permute_labels=None, rotate=0.0, gradual=0)"


def test_classes_come_one_after_another_in_the_order_of_the_stream() -> None:
    own = DigitsDataModule(seed=3)
    own.setup()
    order, digits = own.part.rows, own.part.targets().tolist()
    module = ready(Segment(20, classes=[0, 1]), Segment(20, classes=["2"]), Segment(20))
    labels, rows = labels_and_rows(module)
    assert set(labels[:20]) == {0, 1}
    assert set(labels[20:40]) == {2}
    assert len(set(labels[40:])) > 5
    assert len(set(rows)) == 60
    assert rows[:20] == [r for r, y in zip(order, digits, strict=True) if y in (0, 1)][:20]
    assert rows[40:] == [row for row in order.tolist() if row not in rows[:40]][:20]
    assert module.task.outputs == 10


def test_too_few_samples_of_a_class_come_again() -> None:
    module = ready(Segment(400, classes=[7]))
    labels, rows = labels_and_rows(module)
    assert set(labels) == {7}
    times = Counter(rows).values()
    assert max(times) - min(times) == 1
    assert f"{400 - len(times)} samples have come before, for their stream or classes have no more" in str(
        module.report()
    )
    assert "before" not in str(ready(Segment(40, classes=[7]), Segment(20)).report())


def test_names_go_before_indices_and_labels_are_permuted_afterwards(tmp_path: Path) -> None:
    """Classes may be called by numbers; then a number is a name."""
    labels, _ = labels_and_rows(ready(Segment(5, classes=[1], permute_labels=2), streams=[texts(tmp_path, "321")]))
    assert set(labels) == {int(derangement(3, 2)[0])}


def texts(folder: Path, labels: str | list[str], **options: object) -> TextDataModule:
    rows = "".join(f"text {k},{label}\n" for k, label in enumerate(list(labels) * 10))
    (folder / "a.csv").write_text(f"text,label\n{rows}")
    given = {"text_columns": ["text"], "val_fraction": 0.2, "task": "classification", **options}
    return TextDataModule(str(folder / "a.csv"), **given)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], r"segments\[0\].classes: it is empty; name some"),
        (
            ["cat"],
            r"segments\[0\].classes: there is no class 'cat'; choose from 0, 1.*, or their indices from 0 to 9",
        ),
        ([10], "there is no class 10; choose from"),
        ([-1], "there is no class -1; choose from"),
    ],
)
def test_unknown_classes_are_refused(classes: list, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        ready(Segment(5, classes=classes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment(5, rotate=float("nan")), r"--data.segments\[0\].rotate: nan must be finite, in degrees"),
        (Segment(5, rotate=(0.0, float("inf"))), r"--data.segments\[0\].rotate: \(0.0, inf\) must be finite"),
        (
            Segment(10**15),
            r"--data.segments, --data.repeat: a stream of 2,0.* samples is too long; at most 100,000,000",
        ),
    ],
)
def test_segments_without_end_are_refused(segment: Segment, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ChangingDataModule([DigitsDataModule()], [segment], repeat=2)


def test_a_stream_without_such_samples_or_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"segments\[1\].classes: the stream has no sample of c; name other"):
        ready(Segment(5), Segment(5, classes=["c"]), streams=[texts(tmp_path, "ab", classes=["a", "b", "c"])])
    values = texts(tmp_path, ["0.5", "1.5"], task="regression")
    with pytest.raises(DataError, match=r"segments\[0\].classes: a has values; only a classification"):
        ready(Segment(5, classes=[1]), streams=[values])


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_images_are_read_of_the_classes_that_come_alone(tmp_path: Path, on_bad_row: str) -> None:
    """Bad images of other classes do no harm; one that would come is refused, or left out and another taken."""
    for name in ("ape", "bee"):
        (tmp_path / name).mkdir()
        for i in range(30):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / name / f"{i:02}.png")
    for i in range(0, 30, 2):
        (tmp_path / "ape" / f"{i:02}.png").write_bytes(b"bad")
    stream = lambda: ImageDataModule(str(tmp_path), val_fraction=0, on_bad_row=on_bad_row)  # noqa: E731
    if on_bad_row == "error":
        with pytest.raises(DataError, match="undecodable image"):
            ready(Segment(12, classes=["ape"]), streams=[stream()])
        return
    bees = stream()
    assert set(labels_and_rows(ready(Segment(12, classes=["bee"]), streams=[bees]))[0]) == {1}
    assert not bees.skipped_rows
    apes = stream()
    labels, rows = labels_and_rows(ready(Segment(12, classes=["ape"]), streams=[apes]))
    assert labels == [0] * 12
    assert len(set(rows)) == 12
    assert 0 < sum(apes.skipped_rows.values()) <= 15


def regimes(module: ChangingDataModule) -> Counter[int]:
    assert module._val is not None
    return Counter(int(module._val.samples[row]["regime"]) for row in module._val.rows.tolist())


def test_validation_on_all_segments() -> None:
    """Of each as many, the same rows under each alteration, with the labels and images of its segment."""
    segments = (Segment(5), Segment(5, permute_labels=1), Segment(5, corruption="contrast"), Segment(5, classes=[3, 4]))
    module = ready(*segments, validate="all", max_val_samples=83)
    assert regimes(module) == {0: 20, 1: 20, 2: 20, 3: 20}
    samples = module._val.samples
    found = [[samples[20 * k + i] for i in range(20)] for k in range(4)]
    relabel = derangement(10, 1)
    for plain, relabelled, pale in zip(*found[:3], strict=True):
        assert int(relabelled["label"]) == int(relabel[plain["label"]])
        assert torch.equal(plain["image"], relabelled["image"])
        assert not torch.equal(plain["image"], pale["image"])
    assert {int(sample["label"]) for sample in found[3]} == {3, 4}
    assert module.task.segments == ((0, 5), (1, 5), (2, 5), (3, 5))
    whole = ready(*segments, validate="all")
    assert regimes(whole) == {0: 297, 1: 297, 2: 297, 3: regimes(ready(segments[3]))[0]}


def test_segments_that_the_stream_does_not_reach_are_known() -> None:
    module = ready(Segment(5), Segment(5, rotate=9.0), repeat=2, validate="all", max_samples=12)
    assert module.task.segments == ((0, 5), (1, 5), (0, 2), (1, 0))
    assert ready(Segment(5), Segment(5)).task.segments == ()


def test_validation_on_the_last_segment_has_its_classes() -> None:
    module = ready(Segment(5), Segment(5, classes=[8]))
    assert {int(module._val.samples[row]["label"]) for row in module._val.rows.tolist()} == {8}


def test_validation_on_all_segments_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_val_samples: 1 is too small; validate: all needs one at least of each"):
        ready(Segment(5), Segment(5), validate="all", max_val_samples=1)
    with pytest.raises(DataError, match="validate: must be last or all; got 'each'"):
        ready(Segment(5), validate="each")
    with pytest.raises(DataError, match="validate: all: a has values; the forgetting is that of a classification"):
        ready(Segment(5), validate="all", streams=[texts(tmp_path, ["0.5", "1.5"], task="regression")])


def test_a_stream_may_be_one_that_changes_itself() -> None:
    """Its labels are those of its own segments, which no table holds."""
    inner = ChangingDataModule([DigitsDataModule()], [Segment(60, classes=[1, 2, 3])], validate="all")
    module = ready(Segment(10, classes=["3"]), Segment(5), streams=[inner], validate="all", max_val_samples=30)
    labels, rows = labels_and_rows(module)
    assert labels[:10] == [3] * 10
    assert len(set(rows)) == 15
    assert regimes(module) == {0: 15, 1: 15}
    assert module.task.segments == ((0, 10), (1, 5))


def test_segments_without_validation_samples_are_named(tmp_path: Path) -> None:
    assert not ready(Segment(5), Segment(5, classes=["b"]), streams=[texts(tmp_path, "ab" * 4)], validate="all").notes()
    (tmp_path / "b.csv").write_text("text,label\n" + "1,a\n2,b\n" * 20 + "3,c\n" * 2)
    segments = [Segment(2, classes=["c"]), Segment(5), Segment(2, classes=["c"])]
    stream = lambda: [TextDataModule(str(tmp_path / "b.csv"), text_columns=["text"], val_fraction=0.05)]  # noqa: E731
    (note,) = [n for n in ready(*segments, streams=stream(), validate="all").notes() if "validation" in n]
    assert note == "no validation samples for segments 0, 2, whose forgetting is not measured"
    assert "validation" not in " ".join(ready(*segments, streams=stream()).notes())


def test_options_enter_the_fingerprint() -> None:
    def of(validate: str = "last", **segment: object) -> dict:
        return ready(Segment(10), Segment(10, **segment), validate=validate, max_val_samples=20).fingerprint()

    found = [
        of(),
        of(corruption="contrast"),
        of(corruption="contrast", severity=4),
        of(corruption="brightness"),
        of(classes=[1]),
        of(classes=[1, 2]),
        of("all"),
    ]
    assert len({each["order"] for each in found}) == len(found)
    assert repr(Segment(10, severity=4).identity()) == repr(Segment(10).identity())  # as in earlier releases
