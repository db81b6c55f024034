r"""Filter consistency check: normalised innovation squared (NIS).

With e the innovation of a sample, S its covariance as the filter predicts it and d its coordinates,

.. math:: \text{NIS} = e^\top S^{-1} e / d

has mean one where the filter is consistent (Bar-Shalom, Li & Kirubarajan 2001, section 5.4). Above, the filter is
overconfident: the stream has changed, or the noise is larger than assumed.

Only Gaussian innovations make it chi-square. A class is right or wrong: at a confidence of 0.95 the NIS is 1/19 mostly
and 19 now and then, and its average leaves the interval of chi-square far more often than one time in a thousand. The
interval is therefore that of the sum of the values that the likelihood gives the targets which might have come, with
their predictive probabilities: its first three cumulants, and a gamma distribution with these.

Shapes: ``B`` batch, ``d`` observation coordinates, ``m`` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...constants import identity
from ...likelihoods.base import Innovation, Observation
from ...parts import State
from ...ranges import check_arguments, count
from ..covariance.base import Covariance
from ..equations import block_diagonal, own_blocks, robust_cholesky
from ..predictive import cubature_predictive, output_covariance, output_factor
from .base import Monitor

MOST = 25.0
"""Largest NIS of one step in the average: a class predicted as impossible would otherwise dominate it for long."""

LIMIT = 3.29
"""Standard normal quantile of the interval's bounds: a consistent filter is outside it one time in a thousand."""


SKEWED = 5.0
"""Skewness up to which the cube-root approximation of the upper quantile holds; soon after, it falls without bound."""

FURTHER, REACH = 10.4, 8.9
"""How far the upper quantile of a gamma distribution rises beyond that, in standard deviations, and how soon."""

LONGEST = 1_000_000
"""Most steps of the window, whose values are kept."""


class NIS(Monitor):
    """Average NIS of the last steps, with the interval in which it is for a consistent filter.

    State: ``nis``, the last values (nis_window,), ``nis_cumulants`` of each of them where the filter is consistent
    (3, nis_window), and ``alarm``, whether their mean is above the interval.

    Args:
        nis_window: Steps that are averaged; 0 for none.

    Raises:
        ValueError: If it is negative.
    """

    name = "nis"
    raises_alarm = True
    needs_precision = True

    def __init__(self, *, nis_window: int = 0) -> None:
        check_arguments("", [("nis_window", nis_window, *count(0, LONGEST).judge(nis_window))])
        self.window = nis_window
        self._observation: Observation | None = None
        self._has_reader = False

    def start(self, prior: Tensor, shapes: list[torch.Size]) -> State:
        """Return the window before there are values: all as expected, with certainty."""
        cumulants = torch.stack([prior.new_ones(self.window), *prior.new_zeros(2, self.window)])
        return {"nis": prior.new_ones(self.window), "nis_cumulants": cumulants}

    def before(self, state: State, covariance: Covariance, observation: Observation) -> None:
        """Take note of the batch, whose likelihood says which targets might have come."""
        self._observation, self._has_reader = observation, covariance.uses_alarm

    def after(self, state: State, innovation: Innovation, HPH: Tensor) -> None:
        """Put the step's NIS into the window and compare the mean with the interval."""
        assert self._observation is not None
        innovation, HPH = without_target(innovation, HPH)
        W = innovation_inverse(innovation, HPH)
        value = normalised_innovation_squared(innovation, HPH, W)
        value, expected = judge(self._observation, innovation, HPH, value, W)
        self._observation = None
        counted = (value + expected.sum()).isfinite()
        state["nis"] = remember(state["nis"], state["steps"], torch.where(counted, value, torch.nan))
        position = (state["steps"] % self.window).view(1)
        before = state["nis_cumulants"]
        after = before.index_copy(1, position, expected.to(before.dtype).unsqueeze(1))
        state["nis_cumulants"] = torch.where(counted, after, before)
        if self._has_reader:
            state["alarm"] = state["nis"].mean() > interval(state["nis_cumulants"])[1]

    def stats(self, state: State, innovation: Innovation) -> dict[str, Tensor]:
        """Return ``nis`` and the interval's bounds."""
        low, high = interval(state["nis_cumulants"])
        return {"nis": state["nis"].mean(), "nis_low": low, "nis_high": high}


