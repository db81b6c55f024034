r"""R-Kalman: the Kalman filter of GRNG with gradient-regularised observation noise."""

from __future__ import annotations

from typing import Literal

import torch

from .filter import KalmanOptimizer
from .jacobian import Method
from .loko import Noise
from .settings import Settings


class RKalman(KalmanOptimizer):
    r"""Regularised Kalman algorithm (GRNG, Algorithm 2) with the diagonal covariance of section 5.1.

    .. math::
        P &\leftarrow P + q I                                                              & (\text{line } 5)\\
        R &\leftarrow \beta R + (1-\beta)(e e^\top + H P H^\top)                           & (\text{lines } 9, 10)\\
        \tilde K &= P H^\top \left(H P H^\top + R (I + \rho R)^{-1}\right)^{-1}            & (15)\\
        \theta &\leftarrow \theta + \tilde K e, \quad P \leftarrow P - \tilde K H P        & (\text{lines } 13, 14)

    rho = 0 is LoKO. R lives in orthonormal coordinates, the only ones in which rho I means the same for every choice
    of them. Of the paper's equations 13b and 14c the signs are read as in its Algorithm 2.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: sigma0 of the paper, the initial variance, Sigma0 = sigma0 I; positive.
        p0_init: ``constant`` (the paper), or ``uniform``, p ~ U(0, p0).
        beta: Forgetting factor of the observation noise, in [0, 1); the paper finds 0.94 to 0.99 alike.
        rho: Regularisation, zero or positive. The paper does not say which; its 1e-4 is that of RING and RENG.
        neumann: R(I - rho R) in place of R(I + rho R)^-1; fails where rho times R's largest eigenvalue reaches 1.
        noise: As in :class:`LoKO`; ``ema-2`` is the paper's.
        observation: ``probabilities`` (the paper) or ``logits`` (ours).
        r0: Initial observation noise, R = r0 I; 0 is the paper's.
        process_noise: q of the prediction; 0 is the paper's.
        explode: How many times the size of what is observed an innovation may have before the filter counts as
            diverged.
        dtype: Floating type of p, R and the algebra, whatever the model's own.
        jacobian: ``batched``, or ``loop`` (slow: one backward pass a row).
        max_rows: Most Jacobian rows computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        p0: float = 0.1,
        p0_init: Literal["constant", "uniform"] = "constant",
        beta: float = 0.96,
        rho: float = 1e-4,
        neumann: bool = False,
        noise: Noise = "ema-2",
        observation: Literal["probabilities", "logits"] = "probabilities",
        r0: float = 0.0,
        process_noise: float = 0.0,
        explode: float = 100.0,
        dtype: Literal["float32", "float64"] = "float32",
        jacobian: Method = "batched",
        max_rows: int = 256,
    ) -> None:
        settings = Settings(
            noise=noise,
            beta=beta,
            r0=r0,
            observation=observation,
            rho=rho,
            neumann=neumann,
            process_noise=process_noise,
            explode=explode,
            dtype=dtype,
            jacobian=jacobian,
            max_rows=max_rows,
        )
        super().__init__(params, p0, p0_init, settings)
