r"""filtune's own filter: implicit steps, a precision of low rank, and a prior by the sensitivity of the outputs."""

from __future__ import annotations

from typing import Literal

import torch

from .filter import KalmanOptimizer


class Filtune(KalmanOptimizer):
    r"""Low-rank Kalman filter with implicit steps; nothing to tune.

    It differs from LoKO in three ways. The noise is not estimated: the batch is observed through its own likelihood, at
    the mode of the posterior (:class:`~optimizers.kalman.posterior_mode.PosteriorModeUpdate`), so that a step is
    implicit and cannot overshoot. P^-1 is a diagonal plus a matrix of low rank
    (:class:`~optimizers.kalman.covariance.low_rank.LowRank`). And every parameter tensor has a prior variance of its
    own, by how much the first outputs depend on it (:func:`optimizers.kalman.prior.sensitivity_factor`).

    .. math::
        p_t &= p_0 \min((h_t / 0.01)^{-1/2}, 10), \quad \text{of matrices like LoRA's B three times that} \\
        \lambda &= e(\eta), \quad \eta = J P J^\top \lambda \\
        \theta &\leftarrow \theta + P J^\top \lambda, \quad P^{-1} \leftarrow P^{-1} + J^\top F(\eta) J

    h_t is the root mean square of the outputs' derivatives with respect to the entries of tensor t, e the residual and
    F the precision of the likelihood, J (rows, n) the Jacobian of its natural parameters.

    Source: ours. It is built on the low-rank precision of LoFi (Chang et al., 2023,
    [arXiv:2305.19535](https://arxiv.org/abs/2305.19535)) and the step length of Sun and Tran-Dinh (2019,
    [arXiv:1703.04599](https://arxiv.org/abs/1703.04599)).

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Prior variance of the entries of a tensor for which the root mean square h of the outputs' derivatives is
            0.01; positive. Other tensors get p0 sqrt(0.01 / h), at most 10 p0.
        p0_init: ``sensitivity``, a prior for each tensor as above; or ``constant``, p0 for all; or ``uniform``, drawn
            from U(0, p0).
        adapter_scale: Factor of the prior variance of a matrix that starts at zero and is no output layer, such as
            LoRA's B; positive. For ``sensitivity`` only.
        rank: Number of directions of P^-1 that are kept beside its diagonal; at least 1.
        buffer_size: Number of directions that are gathered before P^-1 is compressed to ``rank`` directions; 0
            compresses at every step.
        rows_per_sample: Number of directions that one sample adds; its other information goes into the diagonal. 0 adds
            all.
        nis_window: Number of steps over which the filter consistency check averages the normalised innovation squared
            (``nis`` in the log; 1 is consistent). 0 switches the check off.
        forgetting_factor: Factor, in [0, 1], of all information gathered so far, applied when the consistency check
            finds the filter overconfident; 1 never forgets.
        head_reset_scale: Variance that the head gets when drift of the labels is detected (Page's test), as a multiple
            of its initial variance; what the filter knew of the head is dropped. 0 never resets. For classification
            only.
        top_k: Number of classes that are distinguished for a sample: the k most probable ones and the label. The others
            are merged, so that the Jacobian has k or k + 1 rows per sample; 0 distinguishes all. By default 1 where
            weights of the attached model are frozen, 9 where all are trained, and all without a model.
        divergence_threshold: The filter counts as diverged when an innovation is this many times as large as what is
            observed on average, or as 1.
        dtype: Floating type of the state and the algebra, whatever the model's own.
        vectorize: Compute all rows of the Jacobian in one backward pass; ``false`` takes one backward pass per row,
            which is slow but works for operations that torch cannot vectorise.
        chunk_size: Largest number of rows of the Jacobian that are computed at once; lower it to save memory.
        state_dtype: Floating type of the directions that are kept: ``same`` as ``dtype``, or ``bfloat16``, which
            rounds every entry by up to 0.4 % and halves the memory of float32.

    Raises:
        ValueError: If an argument is out of range, or the state does not fit into memory.

    Examples:
        A linear model that starts at zero learns which of two numbers is larger. Every pair is predicted before the
        filter learns from it.

        >>> import torch
        >>> from filtune import Categorical, Filtune
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(2, 2)
        >>> _ = torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
        >>> optimizer = Filtune(model.parameters())
        >>> hits = 0
        >>> for x in torch.randn(20, 1, 2):
        ...     seen = optimizer.step(lambda: Categorical(model(x)).observe(x.argmax(1)))
        ...     hits += int(seen.outputs.argmax() == x.argmax())
        >>> hits >= 16
        True
        >>> optimizer.predictive().shape  # posterior predictive probabilities of the last pair
        torch.Size([1, 2])
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
        state_dtype: Literal["same", "bfloat16"] = "same",
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
            state_dtype=state_dtype,
            forgetting_factor=forgetting_factor,
            nis_window=nis_window,
            head_reset_scale=head_reset_scale,
        )