def acknowledge(state: State) -> Tensor:
    """Return the alarm, (), and restart the average where it is raised."""
    alarm = state["alarm"]
    start = torch.zeros_like(state["nis_cumulants"])
    start[0] = 1
    state["nis"] = torch.where(alarm, torch.ones_like(state["nis"]), state["nis"])
    state["nis_cumulants"] = torch.where(alarm, start, state["nis_cumulants"])
    return alarm


def innovation_inverse(innovation: Innovation, A: Tensor) -> Tensor:
    """Return W with W'W = S^-1, S = F + FAF, (rows, rows), float64.

    Args:
        innovation: The batch, observed through the natural parameters: its noise is F and its Jacobian FJ.
        A: JPJ' before the update, (B*d, B*d).
    """
    assert innovation.factor is not None
    L = block_diagonal(innovation.factor.double())
    inner = torch.addmm(identity(L.shape[1], L.dtype, L.device), L.mT @ A.double(), L)
    return robust_cholesky(L @ inner @ L.mT).inverse


def normalised_innovation_squared(innovation: Innovation, A: Tensor, W: Tensor | None = None) -> Tensor:
    """Return NIS, averaged over the batch, (); W is :func:`innovation_inverse` of the other arguments."""
    W = innovation_inverse(innovation, A) if W is None else W
    return (W @ innovation.residual.flatten().double()).square().sum() / innovation.residual.numel()


def judge(
    observation: Observation, innovation: Innovation, A: Tensor, value: Tensor, W: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return a step's NIS as it enters the average, (), and its cumulants where the filter is consistent, (3,).

    Of classes, the NIS is the mean of the samples' own, each at most ``MOST``, for which the cumulants are: one class
    predicted as impossible in a batch would otherwise exceed every interval.

    The samples of a batch, and the labels of a sample that occur together, count as independent.

    Args:
        observation: The batch.
        innovation: The same, observed through the natural parameters.
        A: JPJ' before the update, (B*d, B*d).
        value: Its NIS, ().
        W: :func:`innovation_inverse` of ``innovation`` and ``A``.
    """
    count = innovation.residual.numel()
    if not observation.likelihood.is_softmax:
        cumulants = _unclassified_cumulants(observation, innovation)
        return value, cumulants / A.new_tensor([count, count**2, count**3]).double()
    p = observation.likelihood.mean().double()
    B = len(p)
    if innovation.has_residual_probe:  # the residual is among the coordinates: e'F^-1 e is 1/p - 1
        values, q = (1 / p.clamp_min(torch.finfo(p.dtype).tiny) - 1).clamp_max(MOST * count), p
        seen = values.gather(1, observation.target.unsqueeze(1)).sum()
        values = values * (value * count / seen.clamp_min(torch.finfo(p.dtype).tiny)).clamp_max(1)
    else:
        W = innovation_inverse(innovation, A) if W is None else W
        U = innovation.cotangents.double().expand(B, -1, -1)  # (B, d, m), orthonormal rows
        e = U.mT - torch.bmm(U, p.unsqueeze(2)).mT  # of every label, (B, m, d)
        values = (torch.bmm(e, own_blocks(W.mT @ W, e.shape[-1])) * e).sum(-1)
        q = _predictive(observation, innovation, A)
    values = (values / count).clamp_max(MOST / B)
    return values.gather(1, observation.target.unsqueeze(1)).sum(), _cumulants(values, q)


def _predictive(observation: Observation, innovation: Innovation, A: Tensor) -> Tensor:
    """Return the probabilities with which a consistent filter expects the labels, (B, m)."""
    U = innovation.cotangents.double()
    if innovation.foreseen is None:
        return observation.likelihood.predictive(output_covariance(A.double(), U)).double()
    factor = output_factor(A, U, innovation.foreseen)
    return cubature_predictive(observation.outputs.detach().double(), factor.double(), (1.0,))[0]


def without_target(innovation: Innovation, A: Tensor) -> tuple[Innovation, Tensor]:
    """Return a batch and its JPJ' in the directions that do not depend on the target, where others are observed too.

    With ``top_k`` the label is distinguished where it is none of the most probable classes. A coordinate that is
    observed because of the label cannot test the prediction. In the others, M of the innovation, a consistent filter
    knows the distribution of e: its covariance is F + FAF with MFM' for F and MAM' for A.

    Args:
        innovation: The batch, observed through the natural parameters.
        A: JPJ' before the update, (B*d, B*d).
    """
    if innovation.foreseen is None or innovation.factor is None:
        return innovation, A
    M = innovation.foreseen.double()
    every = block_diagonal(M)
    own = identity(M.shape[1], M.dtype, M.device).expand(len(M), -1, -1)
    return innovation._replace(
        residual=(M @ innovation.residual.double().unsqueeze(2)).squeeze(2),
        cotangents=M @ innovation.cotangents.double(),
        observed=(M @ innovation.observed.double().unsqueeze(2)).squeeze(2),
        factor=M @ innovation.factor.double(),
        foreseen=own,
    ), every @ A.double() @ every.mT


def _cumulants(values: Tensor, q: Tensor) -> Tensor:
    """Return the first three cumulants of independent choices among values (N, k) with probabilities q (N, k), (3,)."""
    mean = (q * values).sum(1, keepdim=True)
    apart = values - mean
    return torch.stack([mean.sum(), (q * apart**2).sum(), (q * apart**3).sum()])


def _unclassified_cumulants(observation: Observation, innovation: Innovation) -> Tensor:
    """Return the cumulants of e'S^-1 e of independent coordinates, (3,)."""
    L = block_diagonal(innovation.factor.double())  # type: ignore[union-attr]
    F = (L @ L.mT).diagonal()
    own = observation.likelihood.square_cumulants()
    if own is None:  # e is normal
        return torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64, device=F.device) * len(F)
    return (own.double().flatten(1) / F ** torch.arange(1, 4, device=F.device).unsqueeze(1)).sum(1)


