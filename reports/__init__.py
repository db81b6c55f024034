"""What came of runs: tables and plots from their folders. Imports nothing of the training code."""
