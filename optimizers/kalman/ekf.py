r"""The extended Kalman filter with every covariance: diagonal, full, blocks, or low rank plus diagonal (LoFi)."""

from __future__ import annotations

from typing import Literal

import torch

from ..parts import Spec
from .filter import KalmanOptimizer


class EKF(KalmanOptimizer):
    r"""Extended Kalman filter over the parameters, with identity transition (LoKO, section 3.1).

    .. math::
        P &\leftarrow P + q I                                                       & (2b)\\
        K &= P H^\top (H P H^\top + R)^{-1}                                         & (3a)\\
        \theta &\leftarrow \theta + K e, \quad P \leftarrow P - K H P               & (3b, 3c)

    An option that belongs to a covariance or a noise other than the chosen one is refused unless it has its default
    value. A covariance or a noise of your own, one class in a file that is imported, is chosen by its name; options
    that are not among these arguments go with the name: ``covariance={"name": "mine", "my_option": 3}``.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        covariance: What is kept of P: ``full`` (n^2 numbers), ``block_per_tensor`` (a block per parameter tensor),
            ``block_per_neuron`` (a block per output of a layer), ``low_rank`` (the precision as a diagonal plus
            ``rank`` directions; LoFi), or ``diagonal`` (LoKO). A name, or a mapping with its ``name`` and options.
        rank: Directions of ``low_rank``.
        buffer_size: Directions that ``low_rank`` gathers between two compressions; 0 compresses at every step (LoFi).
        rows_per_sample: Directions that a sample adds to ``low_rank``, its others going into the diagonal; 0 for all.
        p0: Initial variance of the state, or its upper bound; positive.
        p0_init: ``constant``, P = p0 I; ``uniform``, a diagonal drawn from U(0, p0); or ``sensitivity``, one constant
            per parameter tensor, see :func:`optimizers.kalman.prior.sensitivity_factor`.
        beta: Forgetting factor of the observation noise, in [0, 1).
        rho: Regularisation of R-Kalman (GRNG eq. 15), zero or positive.
        noise: As in :class:`LoKO`.
        update: As in :class:`LoKO`.
        observation: ``probabilities`` or ``logits``; see :class:`Categorical`.
        r0: Initial observation noise, R = r0 I; may be zero where the noise is averaged.
        process_noise: q of the prediction.
        divergence_threshold: Size of an innovation, relative to what is observed, from which on the filter counts as
            diverged.
        dtype: Floating type of P, R and the algebra, whatever the model's own.
        vectorize: Whether all rows of the Jacobian are computed in one backward pass; in one each is slow.
        chunk_size: Most Jacobian rows computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range, or is an option of a part other than the chosen one, or the
            covariance does not fit into memory.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        covariance: Spec = "low_rank",
        rank: int = 10,
        buffer_size: int = 0,
        rows_per_sample: int = 0,
        p0: float = 0.1,
        p0_init: Literal["constant", "uniform", "sensitivity"] = "constant",
        beta: float = 0.95,
        rho: float = 0.0,
        noise: Spec = "ema-2",
        update: Literal["prediction", "posterior_mode"] = "prediction",
        observation: Literal["probabilities", "logits"] = "probabilities",
        r0: float = 1.0,
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
            covariance=covariance,
            rho=rho,
            noise=noise,
            update=update,
            observation=observation,
            process_noise=process_noise,
            divergence_threshold=divergence_threshold,
            dtype=dtype,
            vectorize=vectorize,
            chunk_size=chunk_size,
            rank=rank,
            buffer_size=buffer_size,
            rows_per_sample=rows_per_sample,
            beta=beta,
            r0=r0,
        )
