"""How parameters move: optimizers in plain torch, each usable in anyone's own loop."""

from .base import FirstOrder, OnlineOptimizer
from .first_order import SGD, AdaGrad, AdamW
from .kalman.ekf import EKF
from .kalman.filtune import Filtune
from .kalman.loko import LoKO
from .kalman.r_kalman import RKalman
from .kfac.ngd import NGD
from .kfac.reng import RENG
from .kfac.ring import RING
from .likelihoods import Categorical, Gaussian, Likelihood, Observation
from .sam import SAM
from .sophia import Sophia

__all__ = [
    "EKF",
    "NGD",
    "RENG",
    "RING",
    "SAM",
    "SGD",
    "AdaGrad",
    "AdamW",
    "Categorical",
    "Filtune",
    "FirstOrder",
    "Gaussian",
    "Likelihood",
    "LoKO",
    "Observation",
    "OnlineOptimizer",
    "RKalman",
    "Sophia",
]
