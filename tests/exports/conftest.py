"""A tiny pre-trained encoder without a head, one thread, no hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tests.conftest import SIZES, VOCABULARY, write_tokenizer


@pytest.fixture(autouse=True)
def _quiet() -> None:
    """One thread, and no notices of fresh heads."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer BERT without a head, in the hub's layout."""
    folder = tmp_path_factory.mktemp("encoder")
    write_tokenizer(folder)
    config = transformers.BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, **SIZES)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def half_encoder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stored in half precision, as some on the hub are."""
    folder = tmp_path_factory.mktemp("half")
    transformers.AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    transformers.AutoModel.from_pretrained(encoder).half().save_pretrained(folder)
    return folder
