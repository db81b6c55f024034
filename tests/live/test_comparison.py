"""Two learners on one stream: each as if it were alone, and differences that are tested as they should be."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from filtune.live.answers import Answers
from filtune.live.sources.line_output import FileOutput
from filtune.live.watching.comparison import Comparison
from filtune.live.watching.differences import MOST_BLOCKS, BlockMeans
from filtune.live.watching.reporting import WatchReports, tabulated
from filtune.optimizers import LoKO
from scipy.stats import binom, ttest_1samp

from filtune import AdamW, OnlineLearner
from tests.live.serving_runs import differences
from tests.live.watched_tables import new_table_learner, stream


def test_each_learner_is_as_if_it_were_alone() -> None:
    comparison = Comparison(new_table_learner(optimizer=LoKO), ["adamw lr=0.02"])
    alone = new_table_learner(optimizer=LoKO), new_table_learner(optimizer=partial(AdamW, lr=0.02))
    shadow = comparison.shadows["adamw lr=0.02"].learner
    losses: list[list[float]] = []
    for number, (x, y) in enumerate(stream(30)):
        if number % 5 == 0:
            comparison.apply(lambda each, x=x, number=number: each.learn_one(x, id=number))  # type: ignore[misc]
            assert comparison.apply(lambda each, y=y, number=number: each.feedback(number, y))  # type: ignore[misc]
        else:
            comparison.apply(lambda each, x=x, y=y: each.learn_one(x, y))  # type: ignore[misc]
        for each in alone:
            each.learn_one(x, y)
        losses.append([each.monitor.window.last().loss for each in alone])  # type: ignore[union-attr]
    for found, expected in zip((comparison.learner, shadow), alone, strict=True):
        for first, second in zip(found.optimizer.trained(), expected.optimizer.trained(), strict=True):
            assert bool((first == second).all())
    own, other = comparison.results()
    assert (own.name, own.count, other.name, other.count) == ("LoKO", 30, "adamw lr=0.02", 30)
    assert other.loss == pytest.approx(alone[1].metrics["online_nll"], rel=1e-6)
    assert 1 - other.error == pytest.approx(alone[1].metrics["online_accuracy"] / 100, rel=1e-6)
    assert other.loss_difference is not None
    test = ttest_1samp([b - a for a, b in losses], 0)  # up to 64 samples it is the plain paired test
    assert other.loss_difference.p == pytest.approx(test.pvalue, rel=1e-9)
    assert (other.loss_difference.low, other.loss_difference.high) == pytest.approx(tuple(test.confidence_interval()))


def test_the_frozen_weights_are_there_once(tiny_bert: Path) -> None:
    learner = OnlineLearner("classification", {"name": str(tiny_bert), "adapter": "lora"}, LoKO, ["a", "b"])
    comparison = Comparison(learner, ["adamw"])
    learner.learn_one("good film", "a")  # the shadow has its own trained parameters
    shadow = comparison.shadows["adamw"].learner
    own, other = (dict(each.model.backbone.named_parameters()) for each in (learner, shadow))
    shared = {name for name in own if own[name].data_ptr() == other[name].data_ptr()}
    assert shared == {name for name in own if not own[name].requires_grad}


def test_a_saved_comparison_goes_on_bit_for_bit(tmp_path: Path) -> None:
    samples = stream(24)
    comparison = Comparison(new_table_learner(classes="open"), ["loko", "adamw lr=0.1"])
    for x, y in samples[:12]:
        comparison.apply(lambda each, x=x, y=y: each.learn_one(x, y))  # type: ignore[misc]
    comparison.learner.save(tmp_path / "s.ckpt")
    again = Comparison(OnlineLearner.load(tmp_path / "s.ckpt"), state=comparison.state())
    for each in (comparison, again):
        for x, y in samples[12:]:
            each.apply(lambda one, x=x, y=y: one.learn_one(x, y))  # type: ignore[misc]
    assert again.results() == comparison.results()
    assert again.table() == comparison.table()
    for name, shadow in comparison.shadows.items():
        assert differences(shadow.learner, again.shadows[name].learner) == []


def test_a_shadow_that_fails_changes_nothing_for_the_others() -> None:
    comparison = Comparison(new_table_learner(), {"first": "loko", "second": "adamw"})

    def change(each: OnlineLearner) -> None:
        if each is comparison.shadows["first"].learner and each.steps == 5:
            raise FloatingPointError("it diverged")
        each.learn_one(*samples[each.steps])

    samples = stream(12)
    for _ in samples:
        comparison.apply(change)
    own, first, second = comparison.results()
    assert (own.count, first.count, second.count) == (12, 5, 12)
    assert "stopped: it diverged" in comparison.table()
    assert list(comparison.each(lambda each: each.steps)) == ["second"]


def test_what_the_first_learner_refuses_nobody_sees() -> None:
    comparison = Comparison(new_table_learner(), ["loko"])
    with pytest.raises(ValueError, match="not among the classes"):
        comparison.apply(lambda each: each.learn_one({"u": 1.0}, "c"))
    assert comparison.shadows["loko"].learner.steps == 0
    assert not comparison.shadows["loko"].failure


@pytest.mark.parametrize(
    ("against", "words"),
    [
        (["adamm"], "against 'adamm': there is no such optimizer; did you mean adamw"),
        (["adamw learning=1"], "against 'adamw learning=1': optimizer: .*learning"),
        (["adamw lr"], "'lr': options are written as NAME=VALUE, such as lr=1e-3"),
        (["adamw", " adamw"], "against 'adamw': is there twice"),
        (["task/sst2"], "there is no such optimizer"),
        ([""], "against '': there is no such optimizer"),
    ],
)
def test_a_wrong_optimizer_is_refused(against: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        Comparison(new_table_learner(), against)
    assert "\n" not in str(refused.value)


def test_an_optimizer_that_cannot_grow_is_refused_where_classes_are_open() -> None:
    with pytest.raises(ValueError, match="against 'sam': "):
        Comparison(new_table_learner(classes="open"), ["sam"])


def test_blocks_have_the_mean_of_all_and_bounded_memory() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 1000)
    blocks = BlockMeans()
    for value in values:
        blocks.add(value)
    assert len(blocks.sums) <= MOST_BLOCKS
    found = blocks.difference()
    assert found.mean == pytest.approx(values.mean())
    full = values[: 1000 // blocks.block * blocks.block].reshape(-1, blocks.block).mean(1)
    assert found.p == pytest.approx(ttest_1samp(full, 0).pvalue)
    again = BlockMeans()
    again.load(blocks.state())
    assert again.difference() == found


def test_few_or_equal_differences_are_no_evidence() -> None:
    blocks = BlockMeans()
    for _ in range(9):
        blocks.add(1.0)
    assert blocks.difference().p is None
    blocks.add(1.0)
    assert blocks.difference().p is None  # whole numbers of few samples: the t-test would be certain of them
    zeros = BlockMeans()
    for _ in range(20):
        zeros.add(0.0)
    assert zeros.difference().p == 1


def test_correlated_differences_are_not_taken_for_evidence() -> None:
    """Of equal learners the level is nearly kept, where a t-test of single samples is wrong in half of the streams.

    Differences are an autoregression with coefficient r = 0.8, in 62 blocks of n = 32. Sums over neighbouring blocks
    have the covariance r / (1 - r)^2 = 20, in units of the variance of one, and the variance n (1 + r) / (1 - r) -
    2 r / (1 - r)^2 = 248: a correlation of 0.08. The variance of the mean is thus 1 + 2 * 0.08 = 1.16 times what the
    test takes it for, and its level 2 P(T > 2.00 / sqrt(1.16)) = 0.068. The count of 200 streams stays below the 99.9 %
    quantile of its binomial distribution.
    """
    rng, streams, n = np.random.default_rng(1), 200, 2000
    noise = rng.normal(size=(n, streams))
    for i in range(1, n):
        noise[i] += 0.8 * noise[i - 1]
    wrong, plain = 0, 0
    for column in noise.T:
        blocks = BlockMeans()
        for value in column.tolist():
            blocks.add(value)
        wrong += blocks.difference().is_significant
        plain += ttest_1samp(column, 0).pvalue < 0.05
    assert wrong <= binom.ppf(0.999, streams, 0.068)
    assert plain > streams / 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_shadow_whose_predictions_are_not_finite_is_stopped(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its optimizer goes on, and before its finite predictions alone are what is scored."""
    learner = new_table_learner(on_divergence="warn")
    comparison = Comparison(learner, {"broken": "adamw", "sound": "loko"})
    answers = Answers(learner, "label", "id", comparison)
    reports = WatchReports(learner.monitor, "s", None, tmp_path / "out", comparison=comparison)
    output = FileOutput(str(tmp_path / "answers"), None)
    for number, (x, y) in enumerate(stream(9)):
        if number == 5:
            for param in comparison.shadows["broken"].learner.optimizer.trained():
                param.data.fill_(value)
            comparison.shadows["broken"].learner.newest()
            comparison.shadows["broken"].learner.publish()
        output.write({"line": number, **answers.answer({**x, "label": y}), **reports.take({"line": number})})
    output.close()
    own, broken, sound = comparison.results()
    assert (own.count, broken.count, sound.count) == (9, 5, 9)
    assert broken.failure == "predictions are not finite from sample 6 on"
    assert "against broken: learns no more, the others go on: predictions are not finite" in capsys.readouterr().err
    text = (tmp_path / "answers").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    rows = [json.loads(line)["against"] for line in text.splitlines()]
    assert rows[5]["broken"] == {"prediction": None, "probability": None, "entropy": None}
    assert ["broken" in row for row in rows] == [True] * 6 + [False] * 3


def test_a_shadow_that_cannot_predict_changes_nothing_for_the_others() -> None:
    comparison = Comparison(new_table_learner(), ["loko", "adamw"])

    def ask(each: OnlineLearner) -> int:
        if each is comparison.shadows["loko"].learner:
            raise RuntimeError("no prediction")
        return 1

    assert comparison.each(ask) == {"adamw": 1}
    assert comparison.shadows["loko"].failure == "no prediction"


def test_predictions_of_the_first_learner_that_are_not_finite_are_counted() -> None:
    comparison = Comparison(new_table_learner(on_divergence="warn"), ["loko"])
    for number, (x, y) in enumerate(stream(7)):
        if number == 4:
            for param in comparison.learner.optimizer.trained():
                param.data.fill_(float("nan"))
        comparison.apply(lambda each, x=x, y=y: each.learn_one(x, y))  # type: ignore[misc]
    assert tabulated(comparison).startswith("compared on 4 predictions; 3 of AdamW were not finite\n")
    again = Comparison(comparison.learner, state=comparison.state())
    assert tabulated(again) == tabulated(comparison)
