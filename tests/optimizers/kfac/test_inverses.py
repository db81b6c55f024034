"""Every inverse against a dense one in float64, at the damping it was prepared at and at others."""

from __future__ import annotations

import pytest
import torch
from filtune.optimizers.kfac.inverses import MAX_DAMPING_CHANGE, Cholesky, Eigen, InverseMethod, newton
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizers.models import rounding

L, K = 3, 6
EXACT = ["eigen"]
INVERSES = {name: method() for name, method in InverseMethod.registry.items()}


def spd(condition: float, seed: int = 0, k: int = K, dtype: torch.dtype = torch.float64) -> Tensor:
    """L symmetric matrices with eigenvalues spread evenly, in logarithm, between 1 / condition and 1."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(L, k, k, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, -float(torch.tensor(condition).log10()), k, dtype=torch.float64)
    return ((Q * values) @ Q.mT).to(dtype)


def rows(k: int = K) -> Tensor:
    return torch.randn(L, 2, k, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def damped(M: Tensor, lam: Tensor) -> Tensor:
    return M + lam[:, None, None] * torch.eye(M.shape[-1], dtype=M.dtype)


def kept(name: str, M: Tensor, lam: Tensor) -> dict[str, Tensor]:
    inverse = INVERSES[name]
    return {**inverse.decompose(M), **inverse.prepare(M, lam, {})}


@pytest.mark.parametrize("name", INVERSES)
@given(seed=st.integers(0, 1000), exponent=st.floats(-6, 0))
@settings(max_examples=15)
def test_inverts_at_the_damping_it_was_prepared_at(name: str, seed: int, exponent: float) -> None:
    M, lam = spd(1e4, seed), torch.full((L,), 10.0**exponent, dtype=torch.float64)
    solved = INVERSES[name].solve(kept(name, M, lam), rows(), None)
    exact = rows() @ torch.linalg.inv(damped(M, lam))
    # Backward stable but for the explicit inverse, whose residual is bounded by the condition number, at most 1e4; ten
    # roundings a term over k terms, and again for the exact one. Newton's residual is no better where it stagnates.
    assert (solved - exact).norm() <= rounding(2 * 10 * K, condition=1e4) * exact.norm()


@pytest.mark.parametrize("name", EXACT)
@given(factor=st.floats(1e-3, 1e3))
@settings(max_examples=20)
def test_eigenvalues_are_exact_at_every_damping(name: str, factor: float) -> None:
    M, lam = spd(1e4), torch.full((L,), 1e-2, dtype=torch.float64)
    solved = INVERSES[name].solve(kept(name, M, lam), rows(), factor * lam)
    exact = rows() @ torch.linalg.inv(damped(M, factor * lam))
    assert (solved - exact).norm() <= rounding(2 * 10 * K, condition=1e5) * exact.norm()


def test_eigenvalues_give_the_pseudo_inverse_of_an_undamped_zero() -> None:
    M, none = torch.zeros(L, K, K, dtype=torch.float64), torch.zeros(L, dtype=torch.float64)
    assert torch.equal(Eigen().solve(kept("eigen", M, none), rows(), None), torch.zeros(L, 2, K, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in INVERSES if name not in EXACT])
@given(change=st.floats(-MAX_DAMPING_CHANGE, MAX_DAMPING_CHANGE), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_equation_11_has_the_error_it_should(name: str, change: float, seed: int) -> None:
    """Along an eigenvector of eigenvalue mu a relative error of (dlam / (mu + lam))^2."""
    M, lam = spd(1e3, seed), torch.full((L,), 1e-2, dtype=torch.float64)
    values, Q = torch.linalg.eigh(M)
    V = Q.mT  # each row an eigenvector
    solved = INVERSES[name].solve(kept(name, M, lam), V, (1 + change) * lam)
    exact = V / (values + (1 + change) * lam[:, None])[..., None]
    predicted = (change * lam[:, None] / (values + lam[:, None])) ** 2
    error = (exact - solved).norm(dim=-1) / exact.norm(dim=-1)
    assert ((error - predicted).abs() <= rounding(2 * 10 * K, condition=1e3)).all()


@given(factor=st.floats(0.01, 100))
@settings(max_examples=20)
def test_equation_11_is_guarded_and_stays_positive_definite(factor: float) -> None:
    """At twice the damping a singular direction would get the eigenvalue zero, beyond that a negative one."""
    M, lam = spd(1e9), torch.full((L,), 1e-2, dtype=torch.float64)
    identity = torch.eye(K, dtype=torch.float64).expand(L, K, K)
    inverse = INVERSES["cholesky"].solve(kept("cholesky", M, lam), identity, factor * lam)
    least = torch.linalg.eigvalsh((inverse + inverse.mT) / 2)[:, 0]
    assert (least > 0).all()
    unguarded = 1 / lam - (factor - 1) * lam / lam**2
    if factor > 2:
        assert (unguarded < 0).all()


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("paper_start", [False, True])
def test_newtons_residual_falls_by_its_order(order: int, paper_start: bool) -> None:
    """E <- E^order: from |A| at the start, the steps needed are log_order(log(1/2) / log(1 - 1/condition))."""
    condition = 100.0
    A = spd(condition)
    X, works = newton(A, order, paper_start)
    assert works.all()
    identity = torch.eye(K, dtype=torch.float64)
    assert ((identity - A @ X).norm(dim=(-2, -1)) <= rounding(4 * K * K, condition=condition)).all()


@pytest.mark.parametrize("order", [2, 3, 4])
def test_one_newton_step_is_the_papers_equation(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eqs. 19, 20 and 21, from the paper's start A' / tr(A'A)."""
    monkeypatch.setattr("filtune.optimizers.kfac.inverses.MAX_ITERATIONS", 1)
    A = spd(10.0)
    X = A.mT / (A.mT @ A).diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    eye = torch.eye(K, dtype=torch.float64)
    AX = A @ X
    printed = {
        2: X @ (2 * eye - AX),
        3: X @ (3 * eye - 3 * AX + AX @ AX),
        4: X @ (4 * eye - AX @ (6 * eye - AX @ (4 * eye - AX))),
    }[order]
    assert (newton(A, order, True)[0] - printed).norm() <= rounding(10 * 4 * K) * printed.norm()


