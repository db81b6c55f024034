"""The batched Jacobian, the loop, the factors of dense layers and torch.func.jacrev agree, on every kind of model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from filtune.optimizers.kalman import jacobian
from filtune.optimizers.kalman.blocks import DenseBlock, OuterProduct
from filtune.optimizers.kalman.jacobian import JacobianBuilder, batched_vjp, stack_rows
from torch import Tensor, nn
from torch.func import jacrev

from tests.optimizers.adapted import Convolutions, Plain, adapted, bert, images, tokens, trained
from tests.optimizers.models import FEATURES, convnet, mlp, relative, rounding
from tests.optimizers.reference import flat, outputs_of

M, D = 3, 2
CLOSE = rounding(10_000, condition=100)
"""1e-10: chains of under 1e4 operations, magnified at most 100-fold by softmax attention and layer norm."""


@dataclass(frozen=True)
class Case:
    """A model with the input it takes."""

    name: str
    build: Callable[[], nn.Module]
    sample: Callable[[int], Tensor]
    factored: int
    explained: bool = True  # by dense and convolutional layers

    def __str__(self) -> str:
        return self.name


def features(B: int) -> Tensor:
    """(B, 5)."""
    return torch.randn(B, FEATURES, dtype=torch.float64)


CASES = [
    Case("mlp", lambda: mlp(M), features, 2),
    Case("convnet", lambda: convnet(M), features, 1),
    # other models and methods are in test_jacobian_adapters
    Case("bert-eager-lora", lambda: adapted(bert("eager"), "lora", ["query", "value"]), tokens, 1),
    Case("conv-dora", lambda: adapted(Plain(Convolutions(), "head"), "dora", ["body.0"]), images, 1, False),
]


def matrix(builder: JacobianBuilder, outputs: Tensor, cotangents: Tensor) -> tuple[Tensor, list[type]]:
    """The Jacobian with its factors multiplied out, (rows, n), and the kinds of its blocks."""
    blocks = builder(outputs, cotangents).blocks
    assert [columns.start for columns, _ in blocks[1:]] == [columns.stop for columns, _ in blocks[:-1]]
    parts = [block.dense() for _, block in blocks]
    return torch.cat(parts, dim=1), [type(block) for _, block in blocks]


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_every_way_gives_the_jacobian(case: Case, B: int) -> None:
    model = case.build()
    x, cotangents = case.sample(B), torch.randn(B, D, M, dtype=torch.float64)
    full = jacrev(outputs_of(model, x))(flat(model))
    expected = torch.einsum("bdm,bmn->bdn", cotangents, full).flatten(0, 1)
    assert expected.abs().max() > 1e-3
    for vectorize, chunk_size, attached in [
        (True, 256, False),
        (False, 256, False),
        (True, 2, False),
        (True, 1, False),
        (True, 256, True),
        (False, 256, True),
    ]:
        builder = JacobianBuilder(trained(model), torch.float64, vectorize, chunk_size)
        if attached:
            builder.attach(model)
        for _ in range(2):  # once verifying and keeping the graph, once not
            H, kinds = matrix(builder, model(x), cotangents)
            assert relative(H, expected) <= CLOSE
        assert kinds.count(OuterProduct) == (case.factored if attached else 0)
        assert builder.vectorize == vectorize
        if builder._hooks is not None:
            builder._hooks.remove()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows every vectorised pass has had."""
    counts: list[int] = []

    def counting(outputs: Tensor, inputs: Sequence[Tensor], rows: Tensor, retain_graph: bool) -> list[Tensor]:
        counts.append(len(rows))
        return batched_vjp(outputs, inputs, rows, retain_graph)

    monkeypatch.setattr(jacobian, "batched_vjp", counting)
    monkeypatch.setattr(jacobian, "FEW", 0)
    return counts


