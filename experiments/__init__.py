"""Studies and their results: the papers' tables and figures as runs, sweeps, and a record of each run."""
