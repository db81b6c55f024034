"""Factors of adapters and padded texts, under checkpoints, in half precision and compiled; layers without factors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.optimizers import RING, Categorical
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.optimizers.adapted import Convolutions, M, Plain, adapted, bert, images, shake, tokens
from tests.optimizers.kfac.plain import Factors, apart, plain_factors, read_factors, take_factors
from tests.optimizers.models import labels, mlp, relative, rounding

# A small transformer or convolutional network forwards and backwards, some twenty products of at most 24 columns with
# what is between them, and sums over at most 5 x 64 positions; signs cancel to a tenth of the largest.
CLOSE = rounding(1_000, condition=10)

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance")

B = 3


def observed(model: nn.Module, x: Tensor, **options: Any) -> Factors:
    y = torch.arange(len(x)) % M
    return take_factors(model, lambda: Categorical(model(x)).observe(y), **options)


def plain(model: nn.Module, x: Tensor) -> Factors:
    return plain_factors(model, lambda b: model(x[b : b + 1]), None, len(x))


def text(method: str = "lora") -> Plain:
    model = adapted(bert(), method, ["query", "value", "dense"])
    shake(model)
    return model


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.filterwarnings("ignore:RING. no Kronecker factors")
def test_adapters_on_text(method: str) -> None:
    """DoRA passes a unit matrix through its layers, for a norm whose gradient is not followed: that does not count."""
    model, x = text(method), tokens(B)
    found = observed(model, x)
    assert sum("lora_A" in name for name in found) == 2 * 5 + 1  # query, value and three dense layers a block, pooler
    assert apart(found, plain(model, x)) <= CLOSE
    name = next(name for name in found if "query.lora_A" in name)
    rows = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, given: rows.append(given[0]))
    model(x)
    handle.remove()
    real = [row for row in rows if row.dim() == 3]
    assert len(rows) - len(real) == (method == "dora")
    flat = real[0].detach().flatten(0, 1)
    assert relative(found[name][0], flat.mT @ flat / len(flat)) <= CLOSE


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.filterwarnings("ignore:RING. no Kronecker factors")
def test_adapters_on_convolutions(method: str) -> None:
    """lora_A is a convolution shaped like the one it is on, lora_B one of a single pixel."""
    model, x = adapted(Plain(Convolutions(), "head"), method, ["body.0", "body.5"]), images(B)
    shake(model)
    found = observed(model, x)
    assert sum("lora_" in name for name in found) == 4
    assert apart(found, plain(model, x)) <= CLOSE


class Checkpointed(nn.Module):
    """Blocks that are run again during the backward pass."""

    def __init__(self, blocks: nn.Sequential, head: nn.Module) -> None:
        super().__init__()
        self.blocks, self.head = blocks, head

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x)


@pytest.mark.parametrize("fisher_type", ["exact", "empirical"])
def test_checkpoints_change_nothing(fisher_type: str) -> None:
    block = [nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh()) for _ in range(2)]
    inner = nn.Sequential(*block)
    model, ((x, _),) = Checkpointed(inner, nn.Linear(5, M)).double(), labels(1, B, M)
    runs: list[int] = []
    inner[0][0].register_forward_hook(lambda *_: runs.append(1))
    found = observed(model, x, fisher_type=fisher_type)
    assert len(runs) > 1
    straight = nn.Sequential(inner, model.head)
    expected = observed(straight, x, fisher_type=fisher_type)
    assert apart({n.replace("blocks", "0").replace("head", "1"): f for n, f in found.items()}, expected) <= CLOSE


def test_nothing_is_kept_after_the_step() -> None:
    """Neither of what a checkpoint runs again, nor of the steps between two refreshes."""
    inner = nn.Sequential(nn.Sequential(nn.Linear(5, 5), nn.Tanh()))
    model = Checkpointed(inner, nn.Linear(5, M)).double()
    optimizer = RING(model.parameters(), skip=2).attach(model)
    for x, y in labels(3, B, M):
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        assert not optimizer._collector.hooks.take()


@pytest.mark.parametrize("around", ["closure", "step"])
def test_autocast(around: str) -> None:
    """Factors in float32, from layers in bfloat16.

    Of two layers, inputs, weights and outputs are rounded forwards and backwards, and errors enter Gamma squared: some
    2 x 2 x 3 roundings, which the curvature of tanh and softmax may double.
    """
    model, ((x, y),) = mlp(M).float(), labels(1, 8, M)
    x = x.float()
    expected = take_factors(model, lambda: Categorical(model(x)).observe(y))

    def closure() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return Categorical(model(x)).observe(y)

    with torch.autocast("cpu", torch.bfloat16, enabled=around == "step"):
        found = take_factors(model, closure)
    assert all(factor.dtype == torch.float32 for pair in found.values() for factor in pair)
    assert apart(found, expected) <= rounding(12, condition=2, dtype=torch.bfloat16)
    # the first layer's input is not rounded
    assert relative(found["0"][0], expected["0"][0]) <= rounding(20, condition=10, dtype=torch.float32)
    if around == "step":  # which has no part in the algebra
        assert all(
            torch.equal(a, b) for n in found for a, b in zip(found[n], take_factors(model, closure)[n], strict=True)
        )


@pytest.mark.parametrize("fisher_type", ["exact", "empirical"])
def test_compiled_by_torchs_eager_back_end(fisher_type: str) -> None:
    """The step between two refreshes, at which nothing is recorded, included."""
    model, straight, stream = mlp(M), mlp(M), labels(3, B, M)
    optimizer = RING(model.parameters(), lr=0.0, fisher_type=fisher_type, factor_decay=0.0, skip=2).attach(model)
    compiled = torch.compile(model, backend="eager")
    for k, (x, y) in enumerate(stream):
        optimizer.step(lambda x=x, y=y: Categorical(compiled(x)).observe(y))
        if k != 1:
            expected = take_factors(straight, lambda x=x, y=y: Categorical(straight(x)).observe(y), fisher_type)
            assert apart(read_factors(optimizer), expected) <= CLOSE


def test_a_layer_whose_output_is_changed_in_place() -> None:
    """Its errors are those of what it put out, not of what became of it."""
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 6), nn.ReLU(inplace=True)]
    model, x = nn.Sequential(*layers, nn.Linear(6, M)).double(), images(B)
    assert apart(observed(model, x), plain(model, x)) <= CLOSE


class Twice(nn.Module):
    """One layer passed through twice, once at two positions and once at one."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(5, 5), nn.Linear(5, M)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([x, -x.square()], 1)
        return self.head(self.shared(self.shared(both).tanh().sum(1)).tanh())


