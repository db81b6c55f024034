"""Labels that come late, and the samples that wait for them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.live.learners import IMAGES, learner


def test_labels_that_come_late() -> None:
    first, second = learner(), learner()
    answers = [first.predict_one(x, id=i) for i, x in enumerate(IMAGES[:3])]
    first.learn_one(IMAGES[3], None, id="unasked")
    for i, y in ((2, "c"), (0, "a"), ("unasked", "b")):
        assert first.feedback(i, y)
        second.learn_one(IMAGES[3 if i == "unasked" else i], y)
    assert not first.feedback(2, "c")  # a duplicate changes nothing
    assert not first.feedback("never", "a")
    assert not first.feedback(1, None)
    assert 1 in first.pending
    assert first.pending.unknown == 2
    assert all(map(torch.equal, first.model.state_dict().values(), second.model.state_dict().values()))
    right = (answers[2] == "c") + (answers[0] == "a")
    assert first.metrics["answered_accuracy"] == 50 * right


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(["add", "take"]), st.integers(0, 6)), max_size=30),
)
def test_the_buffer_keeps_the_newest(most: int, actions: list[tuple[str, int]]) -> None:
    from filtune.live.pending import Pending, Waiting

    pending, expected = Pending(most), dict[int, int]()
    dropped = unknown = 0
    for n, (action, id) in enumerate(actions):
        if action == "add":
            pending.add(id, Waiting(n))
            expected.pop(id, None)
            expected[id] = n
            while len(expected) > most:
                expected.pop(next(iter(expected)))
                dropped += 1
        else:
            found = pending.take(id)
            assert (None if found is None else found.sample) == expected.pop(id, None)
            unknown += found is None
    assert (len(pending), pending.dropped, pending.unknown) == (len(expected), dropped, unknown)
    again = Pending(most)
    again.load(pending.state())
    assert again.state() == pending.state()
