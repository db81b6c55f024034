"""Observation noises: estimators of the covariance R of the residuals, one file each."""

from .base import ObservationNoise

__all__ = ["ObservationNoise"]
