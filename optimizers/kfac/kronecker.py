"""The equations of natural gradients with Kronecker factors, as pure functions on tensors.

Shapes: ``L`` layers of one shape at a time, ``out`` outputs, ``k`` inputs (and a column for the bias), ``rows``
positions of a batch. For a layer y = W x, Lambda = E[xx'] (k, k) and Gamma = E[ee'] (out, out), e the derivative of the
log-likelihood by y; the Fisher information of W is taken for Lambda (x) Gamma (GRNG eq. 7).
"""

from __future__ import annotations

import torch
from torch import Tensor


def tikhonov_split(mean_Lambda: Tensor, mean_Gamma: Tensor) -> Tensor:
    """pi of Martens and Grosse (2015, section 6.3), the root of the ratio of the mean eigenvalues, (L,).

    (Lambda + pi c I) (x) (Gamma + c / pi I), c^2 = rho, is the factored approximation to Lambda (x) Gamma + rho I whose
    cross terms have the least trace norm. 1 where one of the factors is zero.
    """
    ratio = mean_Lambda / mean_Gamma
    return torch.where((ratio > 0) & ratio.isfinite(), ratio, 1).sqrt()


def relative_damping(norms: Tensor, largest: Tensor, floor: float) -> Tensor:
    """c_i = max(|M_i|, floor max_j |M_j|) of the damping sqrt(rho) c_i, (L,); GRNG eq. 10a is ``floor`` 0.

    A factor that is zero, as is the Gamma of lora_A while lora_B is, would otherwise not be damped at all.
    """
    return norms.maximum(floor * largest)


def quadratic(Gamma_d: Tensor, d_Lambda: Tensor) -> Tensor:
    """d'Fd of a change d of W, tr(d' Gamma d Lambda), from Gamma d and d Lambda, (L, out, k); (L,)."""
    return (Gamma_d * d_Lambda).sum((-2, -1))


def clip_scale(kl: Tensor, most: float) -> Tensor:
    """By what a step is to be multiplied so that its predicted KL divergence is at most ``most``, ().

    Args:
        kl: Half of step' gradient: an upper bound of half of d'Fd, for (F + damping) d = gradient.
        most: kappa; the scale is min(1, sqrt(kappa / kl)), after Ba et al. (2017).
    """
    return (most / kl.clamp_min(torch.finfo(kl.dtype).tiny)).sqrt().clamp_max(1)


def linear_inverse(VX: Tensor, VXX: Tensor, change: Tensor) -> Tensor:
    """GRNG eq. 11 applied to V: V(X - dlam X^2) from VX and VX^2, where X = (M + lam I)^-1 and lam changed by dlam.

    The relative error is (dlam / (mu + lam))^2 along an eigenvector of M of eigenvalue mu.
    """
    return VX - change * VXX
