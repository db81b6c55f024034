"""The trainable parameters of LoKO's table 6, with the placements by which they come out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.experiments.composition import compose
from filtune.lightning_modules.backbones.adapters import adapt
from filtune.lightning_modules.backbones.base import Backbone, BackboneConfig
from filtune.lightning_modules.backbones.timm_models import TimmBackbone
from transformers import RobertaConfig, RobertaForSequenceClassification

from tests.conftest import Task

ROBERTA: dict[str, dict[str, Any]] = {
    "roberta_base": {},
    "roberta_large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}


def config_of(name: str) -> BackboneConfig:
    return BackboneConfig(**{**compose([f"backbone/{name}"])["model"]["backbone"], "pretrained": False})


def count(backbone: Backbone, config: BackboneConfig) -> int:
    adapt(backbone, config)
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "outputs", "expected"),
    [
        ("densenet121", 10, 166_026),
        ("resnet18", 10, 148_822),
        ("resnet50", 100, 522_672),
        ("vit_base", 10, 155_146),
        ("vit_base_dinov2", 10, 155_146),
        ("vit_large", 10, 403_466),
    ],
)
def test_image_backbones(name: str, outputs: int, expected: int) -> None:
    config = config_of(name)
    with torch.device("meta"):  # sizes without numbers
        assert count(TimmBackbone.build(config, Task(modality="image", outputs=outputs)), config) == expected


@pytest.mark.parametrize(("name", "expected"), [("roberta_base", 665_858), ("roberta_large", 1_248_258)])
def test_text_backbones(name: str, expected: int) -> None:
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, **ROBERTA[name]}
    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig(num_labels=2, **sizes))
        assert count(Backbone(model, ("classifier",)), config_of(name)) == expected
