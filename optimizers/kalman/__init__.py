"""Kalman filters over the parameters, and what they are made of."""
