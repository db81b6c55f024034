r"""R-Kalman: the Kalman filter of GRNG with gradient-regularised observation noise."""

from __future__ import annotations

from typing import Literal

import torch

from ..parts import Spec
from .filter import KalmanOptimizer


class RKalman(KalmanOptimizer):
    r"""Regularised Kalman algorithm (GRNG, Algorithm 2) with the diagonal covariance of section 5.1.

    .. math::
        P &\leftarrow P + q I                                                              & (\text{line } 5)\\
        R &\leftarrow \beta R + (1-\beta)(e e^\top + H P H^\top)                           & (\text{lines } 9, 10)\\
        \tilde K &= P H^\top \left(H P H^\top + R (I + \rho R)^{-1}\right)^{-1}            & (15)\\
        \theta &\leftarrow \theta + \tilde K e, \quad P \leftarrow P - \tilde K H P        & (\text{lines } 13, 14)

    rho = 0 is LoKO. R is in orthonormal coordinates, the only ones in which rho I means the same for every choice of
    them. The signs of the paper's equations 13b and 14c are read as in its Algorithm 2.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: sigma0 of the paper, the initial variance, Sigma0 = sigma0 I; positive.
        p0_init: ``constant`` (the paper), or ``uniform``, p ~ U(0, p0).
        beta: Forgetting factor of the observation noise, in [0, 1); the paper finds 0.94 to 0.99 alike.
        rho: Regularisation, zero or positive. The paper does not give it; its 1e-4 is that of RING and RENG.
        neumann: Use R(I - rho R) in place of R(I + rho R)^-1; fails where rho times R's largest eigenvalue reaches 1.
        noise: As in :class:`LoKO`; ``ema-2`` is the paper's.
        update: As in :class:`LoKO`; ``posterior_mode`` needs rho 0.
        observation: ``probabilities`` (the paper) or ``logits`` (ours).
        r0: Initial observation noise, R = r0 I; 0 is the paper's.
        process_noise: q of the prediction; 0 is the paper's.
        divergence_threshold: Size of an innovation, relative to what is observed, from which on the filter counts as
            diverged.
        dtype: Floating type of p, R and the algebra, whatever the model's own.
        vectorize: Whether all rows of the Jacobian are computed in one backward pass; in one each is slow.
        chunk_size: Most Jacobian rows computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range, or is an option of a noise other than the chosen one.
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
