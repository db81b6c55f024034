"""The covariance of the state: which of its entries a filter keeps."""

from optimizers.covariance.base import Correction, Covariance
from optimizers.covariance.block import Full, PerNeuron, PerTensor
from optimizers.covariance.buffered import Buffered
from optimizers.covariance.diagonal import Diagonal
from optimizers.covariance.low_rank import LowRank

COVARIANCES: dict[str, type[Covariance]] = {
    "diagonal": Diagonal,
    "full": Full,
    "tensor": PerTensor,
    "neuron": PerNeuron,
    "low-rank": LowRank,
    "buffered": Buffered,
}

__all__ = [
    "COVARIANCES",
    "Buffered",
    "Correction",
    "Covariance",
    "Diagonal",
    "Full",
    "LowRank",
    "PerNeuron",
    "PerTensor",
]
