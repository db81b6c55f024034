"""An encoder with a linear head on the mean token, as a model of transformers; stands alone, so as to be exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPooledConfig(PretrainedConfig):
    """Configuration of the encoder and of the head.

    Args:
        encoder: Configuration of the encoder, as a dictionary with its ``model_type``.
        **kwargs: ``num_labels``, ``id2label`` and what else transformers keeps.
    """

    model_type = "filtune-mean-pooled"

    def __init__(self, encoder: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.encoder = dict(encoder or {})
        super().__init__(**kwargs)


class MeanPooledForSequenceClassification(PreTrainedModel):
    """Encoder, mean over the tokens that are not padding, linear head.

    Args:
        config: Its configuration.
        encoder: The encoder; by default a fresh one.
    """

    config_class = MeanPooledConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: MeanPooledConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            inner = {name: value for name, value in config.encoder.items() if name not in ("dtype", "torch_dtype")}
            encoder = AutoModel.from_config(AutoConfig.for_model(inner.pop("model_type"), **inner))
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_encoder(
        cls, name: str, config: MeanPooledConfig | None = None, **kwargs: Any
    ) -> MeanPooledForSequenceClassification:
        """Build a fresh head on an encoder.

        Args:
            name: The encoder's hub id or folder; or the folder of a whole model of this class.
            config: The configuration; by default one of ``kwargs``, such as ``num_labels``.
            **kwargs: See ``config``.
        """
        if AutoConfig.from_pretrained(name, trust_remote_code=False).model_type == cls.config_class.model_type:
            return cls.from_pretrained(name)
        dtype = getattr(config, "dtype", None) or torch.float32
        encoder = AutoModel.from_pretrained(name, dtype=dtype, trust_remote_code=False)
        return cls(config or MeanPooledConfig(encoder=encoder.config.to_dict(), **kwargs), encoder)

    def _init_weights(self, module: nn.Module) -> None:
        if module is getattr(self, "head", None):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> Any:
        """Return the logits (B, m) of tokens (B, L)."""
        if attention_mask is None:
            attention_mask = input_ids.new_ones(input_ids.shape)
        inputs = {name: value for name, value in inputs.items() if name == "token_type_ids" and value is not None}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(states.dtype)
        return SequenceClassifierOutput(logits=self.head((states * weight).sum(1) / weight.sum(1)))


AutoConfig.register(MeanPooledConfig.model_type, MeanPooledConfig, exist_ok=True)
AutoModelForSequenceClassification.register(MeanPooledConfig, MeanPooledForSequenceClassification, exist_ok=True)
