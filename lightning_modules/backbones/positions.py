"""Positions of tokens: how many a model has, and on which side texts are padded so that padding takes none of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def usable_positions(encoder: Any) -> int | None:
    """Return the number of tokens that a model of transformers has positions for; None where it sets no limit.

    RoBERTa and its relatives count positions from ``padding_idx + 1`` of their table, and the rows up to there are
    never those of a token: of the ``max_position_embeddings`` rows of the table, so many fewer can be used.
    """
    rows = getattr(encoder.config, "max_position_embeddings", None)
    if not isinstance(rows, int) or rows < 1:
        return None
    table = _position_table(encoder, rows)
    padding = getattr(table, "padding_idx", None)
    return rows if padding is None else rows - padding - 1


def padding_side(encoder: Any) -> str:
    """Return the side on which texts are padded, whatever the tokenizer was saved with.

    On the right, padding moves no token from its position: absolute positions are those of the text alone, the first
    token stays the first, and causal attention never looks at what comes later. Heads that read the token in the last
    place, padding or not, such as XLNet's, need it on the left; positions are relative there.
    """
    return "left" if getattr(encoder.config, "summary_type", None) == "last" else "right"


def _position_table(encoder: Any, rows: int) -> nn.Module | None:
    """Return the module with an embedding for each position, by its size."""
    words = encoder.get_input_embeddings()
    for module in encoder.modules():
        weight = getattr(module, "weight", None)
        is_table = module is not words and hasattr(module, "padding_idx") and isinstance(weight, Tensor)
        if is_table and len(weight) == rows:  # type: ignore[arg-type]
            return module
    return None
