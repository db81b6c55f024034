r"""LoKO: the low-rank Kalman optimizer, an extended Kalman filter with a diagonal covariance."""

from __future__ import annotations

from typing import Literal

import torch

from .filter import KalmanOptimizer
from .jacobian import Method
from .settings import Settings

Noise = Literal["identity", "annealed", "softmax", "mode", "ema-1", "ema-2", "ema-minus", "scalar"]


class LoKO(KalmanOptimizer):
    r"""Low-Rank Kalman Optimizer (LoKO, Algorithm 1).

    The parameters theta are the state of a filter with identity transition and covariance diag(p). A batch of B
    samples is observed jointly in d coordinates each: residual e (B*d,), Jacobian H (B*d, n), noise I_B (x) R.

    .. math::
        R &\leftarrow \beta R + (1-\beta)(e e^\top + H P H^\top)      & (12)\\
        S &= H (p \bullet H^\top) + R, \quad K = p \bullet H^\top S^{-1} & (11a)\\
        \theta &\leftarrow \theta + K e                              & (11b)\\
        p &\leftarrow p - \mathrm{diag}(K H)\, p                     & (11c)

    There is no learning rate.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Initial variance of the state, or its upper bound; positive.
        p0_init: ``constant``, p = p0 (method 1), or ``uniform``, p ~ U(0, p0) from torch's global generator
            (method 2, the paper's choice).
        beta: Forgetting factor of the observation noise, in [0, 1).
        noise: ``ema-2`` (eq. 12, the paper's choice), ``ema-1`` (eq. 7, without HPH'), ``ema-minus`` (HPH'
            subtracted), ``identity`` (R = r0 I), ``annealed`` (r0 I exp(-k/50)), ``softmax`` (diag(y) - yy', in its
            stable form), ``mode`` (the same at the mode of the posterior; ours, see
            :class:`~optimizers.kalman.posterior_mode.Mode`), or ``scalar`` (one running number).
        observation: ``probabilities`` (the paper) or ``logits`` (ours); see :class:`Categorical`.
        r0: Initial observation noise, R = r0 I; may be zero where the noise is averaged in.
        process_noise: q of P <- P + q I before every step; the paper has none.
        row_tolerance: With softmax noise, trace of it that may be left out to save rows of the Jacobian; ours.
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
        p0: float = 0.2,
        p0_init: Literal["constant", "uniform"] = "uniform",
        beta: float = 0.95,
        noise: Noise = "ema-2",
        observation: Literal["probabilities", "logits"] = "probabilities",
        r0: float = 1.0,
        process_noise: float = 0.0,
        row_tolerance: float = 0.0,
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
            process_noise=process_noise,
            row_tolerance=row_tolerance,
            explode=explode,
            dtype=dtype,
            jacobian=jacobian,
            max_rows=max_rows,
        )
        super().__init__(params, p0, p0_init, settings)
