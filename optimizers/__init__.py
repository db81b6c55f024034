"""How parameters move: optimizers in plain torch, each usable in anyone's own loop."""

from optimizers.adagrad import AdaGrad
from optimizers.adamw import AdamW
from optimizers.base import FirstOrder, OnlineOptimizer
from optimizers.categorical import Categorical
from optimizers.ekf import EKF
from optimizers.likelihoods import Gaussian, Likelihood, Observation
from optimizers.loko import LoKO
from optimizers.r_kalman import RKalman
from optimizers.sgd import SGD

__all__ = [
    "EKF",
    "SGD",
    "AdaGrad",
    "AdamW",
    "Categorical",
    "FirstOrder",
    "Gaussian",
    "Likelihood",
    "LoKO",
    "Observation",
    "OnlineOptimizer",
    "RKalman",
]
