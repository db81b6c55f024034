"""Measurements: results of a paper that are no run of ``filtune fit``, or are measured beside one.

A measurement is a class that a table names, and its results are a run's: a folder, a record, curves and metrics
``measured_NAME``. There are two kinds, one file each:

* a :class:`Measurement`, named as ``measurement.class_path``, runs in place of ``filtune fit``;
* a callback of Lightning, named in ``trainer.callbacks``, measures during a run of ``filtune fit``.
"""

from .base import Measurement
from .covariance_structure import CovarianceStructure
from .gradient_norm import GradientNorm
from .theorem import TheoremBounds, TwoLayerFit
from .variance_bounds import VarianceBounds

__all__ = ["CovarianceStructure", "GradientNorm", "Measurement", "TheoremBounds", "TwoLayerFit", "VarianceBounds"]