def test_newton_stops_on_stagnation_in_float32() -> None:
    """It ends well before the most iterations, with the best it had, though its residual floors at eps * condition."""
    A = spd(1e4, dtype=torch.float32)
    X, works = newton(A, 2)
    residual = (torch.eye(K) - A @ X).norm(dim=(-2, -1))
    assert works.all()
    assert (residual <= rounding(10 * K, condition=1e4, dtype=torch.float32)).all()


def test_newton_says_where_it_failed() -> None:
    A = spd(10.0)
    A[1] = -A[1]  # no longer positive definite: it diverges, and is left at its start
    X, works = newton(A, 2)
    assert works.tolist() == [True, False, True]
    assert X.isfinite().all()


@pytest.mark.parametrize("name", ["cholesky", "newton-quadratic", "newton-cubic", "newton-quartic"])
def test_an_indefinite_matrix_keeps_the_inverse_it_had(name: str) -> None:
    M, lam = spd(100.0), torch.full((L,), 0.1, dtype=torch.float64)
    inverse = INVERSES[name]
    first = inverse.prepare(M, lam, {})
    inverse.solve(first, rows(), lam)  # at a damping of its own, for which a factor is replaced by the inverse
    broken = M.clone()
    broken[1] = -M[1]
    second = inverse.prepare(broken, lam / 2, first)
    assert int(second["inverse_failures"]) == 1
    assert torch.equal(second["inverse"][1], first["inverse"][1])
    assert second["prepared"][1] == lam[1]
    assert not torch.equal(second["inverse"][0], first["inverse"][0])


@pytest.mark.parametrize("bad", [float("nan"), -1.0])
def test_the_first_inverse_falls_back_to_a_multiple_of_the_identity(bad: float) -> None:
    M, lam = spd(100.0), torch.full((L,), 0.1, dtype=torch.float64)
    M[2] *= bad
    state = Cholesky().prepare(M, lam, {})
    assert int(state["inverse_failures"]) == 1
    scale = 0.0 if bad != bad else float(1 / (torch.linalg.matrix_norm(M[2]) + lam[2]))
    assert torch.allclose(state["inverse"][2], scale * torch.eye(K, dtype=torch.float64), rtol=1e-15, atol=0)
