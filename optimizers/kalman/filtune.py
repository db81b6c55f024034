r"""filtune's own filter: implicit steps, a precision of low rank, and a prior by the sensitivity of the outputs."""

from __future__ import annotations

from typing import Literal

import torch

from .filter import KalmanOptimizer


class Filtune(KalmanOptimizer):
    r"""Extended Kalman filter without anything to tune.

    It differs from LoKO in three ways. The noise is not estimated: the batch is observed through its own likelihood, at
    the mode of the posterior (:class:`~optimizers.kalman.posterior_mode.PosteriorModeUpdate`), so that a step is
    implicit and cannot overshoot. P^-1 is a diagonal plus a matrix of low rank
    (:class:`~optimizers.kalman.covariance.low_rank.LowRank`). And every parameter tensor has a prior variance of its
    own, by how much the first outputs depend on it (:func:`optimizers.kalman.prior.sensitivity_factor`).

    .. math::
        p_t &= p_0 \min((h_t / 0.01)^{-1/2}, 10), \quad \text{of matrices like LoRA's B three times that} \\
        \lambda &= e(\eta), \quad \eta = J P J^\top \lambda \\
        \theta &\leftarrow \theta + P J^\top \lambda, \quad P^{-1} \leftarrow P^{-1} + J^\top F(\eta) J

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Prior variance of a tensor whose entries' derivatives are 0.01.
        p0_init: ``sensitivity``, or one of LoKO's two.
        adapter_scale: Multiple of that variance for a matrix that starts at zero and is no output layer, as LoRA's B.
        rank: Directions of P^-1 beside its diagonal.
        buffer_size: Directions that are gathered between two compressions to that rank; 0 compresses at every step.
        rows_per_sample: Directions that one sample adds, its other information going into the diagonal; 0 for all.
        nis_window: Steps over which the normalised innovation squared is averaged, ``stats["nis"]``; 0 for none.
        forgetting_factor: Factor of all information gathered so far once that average leaves its interval; 1 never
            forgets.
        head_reset_scale: How many times its first variance the last layer gets, its information so far being dropped,
            when Page's test detects drift (:mod:`optimizers.kalman.monitors.page_test`); 0 never resets.
        top_k: How many classes of a sample are distinguished, the most probable ones and the label where it is another;
            the rest is merged, so that the Jacobian has k rows for a sample, or k + 1; 0 for all. By default 1 where
            weights of the attached model are frozen, 9 where all are trained, and all without a model.
        divergence_threshold: Size of an innovation, relative to what is observed, from which on the filter counts as
            diverged.
        dtype: Floating type of the state and the algebra, whatever the model's own.
        vectorize: Whether all rows of the Jacobian are computed in one backward pass; in one each is slow.
        chunk_size: Most Jacobian rows computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range, or the state does not fit into memory.
    """

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        p0: float = 0.1,
        p0_init: Literal["constant", "uniform", "sensitivity"] = "sensitivity",
        adapter_scale: float = 3.0,
        rank: int = 40,
        buffer_size: int = 20,
        rows_per_sample: int = 3,
        nis_window: int = 100,
        forgetting_factor: float = 1.0,
        head_reset_scale: float = 0.0,
        top_k: int | None = None,
        divergence_threshold: float = 100.0,
        dtype: Literal["float32", "float64"] = "float32",
        vectorize: bool = True,
        chunk_size: int = 256,
    ) -> None:
        super().__init__(
            params,
            p0,
            p0_init,
            covariance="low_rank",
            update="posterior_mode",
            adapter_scale=adapter_scale,
            top_k=top_k,
            divergence_threshold=divergence_threshold,
            dtype=dtype,
            vectorize=vectorize,
            chunk_size=chunk_size,
            rank=rank,
            buffer_size=buffer_size,
            rows_per_sample=rows_per_sample,
            forgetting_factor=forgetting_factor,
            nis_window=nis_window,
            head_reset_scale=head_reset_scale,
        )
