"""Predictions go on while a learner learns, and each is of the parameters after one of its steps."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.optimizers import SGD, LoKO

from filtune import OnlineLearner
from tests.live.learners import IMAGES, learner

READERS = 4


def until(stop: threading.Event, call: Callable[[], Any]) -> list[Any]:
    """Call again and again until the event, at least once; return the answers."""
    found = [call()]
    while not stop.is_set():
        found.append(call())
    return found


def raced(write: Callable[[], None], *reads: Callable[[], Any]) -> list[list[Any]]:
    """Return what several threads read while one writes; an error in any of them is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(reads)) as pool:
        futures = [pool.submit(until, stop, read) for read in reads]
        try:
            write()
        finally:
            stop.set()
        return [future.result() for future in futures]


@pytest.mark.parametrize("rule", [LoKO, partial(SGD, lr=0.5)])
def test_a_prediction_is_never_of_half_an_update(rule: Any) -> None:
    """Every answer is, bit for bit, that after one of the steps, and no thread ever goes back to an earlier step."""
    one, x = learner(rule), IMAGES[30]
    labels = "abccabcbabca" * 2
    alone = copy.deepcopy(one)
    after = [alone.predict_proba_one(x)]
    for image, y in zip(IMAGES, labels, strict=False):
        alone.learn_one(image, y)
        after.append(alone.predict_proba_one(x))
    place = {tuple(p.values()): step for step, p in enumerate(after)}
    assert len(place) == len(after)
    one.predict_one(x)

    def write() -> None:
        for image, y in zip(IMAGES, labels, strict=False):
            one.learn_one(image, y)

    answers = raced(write, *[lambda: tuple(one.predict_proba_one(x).values())] * READERS)
    steps = [[place[answer] for answer in each] for each in answers]  # a KeyError is an answer of no step
    assert all(each == sorted(each) for each in steps)
    assert all(map(torch.equal, one.model.state_dict().values(), alone.model.state_dict().values()))


def test_texts_by_many_threads(tiny_bert: Path) -> None:
    """A tokenizer that is used by two threads at a time would refuse."""
    one = OnlineLearner("classification", {"name": str(tiny_bert), "adapter": "head"}, LoKO, ["no", "yes"])
    texts = ["good film", "a bad and dull plot", "great", "the story was not very good"]

    def write() -> None:
        for i in range(30):
            one.learn_one(texts[i % 4], ["yes", "no"][i % 2])

    answers = raced(write, *[lambda: one.predict_many(texts)] * READERS)
    assert all(set(answer) <= {"no", "yes"} for each in answers for answer in each)
    assert one.steps == 30


def test_new_classes_copies_and_files_while_it_learns(tmp_path: Path) -> None:
    one = learner(LoKO, "open")
    for x, y in zip(IMAGES, "ab", strict=False):
        one.learn_one(x, y)

    def write() -> None:
        for i, x in enumerate(IMAGES[:16]):
            one.learn_one(x, "abcdefgh"[i % (2 + i // 4)])

    def probabilities() -> None:
        found = one.predict_proba_one(IMAGES[0])
        assert "abcdefgh".startswith("".join(found))
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)

    def saved() -> None:
        one.save(tmp_path / "a.ckpt")
        assert OnlineLearner.load(tmp_path / "a.ckpt").steps <= one.steps

    def copied() -> None:
        twin = pickle.loads(pickle.dumps(one))
        samples = int(twin.model.online.samples)
        assert samples == twin.steps + 1  # of the first sample, of a single class, nothing could be learned
        assert len(twin.classes) == twin.task.outputs

    raced(write, probabilities, saved, copied, lambda: (one.metrics, one.drift, one.uncertainty(IMAGES[1])))
    assert one.classes == list("abcdefgh")[: len(one.classes)]


def test_late_labels_from_several_threads() -> None:
    """Every label is learned from once."""
    one = learner()
    for i, x in enumerate(IMAGES):
        one.predict_one(x, id=i)
    with ThreadPoolExecutor(READERS) as pool:
        taken = list(pool.map(lambda i: one.feedback(i % 40, "abc"[i % 3]), range(80)))
    assert sum(taken) == one.steps == 40
    assert (len(one.pending), one.pending.unknown) == (0, 40)


def test_a_prediction_does_not_wait_for_a_step() -> None:
    """While a step is held up, predictions are answered."""
    one = learner()
    one.predict_one(IMAGES[0])
    held, go = threading.Event(), threading.Event()
    learn = one.model.learn_batch

    def slow(*arguments: Any) -> Any:
        held.set()
        assert go.wait(60)
        return learn(*arguments)

    one.model.learn_batch = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=one.learn_one, args=(IMAGES[1], "a"))
    thread.start()
    assert held.wait(60)
    start = time.monotonic()
    before = one.predict_many(IMAGES[:3])
    assert time.monotonic() - start < 60
    assert one.steps == 0
    go.set()
    thread.join(60)
    assert one.steps == 1
    assert len(before) == 3
