"""The same numbers as published code: rebayes-mini's extended Kalman filter and its low-rank precision filter (LoFi).

The constants are the results of https://github.com/gerdm/rebayes-mini at commit
fc276ac0efa85a44bdc440a966e2cb40a2ca1191, run with jax 0.10.2 in float64 over the problem of :func:`problem`, its
parameters in the order of the state:

    ExtendedFilter(net, lambda y: 0.5 I, q)                         methods/base_filter.py: EKF_*
    ExtendedFilter(two of three probabilities, diag(y) - yy', q)    the same: SOFTMAX_*
    LowRankPrecisionFilter(net, lambda y: 0.5 I, q, rank=3)         methods/low_rank_filter.py: LOFI_*, LOFI_STATIC_*

each ``scan`` from ``init_bel(params, cov=0.7)``: the mean after eight steps, the diagonal of the covariance, and of
LoFi the diagonal part of the precision. Their exponential-family filters take the Jacobian of the natural parameters
for that of the mean and are other filters; so are the two of https://github.com/normal-computing/posteriors (at
769204273520048bb029bcb507d2ddc869f61296), which take the empirical Fisher information.
"""

from __future__ import annotations

import math

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Gaussian
from torch import Tensor, nn

from tests.optimizers.models import Stream, covariance_of, drive, relative, variances
from tests.optimizers.reference import flat

STEPS = 8
AGREES = 1e-12
"""Both run in float64: eight steps of some hundred operations, each relative to 1e-16."""

EKF_MEAN = [
    1.0310996075650691, 0.8404324001924774, 0.6098085443309618, -0.37192152035633025, -0.7161357649960358,
    -0.07071807966510649, 0.8121196035595859, 0.40688662948717036, -0.9757169562459882, -0.167750631342311,
    -0.49770613862477686, -1.0920976015823616, 0.3990200329941118, 0.8710616163021754, 0.1324970500458105,
    -0.4094361398679903, -0.49390613811136175,
]  # fmt: skip
EKF_VARIANCE = [
    0.6576775651594373, 0.71436784123864, 0.38130756028169793, 0.34445602878760967, 0.552522604076798,
    0.5283335564879063, 0.6448813297943693, 0.4717526162575639, 0.5219765666930783, 0.47497111665522523,
    0.41167912306889437, 0.5580769423190822, 0.43829058205236704, 0.3602899946789691, 0.5525466957278192,
    0.43971228000207513, 0.3680447345956667,
]  # fmt: skip
LOFI_MEAN = [
    0.8715351489979585, 0.7848214070346909, 0.6081318717783233, -0.3980046946945874, -0.6723999553475607,
    0.04255169356468225, 0.8897208130455754, 0.4364364026665745, -0.984274597727682, -0.08826000473760531,
    -0.457207380586692, -0.996724809816059, 0.3900854569746977, 0.9310499474620876, 0.2819992525350237,
    -0.4030532849206129, -0.407287263745072,
]  # fmt: skip
LOFI_DIAGONAL = [
    1.8613612668267943, 1.6526474640103643, 2.9722296665607453, 3.492156111109428, 1.8888188196167852,
    2.348863055371209, 2.127411322428216, 2.0794508605850965, 1.582065898571094, 1.846196579410119, 3.680349303316652,
    1.6268771441081782, 2.538415891569162, 3.6032251408713574, 1.6549142043030187, 1.4103968056321194,
    1.9925007121964233,
]  # fmt: skip
LOFI_VARIANCE = [
    0.5368267265873231, 0.6046531848408847, 0.29829679006919874, 0.2653624637315933, 0.45185236853215155,
    0.40058868332430975, 0.46653558760214847, 0.40433269343926526, 0.47042012070958383, 0.38955716815546854,
    0.2658382957559608, 0.46407987056912187, 0.32841842189996, 0.26962074278743053, 0.44757818271850747,
    0.379920951570628, 0.31962119692378604,
]  # fmt: skip
LOFI_STATIC_MEAN = [
    0.8800595215863675, 0.779977970063747, 0.6296309940781082, -0.3921398749384515, -0.685536095332507,
    0.05036923666475324, 0.8978458795963719, 0.468061456825765, -0.97776576585583, -0.08954167741162375,
    -0.4573556234299818, -1.002698943554176, 0.39160900741029997, 0.9162660861884298, 0.28270692414307924,
    -0.4152375716944249, -0.4060817018062999,
]  # fmt: skip
LOFI_STATIC_DIAGONAL = [
    2.1127514382923263, 1.8593630325037271, 3.5202298701892345, 4.113324048289699, 2.13636100467358, 2.7378822189757304,
    2.47291060259046, 2.3466082028196547, 1.7654400396874, 2.065851056488185, 4.294633281532419, 1.788263066564358,
    2.8366826996780383, 4.227755794758581, 1.809411189704634, 1.5712008263583785, 2.389742656358562,
]  # fmt: skip
LOFI_STATIC_VARIANCE = [
    0.47276310991625803, 0.5373932558314615, 0.24794761354884262, 0.22584143346864208, 0.39465371283478196,
    0.34251255487428317, 0.40101260543751743, 0.3455011713962733, 0.4058481654823608, 0.3453839198993807,
    0.22937185218882683, 0.4186686276946955, 0.29219942206039096, 0.23185490350660085, 0.40311564869437494,
    0.33454908269154837, 0.26531823992716497,
]  # fmt: skip
SOFTMAX_MEAN = [
    0.8042960946753629, 0.8479149992263622, 0.3423686452458078, -0.017542683818768764, -0.7012056636551011,
    -0.00903644704086938, 0.9690674830280973, 0.5920975435143749, -0.2740700021538248, -0.014182540046641656,
    -0.17946217911163942, -0.5697362366874894, 0.49853458688704716, 0.23061904570581845, 0.09885045223229179,
    -0.21052905173770758, -0.6949938740726881, -0.49867045013526257, -0.6044132879575451, -0.2067092017598003,
    -1.1840197784526472,
]  # fmt: skip
SOFTMAX_VARIANCE = [
    0.77184055166025, 0.7725660773734914, 0.6965971971240045, 0.7058700403943946, 0.7053175295467462,
    0.6536387205603212, 0.7625514468360911, 0.6950583873241611, 0.6530548076559277, 0.6328567116170425,
    0.6546694569139042, 0.6650253590491161, 0.6518836083521764, 0.6899456290179263, 0.6802388033071644,
    0.6475305223568523, 0.6729906026867704, 0.6660488323795605, 0.569044053113811, 0.591653695102915,
    0.5736513965387086,
]  # fmt: skip


