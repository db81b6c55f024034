"""Columns of the Jacobian reach their owners, whole and in order, in factors where they came in factors."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers.distributed import Ranks, checksum
from filtune.optimizers.kalman.blocks import BlockJacobian, DenseBlock, Gain, OuterProduct
from filtune.optimizers.kalman.sharding import Sharding, strata
from hypothesis import given
from hypothesis import strategies as st

from tests.optimizers.processes import together

SMALL = st.integers(1, 5)
COLUMNS = [2, 1098, 1200, 3]
"""Sizes of the parameter tensors of :func:`jacobian`."""
N = sum(COLUMNS)


@given(out=SMALL, width=SMALL, B=st.integers(1, 3), d=st.integers(1, 3), data=st.data())
def test_a_stretch_of_a_layer_is_at_most_three_layers(
    out: int, width: int, B: int, d: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, out * width))
    stop = data.draw(st.integers(start, out * width))
    layer = OuterProduct(torch.randn(B, d, out), torch.randn(B, width))
    parts = layer.columns(slice(start, stop))
    assert len(parts) <= 3
    covered = [i for covered, _ in parts for i in range(covered.start, covered.stop)]
    assert covered == list(range(stop - start))
    dense = torch.cat([torch.empty(B * d, 0), *(part.dense() for _, part in parts)], dim=1)
    assert torch.equal(dense, layer.dense()[:, start:stop])


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6), world=st.integers(1, 7))
def test_every_column_has_one_owner_and_shares_are_even(sizes: list[int], world: int) -> None:
    n = sum(sizes)
    sharding = Sharding(sizes, divided=True)
    sharding.ranks, sharding.divided, sharding.strata = Ranks(world, 0), True, strata(sizes, world)
    shares = [sharding.share(rank) for rank in range(world)]
    assert sorted(i for share in shares for stretch in share for i in range(n)[stretch]) == list(range(n))
    start = 0
    for size in sizes:  # a large tensor has a stretch of its own on every rank
        covered, start = slice(start, start + size), start + size
        if size > max(n // (8 * world), 1000):
            own = [[s for s in share if covered.start <= s.start < s.stop <= covered.stop] for share in shares]
            assert {s.stop - s.start for (s,) in own} <= {size // world, -(-size // world)}
    if n >= world:
        assert min(sharding.width(rank) for rank in range(world)) > 0
    assert max(abs(sharding.width(rank) - n / world) for rank in range(world)) <= len(sharding.strata)


def jacobian(rows: int, d: int, seed: int, factored: bool = True, merged: bool = True) -> BlockJacobian:
    """Rows of samples numbered from ``seed``: a matrix, a 40 x 30 layer, and a matrix, as ``COLUMNS`` says.

    Args:
        rows: Number of samples.
        d: Rows a sample.
        seed: Number of the first sample.
        factored: Whether the layer is in factors.
        merged: Whether the first matrix is one block or two.
    """
    samples = [torch.Generator().manual_seed(seed + b) for b in range(rows)]
    A, G, X, C = (
        torch.cat([torch.randn(shape, generator=g, dtype=torch.float64) for g in samples])
        for shape in ((d, 1100), (1, d, 40), (1, 30), (d, 3))
    )
    layer = OuterProduct(G, X)
    head = [(slice(0, 1100), DenseBlock(A))]
    if not merged:
        head = [(slice(0, 2), DenseBlock(A[:, :2])), (slice(2, 1100), DenseBlock(A[:, 2:]))]
    middle = layer if factored else DenseBlock(layer.dense())
    return BlockJacobian([*head, (slice(1100, 2300), middle), (slice(2300, N), DenseBlock(C))])


def prior() -> torch.Tensor:
    return torch.linspace(0.1, 2, N, dtype=torch.float64)


SIZES = {2: [[1, 1], [3, 1]], 3: [[1, 2, 1]]}


def exchanged(world: int) -> list[tuple]:
    """What this rank holds after the exchange, in many cases."""
    rank, found = Ranks.current().rank, []
    for sizes in SIZES[world]:
        for divided in (True, False):
            for unlike in (False, True):
                H = jacobian(sizes[rank], 2, sum(sizes[:rank]), not unlike or rank == 0, not unlike or rank == 1)
                sharding = Sharding(COLUMNS, divided)
                mine = sharding.exchange(H, sizes)
                covered = [i for columns, _ in mine.blocks for i in range(N)[columns]]
                kinds = {type(block).__name__ for _, block in mine.blocks}
                whole = sharding.whole(sharding.part(prior()))
                gram = sharding.sum(mine.gram(sharding.part(prior())))
                elements = sum(block.H.numel() for _, block in mine.blocks if isinstance(block, DenseBlock))
                share = sharding.share(rank)
                found.append((sizes, divided, unlike, mine.dense(), covered, kinds, whole, gram, elements, share))
    return found


@pytest.mark.parametrize("world", SIZES)
def test_the_exchange_hands_out_columns_and_joins_rows(world: int) -> None:
    p, owned = prior(), []
    for answer in together(world, exchanged, world):
        for sizes, divided, unlike, dense, covered, kinds, whole, gram, elements, share in answer:
            reference = jacobian(sum(sizes), 2, 0)
            own = torch.cat([torch.arange(N)[stretch] for stretch in share])
            owned += own.tolist() if divided and not unlike else []
            assert torch.equal(dense, reference.dense()[:, own])
            assert covered == list(range(len(own)))
            # factors stay factors, unless some rank has none; what is a matrix is divided evenly
            assert kinds == ({"DenseBlock"} if unlike else {"DenseBlock", "OuterProduct"})
            ranks, columns = world if divided else 1, N if unlike else N - 1200
            assert abs(elements - 2 * sum(sizes) * columns / ranks) <= 2 * sum(sizes) * len(share)
            assert torch.equal(whole, p)
            # N products of three factors summed, in another order: each sum within gamma_(N + 2) of the exact one,
            # relative to the sum of magnitudes
            magnitude = (reference.dense().abs() * p) @ reference.dense().abs().mT
            assert bool(((gram - reference.gram(p)).abs() <= 2 * (N + 2) * 2**-53 * magnitude).all())
    assert sorted(owned) == sorted(list(range(N)) * len(SIZES[world]))


def gathered() -> tuple:
    rank = Ranks.current().rank
    sizes = [2, 1, 3]
    values = torch.arange(6.0).split(sizes)[rank].to(torch.bfloat16)
    pairs = torch.arange(12).view(6, 2).split(sizes)[rank]
    flags = torch.tensor([True, False, False, True, True, False]).split(sizes)[rank]
    joined = Ranks.current().gather([values, pairs, flags], sizes)
    gradient = [torch.full((2, 2), float(rank)), torch.full((3,), -float(rank))]
    Ranks.current().average(gradient, sizes)
    message = ""
    parameters = [torch.zeros(3), torch.arange(2.0)]
    Ranks.current().check(parameters)
    if rank == 1:
        parameters[1][0] = -0.0  # equal as a number, not as bits
    try:
        Ranks.current().check(parameters)
    except ValueError as error:
        message = str(error)
    return joined, gradient, message


def test_samples_of_any_type_are_joined_in_order_and_gradients_weighted() -> None:
    for joined, gradient, message in together(3, gathered):
        assert torch.equal(joined[0], torch.arange(6.0).to(torch.bfloat16))
        assert torch.equal(joined[1], torch.arange(12).view(6, 2))
        assert joined[2].tolist() == [True, False, False, True, True, False]
        mean = (0 * 2 + 1 * 1 + 2 * 3) / 6  # exact but for the shares' rounding
        assert torch.allclose(gradient[0], torch.tensor(mean), rtol=1e-6)
        assert torch.allclose(gradient[1], torch.tensor(-mean), rtol=1e-6)
        assert "on rank 1 is not that on rank 0" in message


def agreed() -> tuple[bool, int, bool]:
    """What is agreed on where rank 1 is not finite and two columns a rank were clamped, and where all is well."""
    rank, clamped = Ranks.current().rank, torch.tensor(2)
    finite, count = Sharding([4], divided=True).agree(torch.tensor(rank != 1), clamped)
    well, _ = Sharding([4], divided=True).agree(torch.tensor(True), clamped)
    return bool(finite), int(count), bool(well)


def test_what_is_not_finite_on_one_rank_is_so_on_all() -> None:
    assert together(2, agreed) == [(False, 4, True)] * 2


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=8), at=st.integers(0, 7), bit=st.integers(0, 31))
def test_a_checksum_sees_every_bit(values: list[float], at: int, bit: int) -> None:
    tensor = torch.tensor(values)
    changed = tensor.clone()
    flip = 1 << bit if bit < 31 else -(1 << 31)
    changed.view(torch.int32)[at % len(values)] ^= flip
    assert checksum(tensor) != checksum(changed)


def test_one_process_leaves_everything_as_it_is() -> None:
    sharding, H, vector = Sharding(COLUMNS, divided=True), jacobian(2, 1, 0), prior()
    assert sharding.exchange(H, [2]) is H
    assert sharding.whole(vector) is vector
    assert sharding.sum(vector) is vector
    assert sharding.part(vector) is vector


def test_the_update_of_a_part_is_that_of_the_whole() -> None:
    H, p = jacobian(2, 1, 0), prior()
    W = torch.randn(2, 2, dtype=torch.float64)
    gain = Gain(W, W @ torch.ones(2, dtype=torch.float64))
    change, reduction = H.update(p, gain)
    _, layer = H.blocks[1]
    assert isinstance(layer, OuterProduct)
    for columns, part in layer.columns(slice(37, 214)):
        at = slice(1100 + 37 + columns.start, 1100 + 37 + columns.stop)
        # a sum over two samples and two rows of products of four factors
        torch.testing.assert_close(part.update(p[at], gain), (change[at], reduction[at]), rtol=1e-13, atol=1e-14)
