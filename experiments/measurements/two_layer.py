r"""A two-layer network whose Jacobian is known in closed form, and the update of GRNG's appendix C on it.

Shapes: ``N`` samples, ``D`` inputs, ``m`` hidden units; W (m, D) is trained, n = m D. A Jacobian H (N, n) is kept as
the slopes S (N, m) that it is linear in, H[S]_i = sum_r a_r S_ir x_i / sqrt(m) in the block of unit r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CURVATURE = 4 / (3 * math.sqrt(3))
"""The largest |tanh''|."""


@dataclass(frozen=True)
class TwoLayer:
    """yhat_i = sum_r a_r tanh(w_r' x_i) / sqrt(m), the output weights a fixed at +-1.

    Attributes:
        X: Inputs, rows of unit length, (N, D).
        y: Targets, (N,).
        a: Output weights, (m,).
        W0: Initial weights, (m, D).
    """

    X: Tensor
    y: Tensor
    a: Tensor
    W0: Tensor

    def outputs(self, W: Tensor) -> Tensor:
        """Return the predictions yhat, (N,)."""
        return torch.tanh(self.X @ W.mT) @ self.a / math.sqrt(len(self.a))

    def slopes(self, W: Tensor) -> Tensor:
        """Return S with H(W) = H[S], (N, m)."""
        return 1 - torch.tanh(self.X @ W.mT).square()

    def mean_slopes(self, V: Tensor, W: Tensor) -> Tensor:
        """Return the slopes of the Jacobian's mean over the segment from V to W, exactly, (N, m).

        The mean of tanh' from a to b is (tanh b - tanh a) / (b - a) = sinh(b - a) / ((b - a) cosh a cosh b).
        """
        a, b = self.X @ V.mT, self.X @ W.mT
        gap = b - a
        ratio = torch.where(gap == 0, torch.ones_like(gap), torch.sinh(gap) / gap)
        return ratio / (torch.cosh(a) * torch.cosh(b))

    def pull(self, S: Tensor, v: Tensor) -> Tensor:
        """Return H[S]' v for v (N,), shaped as W, (m, D)."""
        return self.a.unsqueeze(1) * (S.mT @ (v.unsqueeze(1) * self.X)) / math.sqrt(len(self.a))

    def gram(self, S: Tensor, T: Tensor) -> Tensor:
        """Return H[S] H[T]', (N, N)."""
        return (S @ T.mT / len(self.a)) * (self.X @ self.X.mT)

    def norm(self, S: Tensor) -> Tensor:
        """Return the spectral norm of H[S], ()."""
        return torch.linalg.eigvalsh(self.gram(S, S))[-1].clamp(min=0).sqrt()


def random_network(X: Tensor, y: Tensor, width: int, seed: int) -> TwoLayer:
    """Return a network with random weights on inputs X (N, D), made of unit length, and targets y (N,)."""
    generator = torch.Generator().manual_seed(seed)
    W0 = torch.randn(width, X.shape[1], dtype=torch.float64, generator=generator)
    a = 2.0 * torch.randint(2, (width,), generator=generator).double() - 1
    return TwoLayer(torch.nn.functional.normalize(X), y, a, W0)


def damping(G: Tensor, e: Tensor, rho: float) -> Tensor:
    """Return rho~ = rho |grad L|^2 = rho |H'e|^2 = rho e'Ge (appendix C), ()."""
    return rho * (e @ G @ e)


def update(net: TwoLayer, W: Tensor, rho: float) -> Tensor:
    """Return W - H' (G + rho~ I)^-1 (yhat - y), the update of appendix C, (m, D)."""
    S, e = net.slopes(W), net.outputs(W) - net.y
    G = net.gram(S, S)
    identity = torch.eye(len(e), dtype=e.dtype)
    return W - net.pull(S, torch.linalg.solve(G + damping(G, e, rho) * identity, e))


def measure(net: TwoLayer, W: Tensor, V: Tensor, rho: float) -> dict[str, float]:
    """Return all quantities of appendix C, of one update from W to V.

    Its four terms are (1) = -e, (2) = -(Hbar - H) H' G^-1 e, (3) = rho~ G^-1 e, (4) = -rho~ (Hbar - H) H' G^-2 e, with
    Hbar the mean of the Jacobian over the segment from W to V.
    """
    S0, S, mean = net.slopes(net.W0), net.slopes(W), net.mean_slopes(W, V)
    e, after = net.outputs(W) - net.y, net.outputs(V) - net.y
    G, cross = net.gram(S, S), net.gram(mean - S, S)
    values, rho_k = torch.linalg.eigvalsh(G), damping(G, e, rho)
    once = torch.linalg.solve(G, e)
    twice = rho_k * torch.linalg.solve(G, once)
    terms = {"term_1": e, "term_2": cross @ once, "term_3": G @ twice, "term_4": cross @ twice}
    truncated = (G + cross) @ (once - twice)
    found = {
        "error": e.norm(),
        "next": after.norm(),
        "damping": rho_k,
        "least": values[0],
        "kappa": values[-1] / values[0],
        "move": (V - W).norm(),
        "distance": (V - net.W0).norm(),
        "deviation": torch.maximum(net.norm(S - S0), net.norm(mean - S0)),
        "change": net.norm(mean - S),
        "outputs_change": (after - e).norm(),
        "outputs_change_truncated": truncated.norm(),
        **{name: vector.norm() for name, vector in terms.items()},
    }
    return {name: float(value) for name, value in found.items()}


def least(net: TwoLayer) -> float:
    """Return the least eigenvalue of G0, ()."""
    S = net.slopes(net.W0)
    return float(torch.linalg.eigvalsh(net.gram(S, S))[0])


def radius(net: TwoLayer) -> float:
    """Return the radius of the ball of assumption 4.2."""
    return 3 * float((net.outputs(net.W0) - net.y).norm()) / math.sqrt(least(net))


def stability(net: TwoLayer, deviation: float) -> float:
    """Return the C with which eq. 16 would hold with equality where |H - H0| is the deviation."""
    return 3 * deviation / math.sqrt(least(net))


def drawn(net: TwoLayer, draws: int, generator: torch.Generator) -> float:
    """Return C of random points of the ball's surface: a lower bound of the C that holds everywhere."""
    S0, found = net.slopes(net.W0), 0.0
    for _ in range(draws):
        step = torch.randn(net.W0.shape, dtype=torch.float64, generator=generator)
        point = net.W0 + radius(net) * step / step.norm()
        found = max(found, float(net.norm(net.slopes(point) - S0)))
    return stability(net, found)


def climbed(net: TwoLayer, steps: int, generator: torch.Generator) -> float:
    """Return C of points of the ball's surface that the gradient of |H - H0| leads to: a better lower bound."""
    S0, found = net.slopes(net.W0), 0.0
    direction = torch.randn(net.W0.shape, dtype=torch.float64, generator=generator)
    for _ in range(steps):
        point = (net.W0 + radius(net) * direction / direction.norm()).requires_grad_()
        deviation = net.norm(net.slopes(point) - S0)
        (direction,) = torch.autograd.grad(deviation, point)
        found = max(found, float(deviation.detach()))
    return stability(net, found)


def certain(net: TwoLayer) -> float:
    """Return a C that holds everywhere in the ball.

    |H[S] - H0|_2 <= |S - S0|_F / sqrt(m) <= max|tanh''| |X|_2 r / sqrt(m), the first by
    Schur's product theorem, since the rows of X are of unit length.
    """
    spectral = float(torch.linalg.matrix_norm(net.X, 2))
    return stability(net, CURVATURE * spectral * radius(net) / math.sqrt(len(net.a)))
