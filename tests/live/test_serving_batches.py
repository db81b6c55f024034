"""Requests for predictions that come at the same time share a forward pass, and nothing else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filtune.live.serving.batching import MOST, Batcher, alike
from filtune.live.serving.service import LearnerService
from filtune.live.serving.state import open_state
from filtune.live.serving.tickets import Answer
from filtune.optimizers import LoKO
from hypothesis import given
from hypothesis import strategies as st

from filtune import OnlineLearner
from tests.live.serving_runs import digits

XS, YS = digits()


class Threads:
    """Stands in for the threads: each call waits until it is let go on, and answers with its own samples."""

    def __init__(self) -> None:
        self.calls: list[list[Sequence[Any]]] = []
        self.gates: list[asyncio.Event] = []

    async def __call__(self, requests: list[Sequence[Any]]) -> list[Any]:
        gate = asyncio.Event()
        self.calls.append(requests)
        self.gates.append(gate)
        await gate.wait()
        if ["broken"] in requests:
            raise RuntimeError("a fault of the predictor")
        return [ValueError("x: no sample") if "bad" in xs else [Answer(x, None) for x in xs] for xs in requests]

    async def turn(self) -> None:
        """Let all that can happen without a gate happen."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def open(self, number: int) -> None:
        self.gates[number].set()
        await self.turn()


def test_a_request_waits_for_a_thread_and_not_for_others() -> None:
    async def main() -> None:
        threads = Threads()
        batcher = Batcher(threads, 2)
        first = [asyncio.create_task(batcher.predict([i])) for i in range(2)]
        await threads.turn()
        assert threads.calls == [[[0]], [[1]]]  # at once, each in a thread of its own
        late = [asyncio.create_task(batcher.predict(xs)) for xs in ([2], ["bad"], [3, 4], [5])]
        await threads.turn()
        assert len(threads.calls) == 2
        late[3].cancel()  # its client has left
        await threads.open(1)
        assert threads.calls[2:] == [[[2], ["bad"], [3, 4], [5]]]  # all that had come meanwhile
        assert [first[0].done(), first[1].done()] == [False, True]
        await threads.open(2)
        assert [answer.prediction for answer in await late[2]] == [3, 4]
        assert (await late[0])[0].prediction == 2
        with pytest.raises(ValueError, match="x: no sample"):
            await late[1]
        await threads.open(0)
        assert (await first[0])[0].prediction == 0

    asyncio.run(main())


def test_a_fault_of_the_predictor_ends_its_requests_and_no_others() -> None:
    async def main() -> None:
        threads = Threads()
        batcher = Batcher(threads, 1)
        tasks = [asyncio.create_task(batcher.predict(xs)) for xs in (["broken"], [1])]
        await threads.turn()
        await threads.open(0)
        with pytest.raises(RuntimeError, match="a fault of the predictor"):
            await tasks[0]
        await threads.open(1)
        assert (await tasks[1])[0].prediction == 1

    asyncio.run(main())


def test_a_forward_pass_is_bounded() -> None:
    async def main() -> None:
        threads = Threads()
        batcher = Batcher(threads, 1)
        sizes = [1, MOST - 1, 1, 1, MOST + 5, 1]
        tasks = [asyncio.create_task(batcher.predict([i] * size)) for i, size in enumerate(sizes)]
        for call in range(4):
            await threads.turn()
            await threads.open(call)
        assert [[len(xs) for xs in requests] for requests in threads.calls] == [
            [1],
            [MOST - 1, 1],
            [1],
            [MOST + 5],
            [1],
        ]
        await threads.open(4)
        for task, size in zip(tasks, sizes, strict=True):
            assert len(await task) == size

    asyncio.run(main())


@given(st.lists(st.integers(0, 3000), max_size=20))
def test_what_is_padded_to_the_longest_is_alike(sizes: list[int]) -> None:
    groups = alike(sizes)
    assert sorted(place for group in groups for place in group) == list(range(len(sizes)))
    for group in groups:
        own = [sizes[place] for place in group]
        assert max(own) <= max(2 * min(own), min(own) + 64)


def test_requests_that_are_predicted_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets the answer that it gets alone, to rounding; one that is bad spoils no other."""
    service = LearnerService(open_state(folder / "start.ckpt", None))
    try:
        learner = service.learner
        for i in range(5):
            learner.learn_one(base64.b64decode(XS[i]), YS[i])
        predicted = learner.predicted

        def particular(samples: list[Any], snapshot: Any) -> Any:
            if any(sample.shape == (1, 2, 2) for sample in samples):
                raise RuntimeError("sizes of tensors must match")
            return predicted(samples, snapshot)

        monkeypatch.setattr(learner, "predicted", particular)
        requests = [[XS[0]], ["no image"], [XS[1], XS[2]], [[[1, 2], [3, 4]]], []]
        found = service.predictor.predict_together(requests)
        assert [type(each) for each in found] == [list, ValueError, list, ValueError, list]
        assert "the model cannot take it" in str(found[3])
        for place in (0, 2):
            for answer, alone in zip(found[place], service.predict(requests[place]), strict=True):
                assert answer.probability == pytest.approx(alone.probability, rel=1e-5)
        assert found[4] == []
    finally:
        service.close()


def test_texts_of_other_lengths(tmp_path: Path, tiny_bert: Path) -> None:
    one = OnlineLearner("classification", {"name": str(tiny_bert), "adapter": "head"}, LoKO, ["no", "yes"])
    one.learn_one("good film", "yes")
    one.save(tmp_path / "start.ckpt")
    service = LearnerService(open_state(tmp_path / "start.ckpt", None))
    try:
        texts = ["good", "bad plot " * 30, "a great story", ("good film", "bad plot " * 9)]
        found = service.predictor.predict_together([[x] for x in texts])
        for (answer,), x in zip(found, texts, strict=True):
            expected = {str(name): value for name, value in one.predict_proba_one(x).items()}
            assert answer.probability == pytest.approx(expected, rel=1e-5)
    finally:
        service.close()


def test_a_shape_that_the_model_has_taken_is_not_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = LearnerService(open_state(folder / "start.ckpt", None))
    try:
        service.check([{"op": "learn", "x": XS[0], "y": YS[0]}])
        monkeypatch.setattr(service.predictor, "_answers", None)  # would be called
        service.check([{"op": "learn", "x": XS[1], "y": YS[1]}])
        with pytest.raises(TypeError):
            service.check([{"op": "learn", "x": [[1, 2], [3, 4]], "y": YS[1]}])
    finally:
        service.close()
