"""What to run and what came of it: the papers' tables and figures as runs, sweeps, and a record of each run."""
