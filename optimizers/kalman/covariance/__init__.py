"""The covariance of the state: which of its entries a filter keeps."""

from .base import Correction, Covariance
from .block import Full, PerNeuron, PerTensor
from .buffered import Buffered
from .diagonal import Diagonal
from .low_rank import LowRank

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
