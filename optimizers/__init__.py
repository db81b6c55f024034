"""How parameters move: optimizers in plain torch, each usable in anyone's own loop."""

from optimizers.adagrad import AdaGrad
from optimizers.adamw import AdamW
from optimizers.base import FirstOrder, OnlineOptimizer
from optimizers.likelihoods import Categorical, Gaussian, Likelihood, Observation
from optimizers.loko import LoKO
from optimizers.sgd import SGD

__all__ = [
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
]
