"""Reports of runs: tables and plots from their folders, without the training code."""
