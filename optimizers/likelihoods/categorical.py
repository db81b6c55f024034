"""The categorical likelihood: classes, observed as probabilities, as logits, or through its natural parameters.

Shapes throughout: ``B`` batch, ``m`` outputs, ``d`` observation coordinates.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .base import OBSERVATIONS, Innovation, Likelihood, computing


@lru_cache(maxsize=16)
def simplex_basis(m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal basis U of the complement of the vector of ones, (m, m - 1), by Helmert's construction.

    Probabilities and residuals of m classes sum to a constant, so they vary in these m - 1 directions alone.
    U'U = I and UU' = I - 11'/m.
    """
    index = torch.arange(1, m, dtype=torch.float64)
    scale = 1 / (index * (index + 1)).sqrt()
    upper = torch.triu(torch.ones(m, m - 1, dtype=torch.float64)) * scale
    subdiagonal = torch.zeros(m, m - 1, dtype=torch.float64)
    subdiagonal[1:] = torch.diag(index * scale)
    return (upper - subdiagonal).to(dtype=dtype, device=device)


class Categorical(Likelihood):
    """Softmax over m classes.

    Observed as ``probabilities`` (LoKO eq. 6): y is one-hot, h the softmax, and the m - 1 coordinates are those
    of :func:`simplex_basis`. Observed as ``logits``: y is ``target_scale`` times one-hot and h the logits, m
    coordinates; of two classes the difference of the logits is observed, against +-``target_scale``.

    Args:
        outputs: Logits, (B, m).
        target_scale: Scale of the target where logits are observed; default 1 for more than two classes and
            2 for two.

    Raises:
        ValueError: If there are fewer than two classes.
    """

    def __init__(self, outputs: Tensor, target_scale: float | None = None) -> None:
        super().__init__(outputs)
        self.classes = outputs.shape[1]
        if self.classes < 2:
            raise ValueError("Categorical takes at least two logits; use Gaussian for a single value")
        self.target_scale = target_scale if target_scale is not None else (2.0 if self.classes == 2 else 1.0)

    def mean(self) -> Tensor:
        """Class probabilities, (B, m)."""
        return computing(self.outputs).softmax(-1)

    def nll(self, target: Tensor) -> Tensor:
        """Cross-entropy, averaged over the batch, ()."""
        return torch.nn.functional.cross_entropy(self.outputs.float() if self._half else self.outputs, target)

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Residual and cotangents of the probabilities (d = m - 1) or the logits (d = m; 1 for two classes).

        Raises:
            ValueError: If ``observation`` is neither ``probabilities`` nor ``logits``.
        """
        if observation == "probabilities":
            return self._observe_probabilities(target)
        if observation == "logits":
            return self._observe_logits(target)
        raise ValueError(f"observation must be one of {OBSERVATIONS}, got {observation!r}")

    def natural(self, target: Tensor, tolerance: float = 0.0, likely: int = 0) -> Innovation:
        """The logits in the m - 1 coordinates U'z, with F = U'(diag(p) - pp')U and residual U'(y - p).

        F = LL' with L = U'D(I - qq'), D = diag(q), q = sqrt(p): nothing is divided by a small probability. With a
        ``tolerance``, F is cut to its leading directions; see :func:`leading`. With ``likely``, a sample is
        observed in as many directions of its own; see :func:`likely_contrasts`.
        """
        p, basis = self.mean(), self._basis()
        observed = self._one_hot(target) @ basis
        residual = observed - p @ basis
        cotangents = basis.mT.expand(len(p), -1, -1)
        if tolerance > 0:
            return leading(Innovation(residual, cotangents, observed), self.covariance(), tolerance)
        q = p.sqrt()
        scaled = q.unsqueeze(-1) * basis  # DU, so that L' = (I - qq') DU
        factor = (scaled - q.unsqueeze(-1) * (q.unsqueeze(1) @ scaled)).mT
        if self.classes == 2:
            factor = factor.norm(dim=-1, keepdim=True)
        full = Innovation(residual, cotangents, observed, factor)
        return full.project(likely_contrasts(p, target, likely).mT @ basis) if 0 < likely < basis.shape[1] else full

    def contrasts(self, target: Tensor, k: int) -> Tensor | None:
        """Return the directions of :func:`likely_contrasts` in the m - 1 coordinates, (B, k, m - 1)."""
        basis = self._basis()
        return likely_contrasts(self.mean(), target, k).mT @ basis if 0 < k < basis.shape[1] else None

    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """The widest range of the direction over one sample's classes.

        The third derivative is the third moment E (u - Eu)(v - Ev)^2 <= (max u - min u) Var v.
        """
        return (direction.amax(-1) - direction.amin(-1)).amax()

    def covariance(self) -> Tensor:
        """U'(diag(p) - pp')U, the softmax covariance in the m - 1 coordinates, (B, m - 1, m - 1)."""
        p, basis = self.mean(), self._basis()
        return basis.mT @ (torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)) @ basis

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw labels from the softmax, (B,); where it is not a number, any label, for the draw would fail."""
        return torch.multinomial(self.mean().nan_to_num(1.0), 1, generator=generator).squeeze(-1)

    @property
    def _half(self) -> bool:
        return self.outputs.dtype in (torch.float16, torch.bfloat16)

    def _basis(self) -> Tensor:
        dtype = torch.float64 if self.outputs.dtype == torch.float64 else torch.float32
        return simplex_basis(self.classes, dtype, self.outputs.device)

    def _observe_probabilities(self, target: Tensor) -> Innovation:
        p, basis = self.mean(), self._basis()
        observed = self._one_hot(target) @ basis
        # d(u'p)/dz = (diag(p) - pp') u, for every column u of the basis
        cotangents = p.unsqueeze(1) * (basis.mT.unsqueeze(0) - (p @ basis).unsqueeze(-1))
        return Innovation(observed - p @ basis, cotangents, observed)

    def _observe_logits(self, target: Tensor) -> Innovation:
        z = computing(self.outputs)
        if self.classes == 2:
            sign = 2 * target.to(z.dtype) - 1
            observed = (self.target_scale * sign).unsqueeze(-1)
            difference = (z[:, 1] - z[:, 0]).unsqueeze(-1)
            return Innovation(observed - difference, z.new_tensor([[[-1.0, 1.0]]]).expand(len(z), 1, 2), observed)
        observed = self.target_scale * self._one_hot(target)
        identity = torch.eye(self.classes, dtype=z.dtype, device=z.device)
        return Innovation(observed - z, identity.expand(len(z), -1, -1), observed)

    def _one_hot(self, target: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(target, self.classes).to(computing(self.outputs).dtype)


def likely_contrasts(p: Tensor, target: Tensor, likely: int) -> Tensor:
    r"""Orthonormal directions of the logits in which the classes that matter move, and all others as one.

    Told apart are the label and the most probable of the other classes, S. Where the rest moves along its own
    probabilities, w = p_j / sum p over the classes j outside S, the gradient y - p is among these directions, which sum
    to zero: {a : a_j = b w_j outside S, 1'a = 0}. They are the complement of 1 in the span of the e_s and w / |w|, by
    Householder's reflection.

    Args:
        p: Probabilities, (B, m).
        target: Classes, (B,).
        likely: Size of S, fewer than m - 1.

    Returns:
        Directions C, (B, m, likely), C'C = I.
    """
    ranked = p.nan_to_num(0).scatter(1, target.unsqueeze(1), 2)  # above any probability
    told = ranked.topk(likely, dim=1).indices
    rest = torch.ones_like(p).scatter(1, told, 0)
    w = rest * p.clamp_min(torch.finfo(p.dtype).tiny)
    w = w / w.amax(1, keepdim=True)  # first, so that squares do not underflow
    w = w / w.norm(dim=1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(told, p.shape[1]).to(p.dtype).mT
    span = torch.cat([w.unsqueeze(-1), one_hot], -1)
    ones = span.sum(1)  # what 1 is in the span
    ones = ones / ones.norm(dim=1, keepdim=True)
    v = torch.cat([1 + ones[:, :1], ones[:, 1:]], 1)
    # I - 2 vv'/v'v = I - vv'/v_0 brings the first axis to -1 and the others to what is orthogonal to it
    return span[..., 1:] - (span @ v.unsqueeze(-1)) @ (v[:, 1:] / v[:, :1]).unsqueeze(1)


def leading(full: Innovation, F: Tensor, tolerance: float) -> Innovation:
    """Cut F to its leading directions, so that fewer rows of the Jacobian are needed.

    With F_k = sum_i lambda_i w_i w_i' over the k largest eigenvalues, the update needs the rows w_i'J and the gradient
    e'J alone. A last row, x'J with x = sum_i s_i sqrt(lambda_i) w_i over the directions left out (E = F - F_k) and
    random signs s, bears no residual and no precision: its entry of JPJ' has expectation tr(E JPJ'). That trace
    bounds the relative error of the change of state, and of the posterior covariance, both in the prior's metric.

    Args:
        full: Residual e, cotangents and y in all coordinates.
        F: Precision of these coordinates, (B, d, d).
        tolerance: Trace of F that may be left out in every sample; at least one direction stays.

    Returns:
        The innovation in k + 2 coordinates: the k directions, e / |e|, and x.
    """
    values, vectors = torch.linalg.eigh(torch.nan_to_num(F.double()))
    values, vectors = values.flip(-1).clamp_min(0), vectors.flip(-1)
    left_out = values.sum(-1, keepdim=True) - values.cumsum(-1)
    k = max(1, int((left_out > tolerance).sum(-1).max()) + 1)
    if k + 2 >= F.shape[-1]:
        scales = values.sqrt().unsqueeze(1)
        return full._replace(factor=(vectors * scales).to(F.dtype))
    e = full.residual.unsqueeze(-1)
    length = e.norm(dim=1, keepdim=True)
    signs = torch.randint(2, values[:, k:].shape, device=F.device) * 2 - 1
    x = vectors[..., k:] @ (signs * values[:, k:].sqrt()).unsqueeze(-1)
    T = torch.cat([vectors[..., :k].to(e), e / length.clamp_min(torch.finfo(e.dtype).tiny), x.to(e)], -1)
    residual = e.new_zeros(len(e), k + 2)
    residual[:, k] = length.flatten()
    factor = e.new_zeros(len(e), k + 2, k)
    factor[:, :k] = torch.diag_embed(values[:, :k].sqrt()).to(e)
    return Innovation(residual, T.mT @ full.cotangents, full.observed, factor, has_residual_probe=True)
