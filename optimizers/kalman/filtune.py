r"""filtune's own filter: implicit steps, a precision of low rank, and a prior by what the outputs are sensitive to."""

from __future__ import annotations

from typing import Literal

import torch

from .filter import KalmanOptimizer
from .jacobian import Method
from .settings import Settings


class Filtune(KalmanOptimizer):
    r"""An extended Kalman filter without anything to tune.

    Three things are not as in LoKO. The noise is not estimated: the batch is observed through its own likelihood, at
    the mode of the posterior (:class:`~optimizers.kalman.posterior_mode.Mode`), so that a step is implicit and cannot
    overshoot. P^-1 is a diagonal plus a matrix of low rank (:class:`~optimizers.kalman.covariance.buffered.Buffered`).
    And every parameter tensor has a prior variance of its own, by how much the first outputs depend on it
    (:func:`optimizers.kalman.prior.sensitivity_factor`).

    .. math::
        p_t &= p_0 \min((h_t / 0.01)^{-1/2}, 10) \\
        \lambda &= e(\eta), \quad \eta = J P J^\top \lambda \\
        \theta &\leftarrow \theta + P J^\top \lambda, \quad P^{-1} \leftarrow P^{-1} + J^\top F(\eta) J

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Prior variance of a tensor whose entries' derivatives are 0.01.
        p0_init: ``sensitivity``, or one of LoKO's two.
        rank: Directions of P^-1 beside its diagonal.
        buffer: Directions that are gathered between two compressions to that rank.
        keep: Directions that one sample adds; the rest of its information goes into the diagonal; 0 for all.
        window: Steps over which the normalised innovation squared is averaged, ``stats["nis"]``; 0 for none.
        forget: What all information so far counts for once that average leaves its band; 1 never forgets.
        renew: How many times its first variance the last layer gets, its information so far being dropped, once the
            labels obey chance sooner than the filter (:mod:`optimizers.kalman.page_test`); 0 never does.
        likely: How many classes of a sample are told apart, the label among them; the rest counts as one, so that there
            are as many rows of the Jacobian and no more; 0 for all. No posterior of the outputs then.
        explode: How many times the size of what is observed an innovation may have before the filter counts as
            diverged.
        dtype: Floating type of the state and the algebra, whatever the model's own.
        jacobian: ``batched``, or ``loop`` (slow: one backward pass a row).
        max_rows: Most Jacobian rows computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range, or the state too large for the machine.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        p0: float = 0.1,
        p0_init: Literal["constant", "uniform", "sensitivity"] = "sensitivity",
        rank: int = 40,
        buffer: int = 20,
        keep: int = 3,
        window: int = 100,
        forget: float = 1.0,
        renew: float = 0.0,
        likely: int = 0,
        explode: float = 100.0,
        dtype: Literal["float32", "float64"] = "float32",
        jacobian: Method = "batched",
        max_rows: int = 256,
    ) -> None:
        settings = Settings(
            covariance="buffered",
            rank=rank,
            buffer=buffer,
            keep=keep,
            window=window,
            forget=forget,
            renew=renew,
            likely=likely,
            noise="mode",
            explode=explode,
            dtype=dtype,
            jacobian=jacobian,
            max_rows=max_rows,
        )
        super().__init__(params, p0, p0_init, settings)
