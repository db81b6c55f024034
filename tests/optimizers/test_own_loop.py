"""The optimizer in anyone's own loop: five lines, no framework, on scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from filtune.optimizers import RING, AdamW, Categorical, Filtune, LoKO, OnlineOptimizer, Sophia, TorchOptimizer
from filtune.optimizers.likelihoods.categorical import simplex_basis
from scipy.stats import binom
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tests.optimizers.models import Stream, relative, rounding
from tests.optimizers.reference import flat

SAMPLES = 400


def digits(floating: torch.dtype, batch: int = 1) -> Stream:
    """400 images of 8x8 pixels in [0, 1], shuffled, in batches."""
    images, target = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    x, y = torch.from_numpy(images).to(floating)[order] / 16, torch.from_numpy(target).long()[order]
    return list(zip(x.split(batch), y.split(batch), strict=True))


def network(floating: torch.dtype) -> nn.Module:
    """64 -> 32 -> 10 with ReLU."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).to(floating)


def better_than(chance: float, n: int) -> int:
    """Correct answers that a guesser right with that probability exceeds once in 1e12 runs of n."""
    return int(binom.isf(1e-12, n, chance))


def prequential(optimizer: OnlineOptimizer, model: nn.Module, stream: Stream) -> list[bool]:
    """The loop of the README: predict, then learn."""
    correct: list[bool] = []
    for x, y in stream:
        prediction = optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        correct += (prediction.outputs.argmax(-1) == y).tolist()
    return correct


RULES: dict[str, Callable[[nn.Module], OnlineOptimizer]] = {
    "LoKO": lambda model: LoKO(model.parameters()).attach(model),
    "LoKO-unattached": lambda model: LoKO(model.parameters()),
    "LoKO-logits": lambda model: LoKO(model.parameters(), observation="logits", p0=0.05).attach(model),
    "AdamW": lambda model: AdamW(model.parameters(), lr=3e-3),
}


@pytest.mark.parametrize(
    ("rule", "batch"), [("LoKO", 1), ("LoKO", 4), ("LoKO-unattached", 4), ("LoKO-logits", 1), ("AdamW", 1)]
)
def test_the_stream_is_learned_clearly_better_than_chance(rule: str, batch: int) -> None:
    """Chance is the best constant answer, known in hindsight: the share of the commonest digit."""
    stream, model = digits(torch.float32, batch), network(torch.float32)
    correct = prequential(RULES[rule](model), model, stream)
    target = torch.cat([y for _, y in stream])
    chance = float(target.bincount().max()) / SAMPLES
    assert len(correct) == SAMPLES
    assert sum(correct) > better_than(chance, SAMPLES)
    second_half = correct[SAMPLES // 2 :]
    assert sum(second_half) > better_than(0.25, len(second_half))


@pytest.mark.parametrize("batch", [1, 4])
def test_attached_or_not_the_numbers_are_the_same(batch: int) -> None:
    """Bounded over 40 steps: each has sums of up to 2,410 terms and S of condition under 1e4 (asserted)."""
    results = []
    for attached in (False, True):
        model = network(torch.float64)
        optimizer = LoKO(model.parameters(), dtype="float64", p0_init="constant")
        if attached:
            optimizer.attach(model)
        prequential(optimizer, model, digits(torch.float64, batch)[:40])
        results.append((flat(model), torch.cat([v.flatten() for v in optimizer.variance()])))
        assert float(torch.linalg.cond(optimizer.state["filter"]["R"])) < 1e4
    for one, other in zip(*results, strict=True):
        assert not torch.equal(one, torch.zeros_like(one))
        assert relative(one, other) <= rounding(40 * 2_410, condition=1e4)


def test_the_observation_returned_is_the_prediction_made_before_the_update() -> None:
    model, (x, y) = network(torch.float32), digits(torch.float32)[0]
    before: Tensor = model(x).detach()
    prediction = LoKO(model.parameters()).attach(model).step(lambda: Categorical(model(x)).observe(y))
    assert torch.equal(prediction.outputs, before)
    assert prediction.target is y
    assert not torch.equal(model(x), before)


def test_the_closure_is_called_once_and_has_gradients_even_where_the_caller_has_none() -> None:
    model, (x, y), calls = network(torch.float32), digits(torch.float32)[0], []
    before = flat(model)
    with torch.no_grad():
        LoKO(model.parameters()).step(lambda: (calls.append(1), Categorical(model(x)).observe(y))[1])
    assert calls == [1]
    assert not torch.equal(flat(model), before)


def test_gradients_left_by_others_are_neither_read_nor_written() -> None:
    model, (x, y) = network(torch.float32), digits(torch.float32)[0]
    model(x).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    prequential(LoKO(model.parameters()), model, [(x, y)])
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


def test_a_closure_that_fails_leaves_everything_as_it_was() -> None:
    model, (x, y) = network(torch.float32), digits(torch.float32)[0]
    optimizer = LoKO(model.parameters()).attach(model)
    before, p = flat(model), optimizer.state["filter"]["p"].clone()
    with pytest.raises(ValueError, match="at least two logits"):
        optimizer.step(lambda: Categorical(model(x)[:, :1]).observe(y))
    assert torch.equal(flat(model), before)
    assert torch.equal(optimizer.state["filter"]["p"], p)


def test_validation_in_inference_mode_does_no_harm() -> None:
    """Not even before the first step, where it is what fills the cache of bases."""
    simplex_basis.cache_clear()
    (model, twin), stream = (network(torch.float64), network(torch.float64)), digits(torch.float64)[:3]
    results = []
    for it, validated in ((model, True), (twin, False)):
        optimizer = LoKO(it.parameters(), dtype="float64", p0_init="constant").attach(it)
        for sample in stream:
            with torch.inference_mode():
                if validated:
                    prediction = Categorical(it(sample[0]))
                    prediction.covariance()
                    prediction.observe(sample[1]).innovation()
            prequential(optimizer, it, [sample])
        results.append(flat(it))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "rule", [AdamW, LoKO, Filtune, RING, Sophia, partial(TorchOptimizer, name="torch.optim.NAdam")], ids=str
)
def test_a_closure_that_returns_a_loss_is_told_what_it_must_return(rule: Callable[..., OnlineOptimizer]) -> None:
    model = nn.Linear(3, 2)
    optimizer = rule(model.parameters()).attach(model)
    with pytest.raises(TypeError, match="closure returns a tensor: it must return an observation"):
        optimizer.step(lambda: nn.functional.cross_entropy(model(torch.ones(1, 3)), torch.tensor([0])))