def remember(values: Tensor, step: Tensor, value: Tensor) -> Tensor:
    """Return the window (w,) with the value of step number ``step`` in place of the oldest.

    A value that is not finite is left out: such a step corrects nothing, and is counted by ``nonfinite_steps``.
    """
    position = (step % len(values)).view(1)
    value = torch.where(value.isfinite(), value.clamp_max(MOST).to(values.dtype), values[position].squeeze(0))
    return values.index_copy(0, position, value.view(1))


def interval(cumulants: Tensor) -> tuple[Tensor, Tensor]:
    """Return bounds of the average NIS of a consistent filter, each ().

    The sum has a gamma distribution with its mean, variance and skewness: for normal innovations exactly. Its quantiles
    are those of the cube-root approximation of Wilson and Hilferty (1931). That of a confident filter is very skewed:
    beyond a skewness of five the upper quantile is an exponential curve, within three per cent of it up to 40. There it
    stays, though it falls again where a single error is less likely than the level.

    Args:
        cumulants: Mean, variance and third cumulant of every step's value, (3, w).
    """
    w = cumulants.shape[1]
    mean, variance, third = (total / w**k for k, total in enumerate(cumulants.double().sum(1), start=1))
    deviation = variance.clamp_min(0).sqrt()
    g = (third / deviation**3).nan_to_num(0, 0, 0).clamp_min(1e-6)  # 0: a normal distribution, within rounding
    usual = g.clamp_max(SKEWED)
    low, high = (
        2 / each * ((1 + sign * LIMIT * each / 6 - (each / 6) ** 2) ** 3 - 1) for sign, each in ((-1, g), (1, usual))
    )
    high = high - FURTHER * torch.expm1((usual - g) / REACH)
    rounding = torch.finfo(torch.float32).eps * 10  # of a window in float32
    return (mean + deviation * low).clamp_min(0), mean + deviation * high + rounding * mean
