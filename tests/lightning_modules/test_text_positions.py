"""Texts in a batch: padding changes no output, and texts are cut to the positions that the model has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from filtune.lightning_modules import BackboneConfig, build_backbone
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models

from tests.conftest import Task

WORDS = {word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *(f"w{i}" for i in range(50))])}
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
DECODER = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 66}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Bert": SHAPE,
    "Roberta": {**SHAPE, "type_vocab_size": 1, "pad_token_id": 0},
    "Camembert": {**SHAPE, "type_vocab_size": 1, "pad_token_id": 1},
    "MPNet": {**SHAPE, "pad_token_id": 1},
    "Electra": {**SHAPE, "embedding_size": 32},
    "DebertaV2": SHAPE,
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 66},
    "GPT2": DECODER,
    "CTRL": {**DECODER, "dff": 64},
    "OpenAIGPT": DECODER,
    "GPTNeo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "max_position_embeddings": 66,
        "attention_types": [[["global", "local"], 1]],
    },
    "OPT": {**SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "Llama": {**SHAPE, "num_key_value_heads": 2},
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
}
LIMITS = {"Roberta": 65, "Camembert": 64, "MPNet": 64, "XLNet": 100}
"""Tokens that fit, of 66 positions: those up to the padding's are no token's, and XLNet sets no limit."""


def random_model(folder: Path, name: str, side: str, pad: bool = True) -> Path:
    """A random model with a word-level tokenizer that pads on one side, in the hub's layout."""
    torch.manual_seed(0)
    options = {"vocab_size": len(WORDS), **ARCHITECTURES[name]}
    config = getattr(transformers, f"{name}Config")(**options)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    base = Tokenizer(tokenizer_models.WordLevel(WORDS, "<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    padding = {"pad_token": "<pad>"} if pad else {}
    inputs = ["input_ids", "attention_mask"]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, unk_token="<unk>", eos_token="</s>", model_input_names=inputs, **padding
    ).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": side}))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_text_has_the_same_outputs_in_any_batch(tmp_path: Path, name: str, side: str) -> None:
    folder = random_model(tmp_path, name, side, pad=name not in ("GPT2", "OpenAIGPT"))
    texts = [" ".join(f"w{(i * k) % 50}" for i in range(1, k + 1)) for k in (1, 3, 7, 12)]
    for head in ("own", "mean"):
        backbone = build_backbone(BackboneConfig(str(folder), adapter=None, head=head), Task())  # type: ignore[arg-type]
        with torch.no_grad():
            alone = torch.cat([backbone(backbone.preprocess({"text": [text]})) for text in texts])
            batch = backbone(backbone.preprocess({"text": texts}))
        # sums of at most 64 numbers of order one, in other orders
        torch.testing.assert_close(batch, alone, rtol=0, atol=64 * torch.finfo(torch.float32).eps)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_texts_are_cut_to_the_positions_there_are(tmp_path: Path, name: str) -> None:
    folder = random_model(tmp_path, name, "right")
    backbone = build_backbone(BackboneConfig(str(folder), adapter=None, max_length=100), Task())
    inputs = backbone.preprocess({"text": ["w1 " * 200, "w2"]})
    assert inputs["input_ids"].shape == (2, LIMITS.get(name, 66))
    assert backbone(inputs).isfinite().all()


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def masked_lm(folder: Path) -> Path:
    random_model(folder, "Bert", "right")
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
def test_what_the_checkpoint_lacks_is_trained_with_the_head(tmp_path: Path, adapter: str) -> None:
    folder = masked_lm(tmp_path)
    with pytest.warns(UserWarning, match=r"has no weights of bert.pooler.dense; they start at random, and are trained"):
        backbone = build_backbone(BackboneConfig(str(folder), adapter=adapter, head_init="random"), Task())
    trained = {name for name, param in backbone.named_parameters() if param.requires_grad}
    assert sum("pooler" in name for name in trained) == 2
    backbone(backbone.preprocess({"text": ["w1"]})).sum().backward()
    grads = [param.grad for name, param in backbone.named_parameters() if name in trained and "pooler" in name]
    assert all(grad is not None and grad.any() for grad in grads)


def test_a_pooler_that_is_not_used_is_not_missed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    backbone = build_backbone(BackboneConfig(str(masked_lm(tmp_path)), adapter="lora", head="mean"), Task())
    assert backbone.head == ("head",)
    assert not [warning for warning in recwarn if "no weights" in str(warning.message)]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    random_model(tmp_path, "Bert", "right")
    weights = tmp_path / "model.safetensors"
    other = random_model(tmp_path / "other", "GPT2", "right")
    weights.write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="its weights are of another model: 39 of 41 tensors are missing"):
        build_backbone(BackboneConfig(str(tmp_path), adapter="lora"), Task())
