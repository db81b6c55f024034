"""How parameters move: optimizers in plain torch, each usable in anyone's own loop."""

from optimizers.adagrad import AdaGrad
from optimizers.adamw import AdamW
from optimizers.base import FirstOrder, OnlineOptimizer
from optimizers.categorical import Categorical
from optimizers.ekf import EKF
from optimizers.filtune import Filtune
from optimizers.likelihoods import Gaussian, Likelihood, Observation
from optimizers.loko import LoKO
from optimizers.ngd import NGD
from optimizers.r_kalman import RKalman
from optimizers.reng import RENG
from optimizers.ring import RING
from optimizers.sam import SAM
from optimizers.sgd import SGD
from optimizers.sophia import Sophia

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