def test_few_rows_through_convolutions_have_a_pass_each(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is faster on a CPU, and the same Jacobian."""
    model, found = convnet(M), []
    x, cotangents = features(1), torch.randn(1, D, M, dtype=torch.float64)
    for few in (D, D - 1):
        monkeypatch.setattr(jacobian, "FEW", few)
        builder = JacobianBuilder(trained(model), torch.float64)
        builder.attach(model)
        found.append(matrix(builder, model(x), cotangents)[0])
        assert passes == ([] if few == D else [D])
    assert relative(*found) <= CLOSE


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_samples_of_a_batch_share_their_rows_where_layers_explain_the_state(case: Case, passes: list[int]) -> None:
    model = case.build()
    builder = JacobianBuilder(trained(model), torch.float64)
    builder.attach(model)
    builder(model(case.sample(3)), torch.randn(3, D, M, dtype=torch.float64))
    assert passes == [D if case.explained else 3 * D]


@pytest.mark.parametrize(("chunk_size", "expected"), [(1, [1, 1]), (5, [1, 1]), (6, [2])])
def test_shared_rows_count_once_a_sample(chunk_size: int, expected: list[int], passes: list[int]) -> None:
    model = mlp(M)
    builder = JacobianBuilder(list(model.parameters()), torch.float64, chunk_size=chunk_size)
    builder.attach(model)
    builder(model(features(3)), torch.randn(3, D, M, dtype=torch.float64))
    assert passes == expected


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 6, 100])
def test_no_pass_has_more_rows_than_asked(chunk_size: int, passes: list[int]) -> None:
    model = mlp(M)
    builder = JacobianBuilder(list(model.parameters()), torch.float64, chunk_size=chunk_size)
    builder(model(features(3)), torch.randn(3, D, M, dtype=torch.float64))
    assert sum(passes) == 3 * D
    assert max(passes) == min(chunk_size, 3 * D)


def test_rows_are_kept_apart_per_sample() -> None:
    cotangents = torch.arange(1.0, 13).view(2, 2, 3)
    rows = stack_rows(cotangents)
    expected = torch.zeros(4, 2, 3)
    expected[:2, 0], expected[2:, 1] = cotangents[0], cotangents[1]
    assert torch.equal(rows, expected)
    assert torch.equal(stack_rows(cotangents[:1]), cotangents[0].unsqueeze(1))


def test_unused_parameters_have_zero_columns() -> None:
    model, spare = mlp(M), nn.Parameter(torch.ones(2, 4, dtype=torch.float64))
    params = [*list(model.parameters())[:2], spare, *list(model.parameters())[2:]]
    for B, vectorize in [(1, True), (3, True), (3, False)]:
        builder = JacobianBuilder(params, torch.float64, vectorize)
        cotangents = torch.randn(B, D, M, dtype=torch.float64)
        x = features(B)
        H, _ = matrix(builder, model(x), cotangents)
        without, _ = matrix(JacobianBuilder(list(model.parameters()), torch.float64), model(x), cotangents)
        assert not H[:, 42:50].any()
        assert relative(torch.cat([H[:, :42], H[:, 50:]], 1), without) <= CLOSE


@pytest.mark.parametrize("frozen", [["0.weight"], ["2.bias"], ["0.bias", "2.weight"]], ids=str)
def test_frozen_parameters_have_no_columns(frozen: list[str]) -> None:
    model = mlp(M)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    x, cotangents = features(3), torch.randn(3, D, M, dtype=torch.float64)
    builder = JacobianBuilder(trained(model), torch.float64)
    builder.attach(model)
    H, kinds = matrix(builder, model(x), cotangents)
    full = jacrev(outputs_of(model, x))(flat(model))
    assert relative(H, torch.einsum("bdm,bmn->bdn", cotangents, full).flatten(0, 1)) <= CLOSE
    assert kinds.count(OuterProduct) == 2 - sum(name.endswith("weight") for name in frozen)


class NoVmap(torch.autograd.Function):
    """The square, with a backward that looks at its numbers: it cannot be vectorised."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(grad.numpy() * 2 * x.detach().numpy())


class Squared(nn.Module):
    """A dense layer, a square that cannot be vectorised, and a head."""

    def __init__(self, square: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.square = square
        self.inner, self.head = nn.Linear(FEATURES, 4).double(), nn.Linear(4, M).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.square(self.inner(x)))


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("chunk_size", [4, 256])
def test_backward_that_cannot_be_batched_falls_back_to_the_loop(attached: bool, chunk_size: int) -> None:
    model = Squared(NoVmap.apply)
    plain = Squared(torch.square)
    plain.load_state_dict(model.state_dict())
    builder = JacobianBuilder(list(model.parameters()), torch.float64, chunk_size=chunk_size)
    if attached:
        builder.attach(model)
    x, cotangents = features(2), torch.randn(2, D, M, dtype=torch.float64)
    expected, _ = matrix(JacobianBuilder(list(plain.parameters()), torch.float64), plain(x), cotangents)
    with pytest.warns(UserWarning, match="falling back to one backward pass a row, which is slow"):
        H, _ = matrix(builder, model(x), cotangents)
    assert relative(H, expected) <= CLOSE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        H, _ = matrix(builder, model(x), cotangents)
    assert relative(H, expected) <= CLOSE
    assert not builder.vectorize


@pytest.mark.parametrize("d", [1, 2])
def test_the_graph_is_freed_once_batching_is_known_to_work(d: int) -> None:
    model, x = mlp(M), features(1)
    builder = JacobianBuilder(list(model.parameters()), torch.float64)
    for _ in range(2):
        outputs = model(x)
        builder(outputs, torch.randn(1, d, M, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="second time"):
        outputs.sum().backward()


def test_one_row_needs_no_batching_so_its_errors_are_its_own() -> None:
    builder = JacobianBuilder(list(mlp(M).parameters()), torch.float64)
    outputs, cotangents = torch.ones(1, M, dtype=torch.float64), torch.ones(1, 1, M, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="does not require grad"):
            builder(outputs, cotangents)
    assert builder.vectorize


def test_small_neighbours_are_joined_into_one_block() -> None:
    model = mlp(M)
    blocks = JacobianBuilder(list(model.parameters()), torch.float64)(
        model(features(1)), torch.ones(1, 1, M, dtype=torch.float64)
    ).blocks
    assert [(columns, type(block)) for columns, block in blocks] == [(slice(0, 66), DenseBlock)]


@pytest.mark.parametrize(("limit", "kinds"), [(34, [OuterProduct, DenseBlock]), (35, [DenseBlock])])
def test_a_small_layers_factors_are_multiplied_out(
    limit: int, kinds: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jacobian, "FACTORED_PARAMETERS", limit)
    model = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, M)).double()
    x, cotangents = features(2), torch.randn(2, D, M, dtype=torch.float64)
    params = [model[0].weight, model[0].bias]
    expected, _ = matrix(JacobianBuilder(params, torch.float64), model(x), cotangents)
    builder = JacobianBuilder(params, torch.float64)
    builder.attach(model)
    H, found = matrix(builder, model(x), cotangents)
    assert relative(H, expected) <= CLOSE
    assert found == kinds
