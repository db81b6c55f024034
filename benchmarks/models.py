"""Models and samples to time on: random weights unless a folder with real ones is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from filtune.lightning_modules.backbones.adapters import resolve_targets
from filtune.lightning_modules.backbones.lenet import LeNet5
from filtune.lightning_modules.backbones.text import MeanPooled
from peft import LoraConfig, get_peft_model
from timm.layers import Conv2dSame
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaForSequenceClassification

Sample = Callable[[torch.Generator, int], Any]


class Case(nn.Module):
    """A model with its adapter, and how to draw inputs for it.

    Args:
        model: Maps inputs to outputs (B, m).
        sample: Draws the inputs of a batch.
    """

    def __init__(self, model: nn.Module, sample: Sample) -> None:
        super().__init__()
        self.model, self.sample = model, sample

    def forward(self, inputs: Any) -> Tensor:
        """Return the outputs (B, m)."""
        outputs = self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)
        return outputs if isinstance(outputs, Tensor) else outputs.logits


def _images(channels: int, size: int) -> Sample:
    return lambda generator, batch: torch.randn(batch, channels, size, size, generator=generator)


def _tokens(vocabulary: int, length: int) -> Sample:
    def draw(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        ids = torch.randint(5, vocabulary, (batch, length), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return draw


def _adapted(model: nn.Module, rank: int, targets: list[str], head: str) -> nn.Module:
    names = resolve_targets(model, targets, (head,))
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=names, modules_to_save=[head]))


def lenet5(outputs: int, weights: str | None, length: int) -> Case:
    """Return LeNet-5, all weights trained."""
    return Case(LeNet5(1, outputs), _images(1, 28))


def transformer(outputs: int, rank: int, targets: list[str], length: int = 24) -> Case:
    """Return a transformer of MiniLM's shape with random weights, LoRA on these layers and a trained head.

    Args:
        outputs: m.
        rank: Of LoRA.
        targets: Roles or names of the layers.
        length: Tokens of a text.
    """
    shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = MeanPooled(BertModel(shape, add_pooling_layer=False), outputs)
    return Case(_adapted(model, rank, targets, "head"), _tokens(shape.vocab_size, length))


def small_transformer(outputs: int) -> Case:
    """Return a transformer of two layers with LoRA on queries and values and a trained head, for checks."""
    shape = BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    model = MeanPooled(BertModel(shape, add_pooling_layer=False), outputs)

    def draw(generator: torch.Generator, batch: int) -> dict[str, Tensor]:
        ids = torch.randint(5, 200, (batch, 12), generator=generator)
        return {"input_ids": ids}  # nothing is padded; transformers would read a mask on the host

    return Case(_adapted(model, 4, ["query", "value"], "head"), draw)


def minilm(outputs: int, weights: str | None, length: int) -> Case:
    """Return MiniLM, LoRA r=8 on the queries, mean of the tokens and a linear head."""
    if weights is None:
        return transformer(outputs, 8, ["query"], length)
    encoder = AutoModel.from_pretrained(weights).float()
    return Case(
        _adapted(MeanPooled(encoder, outputs), 8, ["query"], "head"), _tokens(encoder.config.vocab_size, length)
    )


def roberta(
    outputs: int,
    weights: str | None,
    length: int,
    rank: int = 4,
    targets: Sequence[str] = ("query",),
    **shape: int,
) -> Case:
    """Return RoBERTa with LoRA and its own two-layer head; by default the base model and r=4 on the queries, as LoKO.

    Args:
        outputs: m.
        weights: Folder with real weights; None for random ones.
        length: Tokens of a text.
        rank: Of LoRA.
        targets: Roles or names of the layers.
        shape: Sizes of another model.
    """
    config = RobertaConfig(
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=outputs,
        **shape,
    )
    model = RobertaForSequenceClassification(config)
    if weights:
        model = RobertaForSequenceClassification.from_pretrained(weights, num_labels=outputs).float()
    return Case(_adapted(model, rank, [*targets], "classifier"), _tokens(50265, length))


def pretrained_image(
    name: str, outputs: int, weights: str | None, targets: list[str], head: str, size: int = 224
) -> Case:
    """Return one of timm's models, LoRA r=4 on these layers and a trained head, on images of so many pixels a side."""
    model = timm.create_model(name, pretrained=False, num_classes=outputs, checkpoint_path=weights or "")
    return Case(_adapted(model, 4, targets, head), _images(3, size))


def vit_small(outputs: int, weights: str | None, length: int) -> Case:
    """Return ViT-S/16, LoRA r=4 on the fused query, key and value."""
    return pretrained_image("vit_small_patch16_224", outputs, weights, ["query"], "head")


def vit_base(outputs: int, weights: str | None, length: int) -> Case:
    """Return ViT-B/16, LoRA r=4 on the fused query, key and value."""
    return pretrained_image("vit_base_patch16_224", outputs, weights, ["query"], "head")


def efficientnet_lite0(outputs: int, weights: str | None, length: int) -> Case:
    """Return EfficientNet-Lite0, LoRA r=4 on its pointwise convolutions, at 128 pixels."""
    return pretrained_image("tf_efficientnet_lite0", outputs, weights, ["pointwise"], "classifier", 128)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Linear(32, 32),
    "convolution": lambda: nn.Conv2d(32, 32, 3, padding=1),
    "pointwise": lambda: nn.Conv2d(32, 32, 1),
    "grouped": lambda: nn.Conv2d(32, 32, 3, padding=1, groups=4),
    "depthwise": lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32),
    "padded in the forward pass": lambda: Conv2dSame(32, 32, 3),
}
"""Kinds of layers whose rows of the Jacobian are compared."""


def layered(kind: str) -> Case:
    """Return four trained layers of a kind with activations, and a head of four classes, on 32 channels of 16 x 16.

    Dense layers see 32 tokens of 32 numbers.
    """
    layers = [part for _ in range(4) for part in (LAYERS[kind](), nn.GELU())]
    if kind == "dense":
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 4))
        return Case(model, lambda generator, batch: torch.randn(batch, 32, 32, generator=generator))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4))
    return Case(model, _images(32, 16))


MODELS: dict[str, Callable[[int, str | None, int], Case]] = {
    "lenet5": lenet5,
    "minilm": minilm,
    "efficientnet-lite0": efficientnet_lite0,
    "vit-s16": vit_small,
    "vit-b16": vit_base,
    "roberta-base": roberta,
}
