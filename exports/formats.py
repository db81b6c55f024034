"""Formats of the files that predictions are written to; known before torch is imported."""

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Endings of the files."""