@pytest.mark.parametrize("fisher_type", ["exact", "empirical"])
def test_a_layer_used_twice(fisher_type: str) -> None:
    """Passes are joined: three positions a sample."""
    model, ((x, _),) = Twice().double(), labels(1, B, M)
    weights = nn.functional.one_hot(torch.arange(B) % M, M).double() if fisher_type == "empirical" else None
    expected = plain_factors(model, lambda b: model(x[b : b + 1]), weights, B)
    assert apart(observed(model, x, fisher_type=fisher_type), expected) <= CLOSE


class Turned(nn.Module):
    """Positions before samples, and all of a batch in one row of positions."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.first, self.flat, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, m)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        x = self.first(x.transpose(0, 1)).tanh()  # (T, B, 4)
        x = self.flat(x.flatten(0, 1)).tanh().unflatten(0, (T, -1))
        return self.head(x.mean(0))


@pytest.mark.parametrize("T", [2, 5, 2 * B])
@pytest.mark.parametrize("m", [2, 3])
def test_samples_need_not_come_first(m: int, T: int) -> None:
    """Errors that are not sorted by sample cannot be scaled by sample: with two classes a further pass is taken."""
    model, x = Turned(m).double(), torch.randn(B, T, 5, dtype=torch.float64)
    y = torch.arange(B) % m
    found = take_factors(model, lambda: Categorical(model(x)).observe(y), fisher_type="exact")
    assert apart(found, plain(model, x)) <= CLOSE


LENGTHS = [2, 6, 4, 1]


@pytest.mark.parametrize("fisher_type", ["exact", "empirical"])
@pytest.mark.filterwarnings("ignore:RING. no Kronecker factors")
def test_padding_has_no_part(fisher_type: str) -> None:
    """The factors of a padded batch are those of its samples, each without its padding."""
    net, x = text().model, tokens(len(LENGTHS))
    mask = (torch.arange(6) < torch.tensor(LENGTHS)[:, None]).long()
    y = torch.arange(len(x)) % M
    found = take_factors(net, lambda: Categorical(net(x, attention_mask=mask).logits).observe(y), fisher_type)
    weights = nn.functional.one_hot(y, M).double() if fisher_type == "empirical" else None
    expected = plain_factors(net, lambda b: net(x[b : b + 1, : LENGTHS[b]]).logits, weights, len(x))
    assert apart(found, expected) <= CLOSE
    assert apart(take_factors(net, lambda: Categorical(net(x).logits).observe(y), fisher_type), expected) > 1e-3


class Averaged(nn.Module):
    """The mean over the tokens that are not padded."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(5, 4), nn.Linear(4, M)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1)
        return self.head((self.each(x).tanh() * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("positional", [False, True], ids=["by name", "by position"])
def test_the_mask_may_be_given_either_way(positional: bool) -> None:
    model, x = Averaged().double(), torch.randn(len(LENGTHS), 6, 5, dtype=torch.float64)
    mask, y = (torch.arange(6) < torch.tensor(LENGTHS)[:, None]).double(), torch.arange(len(x)) % M
    found = take_factors(
        model, lambda: Categorical(model(x, mask) if positional else model(x, attention_mask=mask)).observe(y)
    )
    short = [x[b : b + 1, :length] for b, length in enumerate(LENGTHS)]
    expected = plain_factors(model, lambda b: model(short[b], torch.ones(1, LENGTHS[b])), None, len(x))
    assert apart(found, expected) <= CLOSE


class Without(nn.Module):
    """Layers that have no factors, beside two that have."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.first, self.odd, self.head = nn.Conv2d(3, 4, 3, padding=1), odd, nn.Linear(4, M)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.odd(self.first(x)).mean((2, 3)))


class Same(nn.Conv2d):
    """A convolution that pads its input itself, as some of timm's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


ODD = {
    "grouped": lambda: nn.Conv2d(4, 4, 3, groups=2),
    "circular": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "a subclass": lambda: Same(4, 4, 3),
    "a norm": lambda: nn.GroupNorm(2, 4),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 3),
}


@pytest.mark.parametrize(("odd", "rule"), [*((odd, "adamw") for odd in ODD), ("a norm", "freeze")])
def test_what_has_no_factors_is_named(odd: str, rule: str) -> None:
    model, x = Without(ODD[odd]()).double(), images(B)
    with pytest.warns(UserWarning, match=rf"RING: no Kronecker factors for odd\.weight \({type(model.odd).__name__}\)"):
        optimizer = RING([*model.parameters()], unsupported_params=rule).attach(model)
    before, y = copy.deepcopy(model.state_dict()), torch.arange(B) % M
    optimizer.step(lambda: Categorical(model(x)).observe(y))
    moved = {name for name, now in model.state_dict().items() if not torch.equal(now, before[name])}
    assert {name for name in moved if name.startswith("odd")} == (
        {"odd.weight", "odd.bias"} if rule == "adamw" else set()
    )
    assert {"first.weight", "head.weight"} <= moved
    with pytest.raises(
        ValueError, match=r"no Kronecker factors for odd\.weight .*set unsupported_params to adamw or freeze"
    ):
        RING([*model.parameters()], unsupported_params="refuse").attach(model)


class Tied(nn.Module):
    """Two layers with one matrix, or one bias."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, M)
        setattr(self.b, name, getattr(self.a, name))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).tanh()).tanh())


def test_tied_weights_have_no_factors() -> None:
    model, ((x, _),) = Tied("weight").double(), labels(1, B, M)
    with pytest.warns(UserWarning, match=r"a\.weight \(Linear\)"):
        found = observed(model, x)
    assert found.keys() == {"head"}


def test_a_tied_bias_is_no_column_of_either_layer() -> None:
    """It would move twice."""
    model, ((x, _),) = Tied("bias").double(), labels(1, B, M)
    with pytest.warns(UserWarning, match=r"a\.bias \(Linear\), b\.bias \(Linear\)"):
        found = observed(model, x)
    assert {name: len(Lambda) for name, (Lambda, _) in found.items()} == {"a": 5, "b": 5, "head": 6}


@pytest.mark.filterwarnings("ignore:RING. no Kronecker factors")
def test_batch_statistics_are_refused() -> None:
    model, x = Convolutions().double(), images(B)
    for p in model.body[3].parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match=r"RING: body\.1 \(BatchNorm2d\) is in train mode.*call model\.eval"):
        observed(model.train(), x)
    with pytest.warns(UserWarning, match=r"body\.1\.weight"):
        assert apart(observed(model.eval(), x), plain(model, x)) <= CLOSE
    model.body[1] = nn.BatchNorm2d(6, track_running_stats=False).double()
    with pytest.raises(ValueError, match=r"body\.1 \(BatchNorm2d\) keeps no statistics"):
        observed(model.eval(), x)


def test_a_model_must_be_attached() -> None:
    model, ((x, y),) = mlp(M), labels(1, B, M)
    with pytest.raises(ValueError, match=r"RING: it must see the model's layers; call attach\(model\)"):
        RING(model.parameters()).step(lambda: Categorical(model(x)).observe(y))


class Sometimes(nn.Module):
    """A layer that can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.extra, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, M)
        self.whole = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        return self.head(self.extra(x).tanh() if self.whole else x)


