r"""R-Kalman: the Kalman filter of GRNG with gradient-regularised observation noise."""

from __future__ import annotations

from typing import Literal

import torch

from ..parts import Spec
from .filter import KalmanOptimizer


class RKalman(KalmanOptimizer):
    r"""Regularised Kalman filter with a diagonal covariance.

    .. math::
        P &\leftarrow P + q I                                                              & (\text{line } 5)\\
        R &\leftarrow \beta R + (1-\beta)(e e^\top + H P H^\top)                           & (\text{lines } 9, 10)\\
        \tilde K &= P H^\top \left(H P H^\top + R (I + \rho R)^{-1}\right)^{-1}            & (15)\\
        \theta &\leftarrow \theta + \tilde K e, \quad P \leftarrow P - \tilde K H P        & (\text{lines } 13, 14)

    P = diag(p) as in section 5.1 of the paper. rho = 0 is LoKO. R is in orthonormal coordinates, the only ones in which
    rho I means the same for every choice of them. The signs of the paper's equations 13b and 14c are read as in its
    Algorithm 2.

    Source: Dash et al. (2026), [arXiv:2601.18420](https://arxiv.org/abs/2601.18420), Algorithm 2 and equation 15.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Initial variance of the state; positive. It is sigma0 of the paper, Sigma0 = sigma0 I.
        p0_init: ``constant``, p = p0 (the paper), or ``uniform``, p ~ U(0, p0).
        beta: Forgetting factor of the observation noise, in [0, 1); the paper finds 0.94 to 0.99 alike.
        rho: Regularisation of the noise, zero or positive. The paper does not give it; its 1e-4 is that of RING and
            RENG.
        neumann: Use the first-order form R(I - rho R) in place of R(I + rho R)^-1; it fails where rho times R's largest
            eigenvalue reaches 1.
        noise: Estimator of the observation noise R (d, d), by name, or a mapping with its ``name`` and options:
            ``ema-2`` (the paper's), ``ema-1``, ``ema_innovation``, ``identity``, ``annealed``, ``softmax`` or
            ``scalar``; :class:`LoKO` describes them.
        update: Point at which the observation is linearised: ``prediction`` (the paper), or ``posterior_mode`` (ours;
            it needs rho 0 and the default noise).
        observation: Outputs that are observed: ``probabilities`` (the paper) or ``logits`` (ours), whose targets are
            constants.
        r0: Initial observation noise, R = r0 I; zero (the paper) or positive.
        process_noise: Variance q that is added before every step, P <- P + q I; zero (the paper) or positive.
        divergence_threshold: The filter counts as diverged when an innovation is this many times as large as what is
            observed on average, or as 1.
        dtype: Floating type of p, R and the algebra, whatever the model's own.
        vectorize: Compute all rows of the Jacobian in one backward pass; ``false`` takes one backward pass per row,
            which is slow but works for operations that torch cannot vectorise.
        chunk_size: Largest number of rows of the Jacobian that are computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range, or is an option of a noise other than the chosen one.

    Examples:
        One observation of a mean; with rho 0 the filter is LoKO with a constant prior.

        >>> import torch
        >>> from filtune import Gaussian, LoKO, RKalman
        >>> a, b = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
        >>> r_kalman = RKalman([a], p0=0.1, rho=0.0, beta=0.95, r0=1.0)
        >>> loko = LoKO([b], p0=0.1, p0_init="constant", beta=0.95, r0=1.0)
        >>> for theta, optimizer in ((a, r_kalman), (b, loko)):
        ...     seen = optimizer.step(lambda: Gaussian(theta).observe(torch.tensor([2.0])))
        >>> 0 < a.item() < 2
        True
        >>> torch.equal(a, b)
        True
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        p0: float = 0.1,
        p0_init: Literal["constant", "uniform"] = "constant",
        beta: float = 0.96,
        rho: float = 1e-4,
        neumann: bool = False,
        noise: Spec = "ema-2",
        update: Literal["prediction", "posterior_mode"] = "prediction",
        observation: Literal["probabilities", "logits"] = "probabilities",
        r0: float = 0.0,
        process_noise: float = 0.0,
        divergence_threshold: float = 100.0,
        dtype: Literal["float32", "float64"] = "float32",
        vectorize: bool = True,
        chunk_size: int = 256,
    ) -> None:
        super().__init__(
            params,
            p0,
            p0_init,
            rho=rho,
            neumann=neumann,
            noise=noise,
            update=update,
            observation=observation,
            process_noise=process_noise,
            divergence_threshold=divergence_threshold,
            dtype=dtype,
            vectorize=vectorize,
            chunk_size=chunk_size,
            beta=beta,
            r0=r0,
        )