def fill(p: Tensor, start: int) -> None:
    """sin(start), sin(start + 1), ..."""
    p.data = torch.tensor([math.sin(start + i) for i in range(p.numel())], dtype=torch.float64).view_as(p)


def problem(m: int) -> tuple[nn.Module, Stream, Stream]:
    """A net 2 -> 3 -> m with tanh, and eight samples with values and with labels."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, m)).double()
    for start, p in enumerate(model.parameters(), start=1):
        fill(p, start)
    x = torch.tensor([[math.cos(k), math.sin(2 * k)] for k in range(STEPS)], dtype=torch.float64)
    y = torch.tensor([[math.sin(3 * k), math.cos(k * k)] for k in range(STEPS)], dtype=torch.float64)
    labels = torch.tensor([k * k % 3 for k in range(STEPS)])
    return model, list(zip(x.split(1), y.split(1), strict=True)), list(zip(x.split(1), labels.split(1), strict=True))


def after(covariance: str, noise: str, q: float) -> tuple[Tensor, Tensor, EKF]:
    """The parameters and variances after the eight steps, and the filter."""
    model, regression, classification = problem(3 if noise == "softmax" else 2)
    own = {"noise": noise} if noise == "softmax" else {"noise": noise, "r0": 0.5}
    optimizer = EKF(model.parameters(), **covariance_of(covariance, 3), **own, p0=0.7, process_noise=q, dtype="float64")
    stream, likelihood = (classification, Categorical) if noise == "softmax" else (regression, Gaussian)
    drive(optimizer, model, likelihood, stream)
    return flat(model), variances(optimizer), optimizer


def agree(ours: Tensor, theirs: list[float]) -> None:
    """To the precision that both have."""
    assert relative(ours, torch.tensor(theirs, dtype=torch.float64)) <= AGREES


def test_the_full_filter_is_theirs() -> None:
    mean, variance, _ = after("full", "identity", q=0.01)
    agree(mean, EKF_MEAN)
    agree(variance, EKF_VARIANCE)


def test_softmax_noise_is_theirs_of_two_probabilities() -> None:
    """Which two of the three, and in which coordinates, makes no difference."""
    mean, variance, _ = after("full", "softmax", q=0.01)
    agree(mean, SOFTMAX_MEAN)
    agree(variance, SOFTMAX_VARIANCE)


@pytest.mark.parametrize(
    ("q", "mean", "diagonal", "variance"),
    [
        (0.01, LOFI_MEAN, LOFI_DIAGONAL, LOFI_VARIANCE),
        (0.0, LOFI_STATIC_MEAN, LOFI_STATIC_DIAGONAL, LOFI_STATIC_VARIANCE),
    ],
    ids=["q=0.01", "q=0"],
)
def test_low_rank_is_theirs(q: float, mean: list[float], diagonal: list[float], variance: list[float]) -> None:
    ours, p, optimizer = after("low_rank", "identity", q)
    agree(ours, mean)
    agree(p, variance)
    agree(optimizer.filter["precision"], diagonal)
