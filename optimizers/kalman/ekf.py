r"""The extended Kalman filter with every covariance: diagonal, full, blocks, or low rank plus diagonal (LoFi)."""

from __future__ import annotations

from typing import Literal

import torch

from ..parts import Spec
from .filter import KalmanOptimizer


class EKF(KalmanOptimizer):
    r"""Extended Kalman filter with a choice of covariance.

    .. math::
        P &\leftarrow P + q I                                                       & (2b)\\
        K &= P H^\top (H P H^\top + R)^{-1}                                         & (3a)\\
        \theta &\leftarrow \theta + K e, \quad P \leftarrow P - K H P               & (3b, 3c)

    The state is the parameters, its transition the identity; equation numbers are those of LoKO. An option that belongs
    to a covariance or a noise other than the chosen one is refused unless it has its default value. A covariance or a
    noise of your own, one class in a file that is imported, is chosen by its name; options that are not among these
    arguments go with the name: ``covariance={"name": "mine", "my_option": 3}``.

    Source: Abdi et al. (2024), [arXiv:2410.11551](https://arxiv.org/abs/2410.11551), section 3.1; ``low_rank`` is LoFi
    (Chang et al., 2023, [arXiv:2305.19535](https://arxiv.org/abs/2305.19535)), ``block_per_neuron`` that of Murtuza and
    Chorian (1994).

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        covariance: Entries of P that are kept: ``full`` (n^2 numbers for n parameters), ``block_per_tensor`` (a block
            per parameter tensor), ``block_per_neuron`` (a block per output of a layer), ``low_rank`` (the precision as
            a diagonal plus ``rank`` directions; LoFi), or ``diagonal`` (LoKO). A name, or a mapping with its ``name``
            and options.
        rank: Number of directions of ``low_rank``; at least 1.
        buffer_size: Number of directions that ``low_rank`` gathers before it compresses to ``rank``; 0 compresses at
            every step (LoFi).
        rows_per_sample: Number of directions that a sample adds to ``low_rank``; its other information goes into the
            diagonal. 0 adds all.
        p0: Initial variance of the state, or its upper bound where it is drawn; positive.
        p0_init: ``constant``, P = p0 I; ``uniform``, a diagonal drawn from U(0, p0); or ``sensitivity``, one constant
            per parameter tensor, by how much the first outputs depend on it (as in Filtune).
        beta: Forgetting factor of the observation noise, in [0, 1).
        rho: Regularisation of the noise as in R-Kalman (GRNG eq. 15), zero or positive.
        noise: Estimator of the observation noise R (d, d), by name, or a mapping with its ``name`` and options:
            ``ema-2``, ``ema-1``, ``ema_innovation``, ``identity``, ``annealed``, ``softmax`` or ``scalar``;
            :class:`LoKO` describes them.
        update: Point at which the observation is linearised: ``prediction`` (the extended Kalman filter), or
            ``posterior_mode`` (as in Filtune; it needs rho 0 and the default noise).
        observation: Outputs that are observed: ``probabilities`` or ``logits``, whose targets are constants.
        r0: Initial observation noise, R = r0 I; positive, or zero where the noise is averaged.
        process_noise: Variance q that is added before every step, P <- P + q I; zero or positive.
        divergence_threshold: The filter counts as diverged when an innovation is this many times as large as what is
            observed on average, or as 1.
        dtype: Floating type of P, R and the algebra, whatever the model's own.
        vectorize: Compute all rows of the Jacobian in one backward pass; ``false`` takes one backward pass per row,
            which is slow but works for operations that torch cannot vectorise.
        chunk_size: Largest number of rows of the Jacobian that are computed at once; lower it to save memory.
        state_dtype: Floating type of the directions of ``low_rank``: ``same`` as ``dtype``, or ``bfloat16``, which
            rounds every entry by up to 0.4 % and halves the memory of float32.

    Raises:
        ValueError: If an argument is out of range, or is an option of a part other than the chosen one, or the
            covariance does not fit into memory.

    Examples:
        Recursive least squares: with a full covariance and constant noise the filter is exact for a linear model. Its
        mean after ten observations is that of Bayesian regression, (X'X + r0/p0 I)^-1 X'y.

        >>> import torch
        >>> from filtune import EKF, Gaussian
        >>> _ = torch.manual_seed(0)
        >>> X, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, dtype=torch.float64)
        >>> theta = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
        >>> optimizer = EKF([theta], covariance="full", noise="identity", p0=2.0, r0=1.0, dtype="float64")
        >>> for x, value in zip(X, y):
        ...     seen = optimizer.step(lambda: Gaussian(x[None] @ theta).observe(value[None]))
        >>> exact = torch.linalg.solve(X.T @ X + 0.5 * torch.eye(3), X.T @ y)
        >>> torch.allclose(theta.flatten(), exact)
        True
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
        state_dtype: Literal["same", "bfloat16"] = "same",
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
            state_dtype=state_dtype,
            beta=beta,
            r0=r0,
        )
