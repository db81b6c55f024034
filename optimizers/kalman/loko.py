r"""LoKO: the low-rank Kalman optimizer, an extended Kalman filter with a diagonal covariance."""

from __future__ import annotations

from typing import Literal

import torch

from ..parts import Spec
from .filter import KalmanOptimizer


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
        noise: Name of an observation noise, or a mapping with its ``name`` and options:
            ``ema-2`` (eq. 12, the paper's choice), ``ema-1`` (eq. 7, without HPH'), ``ema_innovation`` (HPH'
            subtracted), ``identity`` (R = r0 I), ``annealed`` (r0 I exp(-k/50)), ``softmax`` (diag(p) - pp', in its
            stable form), or ``scalar`` (one running number).
        update: Where the observation is linearised: at the ``prediction`` (the extended Kalman filter), or at the
            ``posterior_mode`` with the likelihood's own noise (ours; see
            :class:`~optimizers.kalman.posterior_mode.PosteriorModeUpdate`).
        observation: ``probabilities`` (the paper) or ``logits`` (ours); see :class:`Categorical`.
        r0: Initial observation noise, R = r0 I; may be zero where the noise is averaged.
        process_noise: q of P <- P + q I before every step; the paper has none.
        rank_tolerance: With softmax noise, trace of it that may be left out to save rows of the Jacobian; ours.
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
        p0: float = 0.2,
        p0_init: Literal["constant", "uniform"] = "uniform",
        beta: float = 0.95,
        noise: Spec = "ema-2",
        update: Literal["prediction", "posterior_mode"] = "prediction",
        observation: Literal["probabilities", "logits"] = "probabilities",
        r0: float = 1.0,
        process_noise: float = 0.0,
        rank_tolerance: float = 0.0,
        divergence_threshold: float = 100.0,
        dtype: Literal["float32", "float64"] = "float32",
        vectorize: bool = True,
        chunk_size: int = 256,
    ) -> None:
        super().__init__(
            params,
            p0,
            p0_init,
            noise=noise,
            update=update,
            observation=observation,
            process_noise=process_noise,
            rank_tolerance=rank_tolerance,
            divergence_threshold=divergence_threshold,
            dtype=dtype,
            vectorize=vectorize,
            chunk_size=chunk_size,
            beta=beta,
            r0=r0,
        )
