"""Covariances of the state: which entries of P a filter keeps, one file each."""

from .base import Correction, Covariance

__all__ = ["Correction", "Covariance"]
