"""Text backbones: transformers, with the architecture's own head or a linear one on the mean token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lightning_modules.backbones.base import Backbone
from lightning_modules.backbones.config import BackboneConfig
from lightning_modules.backbones.hub import look_up


class MeanPooled(nn.Module):
    """Encoder, mean over the tokens that are not padding, linear head.

    Args:
        encoder: A transformers encoder.
        outputs: m.
        zero: Start the head at zero rather than at random.
    """

    def __init__(self, encoder: nn.Module, outputs: int, zero: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, outputs)
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        """Tokens (B, L) -> outputs (B, m)."""
        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(states.dtype)
        return self.head((states * weight).sum(1) / weight.sum(1))


class TextBackbone(Backbone):
    """A transformer with its tokenizer.

    Args:
        model: Maps tokens to outputs.
        head: Names of the head's sub-modules.
        tokenizer: The model's tokenizer.
        max_length: Most tokens of a text.
    """

    def __init__(self, model: nn.Module, head: tuple[str, ...], tokenizer: Any, max_length: int) -> None:
        super().__init__(model, head)
        self.tokenizer, self.max_length = tokenizer, max_length

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Texts or pairs of texts -> tokens (B, L), padded to the longest."""
        texts = batch["text"]
        columns = list(zip(*texts, strict=True)) if isinstance(texts[0], (tuple, list)) else [texts]
        tokens = self.tokenizer(
            *(list(column) for column in columns),
            padding=len(texts) > 1,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {name: tensor.to(self.device) for name, tensor in tokens.items()}

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Tokens (B, L) -> outputs (B, m)."""
        outputs = self.model(**inputs)
        return outputs if isinstance(outputs, Tensor) else outputs.logits

    @property
    def device(self) -> Any:
        """Where the model's parameters are."""
        return next(self.parameters()).device


def build_transformer(config: BackboneConfig, outputs: int) -> TextBackbone:
    """A transformers model by hub id or local folder.

    Raises:
        ValueError: If it cannot be found or loaded.
    """
    remedy = "name a hub id (with a network), or a local folder with config.json, weights and tokenizer files"
    look_up(config.name, remedy)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.name)
        model: nn.Module
        if config.head == "mean":
            model = MeanPooled(_load(AutoModel, config), outputs, zero=config.head_init == "zero")
            head: tuple[str, ...] = ("head",)
        else:
            model = _load(AutoModelForSequenceClassification, config, num_labels=outputs)
            head = tuple(name for name, child in model.named_children() if name != model.base_model_prefix)
            head = tuple(name for name in head if any(True for _ in getattr(model, name).parameters()))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.backbone.name: {config.name!r} cannot be loaded ({str(error).strip().splitlines()[0]}); {remedy}"
        ) from error
    encoder = model.encoder if isinstance(model, MeanPooled) else model
    positions = getattr(encoder.config, "max_position_embeddings", config.max_length)
    return TextBackbone(model.float(), head, tokenizer, min(config.max_length, positions, tokenizer.model_max_length))


def _load(auto: Any, config: BackboneConfig, **arguments: Any) -> nn.Module:
    if config.pretrained:
        return auto.from_pretrained(config.name, **arguments)
    return auto.from_config(AutoConfig.from_pretrained(config.name, **arguments))
