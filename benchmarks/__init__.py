"""Costs, measured side by side in one process; results are kept as JSON with the environment."""
