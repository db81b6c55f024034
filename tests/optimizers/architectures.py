"""Tiny pre-training architectures with random weights and adapters: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification


class Logits(nn.Module):
    """A classifier of token ids that returns its logits alone."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classifier(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits


def bert(m: int, attention: str, use_dora: bool = False, targets: Sequence[str] = ("query", "value")) -> nn.Module:
    """A two-layer BERT with LoRA or DoRA of rank 4, every factor random, and a trained head; eval mode, float64."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=8,
        num_labels=m,
        attn_implementation=attention,
    )
    adapter = LoraConfig(
        r=4,
        lora_alpha=4,
        target_modules=list(targets),
        modules_to_save=["classifier"],
        use_dora=use_dora,
        init_lora_weights=False,
    )
    model = get_peft_model(BertForSequenceClassification(config).double(), adapter).double().eval()
    assert model.config._attn_implementation == attention
    return Logits(model)


def conv_lora(m: int, use_dora: bool = False) -> nn.Module:
    """A convolution with LoRA or DoRA of rank 2, batch norm in eval mode and a trained head; float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, m))
    adapter = LoraConfig(
        r=2, lora_alpha=2, target_modules=["0"], modules_to_save=["4"], use_dora=use_dora, init_lora_weights=False
    )
    return get_peft_model(net, adapter).double().eval()