def test_a_layer_that_is_never_passed_through_is_named_and_has_no_factors() -> None:
    model, ((x, y),) = Sometimes().double(), labels(1, B, M)
    optimizer = RING(model.parameters(), skip=1, unsupported_params="freeze").attach(model)
    with pytest.warns(UserWarning, match=r"no Kronecker factors for extra\.weight \(Linear\), extra\.bias"):
        optimizer.step(lambda: Categorical(model(x)).observe(y))
    assert {layer.name for group in optimizer._groups for layer in group.layers.values()} == {"first", "head"}
    optimizer = RING(model.parameters(), unsupported_params="refuse").attach(model)
    with pytest.raises(ValueError, match=r"no Kronecker factors for extra\.weight"):
        optimizer.step(lambda: Categorical(model(x)).observe(y))


def test_a_layer_must_not_stay_away_later() -> None:
    model, ((x, y),) = Sometimes().double(), labels(1, B, M)
    optimizer, model.whole = RING(model.parameters(), skip=1).attach(model), True
    optimizer.step(lambda: Categorical(model(x)).observe(y))
    before, model.whole = copy.deepcopy(model.state_dict()), False
    with pytest.raises(ValueError, match="extra took part in the first step, and does not now"):
        optimizer.step(lambda: Categorical(model(x)).observe(y))
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
