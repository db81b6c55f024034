"""DenseBlock and factored blocks agree with the dense formulas of LoKO eq. 11, for all shapes and chunk sizes."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from filtune.optimizers.kalman import blocks
from filtune.optimizers.kalman.blocks import Block, BlockJacobian, DenseBlock, Gain, OuterProduct
from filtune.optimizers.kalman.equations import innovation_covariance, posterior_variance
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizers.models import relative, rounding

SHAPES = {
    "B": st.integers(1, 4),
    "d": st.integers(1, 5),
    "out": st.integers(1, 6),
    "width": st.integers(1, 6),
    "seed": st.integers(0, 999),
}
CHUNKS = [1, 7, 64, 1 << 20]


class Problem(NamedTuple):
    """Factors, variance, noise and residual of a random dense layer."""

    G: Tensor
    X: Tensor
    p: Tensor
    R: Tensor
    e: Tensor


def problem(B: int, d: int, out: int, width: int, seed: int) -> Problem:
    """A random one; R = I + AA' keeps S regular."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A = normal(d, d)
    p = torch.rand(out * width, generator=g, dtype=torch.float64) + 0.01
    return Problem(normal(B, d, out), normal(B, width), p, torch.eye(d).double() + A @ A.T, normal(B * d))


def check(block: Block | BlockJacobian, H: Tensor, it: Problem) -> None:
    """gram and update against H diag(p) H', K e and diag(KH) p written out."""
    gram = H @ torch.diag(it.p) @ H.T
    S = gram + torch.block_diag(*[it.R] * (len(H) // len(it.R)))
    K = torch.diag(it.p) @ H.T @ torch.linalg.inv(S)
    L_inverse = torch.linalg.inv(torch.linalg.cholesky(S))
    change, reduction = block.update(it.p, Gain(L_inverse, L_inverse @ it.e))
    terms, condition = 10 * (len(H) + len(it.p)), float(torch.linalg.cond(S))
    assert bool(((block.gram(it.p) - gram).abs() <= rounding(terms) * ((H.abs() * it.p) @ H.abs().T)).all())
    scale = float((K.abs() @ it.e.abs()).max())
    assert (change - K @ it.e).abs().max() <= rounding(terms, condition) * scale
    assert (reduction - (K @ H).diagonal() * it.p).abs().max() <= rounding(terms, condition) * float(it.p.max())
    assert torch.equal(innovation_covariance(gram, it.R), S)
    check_products(block, H, it)


def check_products(block: Block | BlockJacobian, H: Tensor, it: Problem) -> None:
    """cross, combine and squares against V diag(p) H', CH and diag(H'C'CH) written out, entry by entry.

    Every entry is a sum of products, whose rounding is bounded by that of the sum of their absolute values.
    """
    g, terms = torch.Generator().manual_seed(len(H)), 10 * (len(H) + len(it.p))
    V, C = (torch.randn(3, k, generator=g, dtype=torch.float64) for k in (len(it.p), len(H)))
    combined, squares = torch.empty(3, len(it.p)).double(), torch.empty(len(it.p)).double()
    block.combine(C, combined)
    block.squares(C, squares)
    limits = (V.abs() * it.p) @ H.abs().T, C.abs() @ H.abs(), (C.abs() @ H.abs()).square().sum(0)
    exact = (V * it.p) @ H.T, C @ H, (C @ H).square().sum(0)
    for found, truth, limit in zip((block.cross(it.p, V), combined, squares), exact, limits, strict=True):
        assert found.shape == truth.shape
        assert bool(((found - truth).abs() <= rounding(terms) * limit).all())
    assert block.cross(it.p, V[:0]).shape == (0, len(H))


@pytest.mark.parametrize("chunk", CHUNKS)
@given(**SHAPES)
def test_blocks_equal_the_dense_formulas(chunk: int, B: int, d: int, out: int, width: int, seed: int) -> None:
    it = problem(B, d, out, width, seed)
    H = torch.stack([torch.kron(g, x) for gs, x in zip(it.G, it.X, strict=True) for g in gs])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CHUNK_ELEMENTS", chunk)
        factored = OuterProduct(it.G, it.X)
        assert torch.equal(factored.dense(), H)
        check(factored, H, it)
        check(DenseBlock(H), H, it)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunks_are_as_small_as_asked(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CHUNK_ELEMENTS", chunk)
    it = problem(4, 3, 5, 6, 0)
    columns = [H.stop - H.start for H in DenseBlock(OuterProduct(it.G, it.X).dense())._chunks()]
    pairs = [len(pairs) for pairs in OuterProduct(it.G, it.X)._pairs()]
    assert sum(columns) == 30
    assert sum(pairs) == 16
    assert max(columns) <= max(1, chunk // 12)
    assert max(pairs) <= max(4, chunk // 6)
    assert len(columns) == math.ceil(30 / max(1, min(30, chunk // 12)))


@given(cut=st.integers(1, 3), **SHAPES)
def test_a_jacobian_of_blocks_is_the_blocks_side_by_side(
    cut: int, B: int, d: int, out: int, width: int, seed: int
) -> None:
    first, second = problem(B, d, out, width, seed), problem(B, d, cut, width, seed + 1)
    left, right = OuterProduct(first.G, first.X), DenseBlock(OuterProduct(second.G, second.X).dense())
    n = out * width
    p = torch.cat([first.p, second.p])
    both = BlockJacobian([(slice(0, n), left), (slice(n, len(p)), right)])
    check(both, torch.cat([left.dense(), right.H], 1), first._replace(p=p))


@given(**SHAPES)
def test_posterior_variance_lies_between_zero_and_the_prior(B: int, d: int, out: int, width: int, seed: int) -> None:
    it = problem(B, d, out, width, seed)
    factored = OuterProduct(it.G, it.X)
    L_inverse = torch.linalg.inv(torch.linalg.cholesky(innovation_covariance(factored.gram(it.p), it.R)))
    _, reduction = factored.update(it.p, Gain(L_inverse, L_inverse @ it.e))
    posterior, clamped = posterior_variance(it.p, reduction)
    assert bool((posterior > 0).all() & (posterior <= it.p).all())
    assert int(clamped) == 0


def test_a_difference_below_the_resolution_is_floored_and_counted() -> None:
    p = torch.tensor([1.0, 2.0, 4.0])
    posterior, clamped = posterior_variance(p, torch.tensor([1.0, 0.5, 5.0]))
    eps = torch.finfo(torch.float32).eps
    assert torch.equal(posterior, torch.tensor([eps, 1.5, 4 * eps]))
    assert int(clamped) == 2


def test_relative_is_the_error_it_says() -> None:
    assert relative(torch.tensor([1.0, 2.2]), torch.tensor([1.0, 2.0])) == pytest.approx(0.1, rel=1e-6)
