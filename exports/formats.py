"""Formats of predictions and of exports; known before torch is imported."""

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Endings of the files."""

EXPORTS = ("adapter", "merged", "onnx", "torch_export")
"""Formats of an exported model."""
