"""What the model's outputs say about a target: one likelihood a file."""

from .base import Gaussian, Innovation, Likelihood, Observation
from .categorical import Categorical

__all__ = ["Categorical", "Gaussian", "Innovation", "Likelihood", "Observation"]
