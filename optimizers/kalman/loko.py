r"""LoKO: the low-rank Kalman optimizer, an extended Kalman filter with a diagonal covariance."""

from __future__ import annotations

from typing import Literal

import torch

from ..parts import Spec
from .filter import KalmanOptimizer


class LoKO(KalmanOptimizer):
    r"""Low-rank Kalman optimizer with a diagonal covariance.

    The parameters theta are the state of a filter with identity transition and covariance P = diag(p). A batch of B
    samples is observed jointly in d coordinates each: residual e (B*d,), Jacobian H (B*d, n), noise I_B (x) R.

    .. math::
        R &\leftarrow \beta R + (1-\beta)(e e^\top + H P H^\top)      & (12)\\
        S &= H (p \bullet H^\top) + R, \quad K = p \bullet H^\top S^{-1} & (11a)\\
        \theta &\leftarrow \theta + K e                              & (11b)\\
        p &\leftarrow p - \mathrm{diag}(K H)\, p                     & (11c)

    There is no learning rate.

    Source: Abdi et al. (2024), [arXiv:2410.11551](https://arxiv.org/abs/2410.11551), Algorithm 1 and equations 7, 11
    and 12.

    Args:
        params: Parameters or parameter groups; a group may have its own ``p0`` and ``p0_init``.
        p0: Initial variance of the state, or its upper bound where it is drawn; positive. The paper uses 0.2.
        p0_init: ``constant``, p = p0 (method 1); or ``uniform``, p ~ U(0, p0) from torch's global generator (method 2,
            the paper's choice).
        beta: Forgetting factor of the observation noise, in [0, 1).
        noise: Estimator of the observation noise R (d, d), by name, or a mapping with its ``name`` and options:
            ``ema-2`` (eq. 12, the paper's choice), ``ema-1`` (eq. 7, without HPH'), ``ema_innovation`` (HPH'
            subtracted), ``identity`` (R = r0 I), ``annealed`` (R = r0 I exp(-k/50) at step k), ``softmax`` (the
            covariance diag(p) - pp' of the predicted classes), or ``scalar`` (one running variance).
        update: Point at which the observation is linearised: ``prediction`` (the extended Kalman filter), or
            ``posterior_mode``, which takes the likelihood's own noise there (ours, as in Filtune; it needs the default
            noise).
        observation: Outputs that are observed: ``probabilities`` (the paper) or ``logits`` (ours), whose targets are
            constants.
        r0: Initial observation noise, R = r0 I; positive, or zero where the noise is averaged.
        process_noise: Variance q that is added before every step, P <- P + q I; zero or positive. The paper has none.
        rank_tolerance: With softmax noise, the largest trace of it that may be left out of a sample in order to compute
            fewer rows of the Jacobian, in [0, 1); ours.
        divergence_threshold: The filter counts as diverged when an innovation is this many times as large as what is
            observed on average, or as 1.
        dtype: Floating type of p, R and the algebra, whatever the model's own.
        vectorize: Compute all rows of the Jacobian in one backward pass; ``false`` takes one backward pass per row,
            which is slow but works for operations that torch cannot vectorise.
        chunk_size: Largest number of rows of the Jacobian that are computed at once; lower it to save memory.

    Raises:
        ValueError: If an argument is out of range, or is an option of a noise other than the chosen one.

    Examples:
        A linear regression, one sample at a time. The variances of the parameters fall.

        >>> import torch
        >>> from filtune import Gaussian, LoKO
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = LoKO(model.parameters())
        >>> weight_variance, bias_variance = optimizer.variance()
        >>> for x in torch.randn(30, 1, 2):
        ...     seen = optimizer.step(lambda: Gaussian(model(x)).observe(x.sum(1)))
        >>> bool((seen.outputs - seen.target).abs() < 0.2)
        True
        >>> bool((optimizer.variance()[0] < weight_variance).all())
        True
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
