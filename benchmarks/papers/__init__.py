"""Experiments of the papers that a small machine can run, each with a tuned AdamW beside it.

python -m benchmarks.papers.loko_table5 --data DATA/ylecun/mnist --output docs/results/loko_table5
"""
