r"""The extended Kalman filter with every covariance: diagonal, full, blocks, or low rank plus diagonal (LoFi)."""

from __future__ import annotations

from typing import Literal

import torch

from .filter import KalmanOptimizer
from .jacobian import Method
from .loko import Noise
from .settings import Settings


class EKF(KalmanOptimizer):
    r"""Extended Kalman filter over the parameters, with identity transition (LoKO, section 3.1).

    .. math::
        P &\leftarrow P + q I                                                       & (2b)\\
        K &= P H^\top (H P H^\top + R)^{-1}                                         & (3a)\\
        \theta &\leftarrow \theta + K e, \quad P \leftarrow P - K H P               & (3b, 3c)

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        covariance: What is kept of P: ``full`` (n^2 numbers), ``tensor`` (a block a parameter tensor), ``neuron`` (a
            block an output of a layer), ``low-rank`` (LoFi: the precision as a diagonal plus ``rank`` directions),
            ``buffered`` (the same, compressed now and then; ours), or ``diagonal`` (LoKO).
        rank: Directions of ``low-rank`` and ``buffered``; the others ignore it.
        buffer: Further directions that ``buffered`` has room for between two compressions.
        keep: Directions that a sample adds to ``buffered``, its others going into the diagonal; 0 for all.
        p0: Initial variance of the state, or its upper bound; positive.
        p0_init: ``constant``, P = p0 I; ``uniform``, a diagonal drawn from U(0, p0); or ``sensitivity``, a constant a
            parameter tensor, see :func:`optimizers.kalman.prior.sensitivity_factor`.
        beta: Forgetting factor of the observation noise, in [0, 1).
        rho: Regularisation of R-Kalman (GRNG eq. 15), zero or positive.
        noise: As in :class:`LoKO`.
        observation: ``probabilities`` or ``logits``; see :class:`Categorical`.
        r0: Initial observation noise, R = r0 I; may be zero where the noise is averaged in.
        process_noise: q of the prediction.
        explode: How many times the size of what is observed an innovation may have before the filter counts as
            diverged.
        dtype: Floating type of P, R and the algebra, whatever the model's own.
        jacobian: ``batched``, or ``loop`` (slow: one backward pass a row).
        max_rows: Most Jacobian rows computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range, or the covariance too large for the machine.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        covariance: Literal["diagonal", "full", "tensor", "neuron", "low-rank", "buffered"] = "low-rank",
        rank: int = 10,
        buffer: int = 10,
        keep: int = 0,
        p0: float = 0.1,
        p0_init: Literal["constant", "uniform", "sensitivity"] = "constant",
        beta: float = 0.95,
        rho: float = 0.0,
        noise: Noise = "ema-2",
        observation: Literal["probabilities", "logits"] = "probabilities",
        r0: float = 1.0,
        process_noise: float = 0.0,
        explode: float = 100.0,
        dtype: Literal["float32", "float64"] = "float32",
        jacobian: Method = "batched",
        max_rows: int = 256,
    ) -> None:
        settings = Settings(
            covariance=covariance,
            rank=rank,
            buffer=buffer,
            keep=keep,
            noise=noise,
            beta=beta,
            r0=r0,
            observation=observation,
            rho=rho,
            process_noise=process_noise,
            explode=explode,
            dtype=dtype,
            jacobian=jacobian,
            max_rows=max_rows,
        )
        super().__init__(params, p0, p0_init, settings)
