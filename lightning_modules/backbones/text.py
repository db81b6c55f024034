"""Text backbones: transformers, with the architecture's own head or a linear one on the mean token."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from filtune.datamodules import Task
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from typing_extensions import Self

from .base import Backbone, BackboneConfig, check_weights_available
from .errors import BackboneError, library_errors
from .folders import refuse_code
from .memory import quantisation
from .positions import padding_side, usable_positions

PROBE = "The quick brown fox jumps over 13 lazy dogs, doesn't it?"
"""A sentence whose tokens show that a tokenizer is the one of before."""

UNRELATED = {"transformers_version", "dtype", "torch_dtype", "use_cache", "problem_type", "pad_token_id", "num_labels"}
"""Entries of a configuration that do not change what the encoder computes."""


_NUMBER = re.compile(r"\d+")


class MeanPooled(nn.Module):
    """Encoder, mean over the tokens that are not padding, linear head.

    Args:
        encoder: A transformers encoder.
        outputs: m.
    """

    def __init__(self, encoder: nn.Module, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, outputs)

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Return the outputs (B, m) of tokens (B, L); without a mask there is no padding."""
        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        if attention_mask is None:
            return self.head(states.mean(1).to(self.head.weight.dtype))
        weight = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weight).sum(1) / weight.sum(1)
        return self.head(mean.to(self.head.weight.dtype))


class TextBackbone(Backbone):
    """A transformer with its tokenizer.

    Args:
        model: Maps tokens to outputs.
        head: Names of the head's sub-modules.
        tokenizer: The model's tokenizer.
        max_length: Most tokens of a text.
    """

    modality = "text"
    library = "transformers"

    def __init__(self, model: nn.Module, head: tuple[str, ...], tokenizer: Any, max_length: int) -> None:
        super().__init__(model, head)
        self.tokenizer, self.max_length = tokenizer, max_length

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Return true, because ``build`` reports a name that is neither a folder nor on the hub."""
        return True

    @classmethod
    def hub_id(cls, config: BackboneConfig) -> str | None:
        """Return the name, whose configuration and tokenizer random weights need as well."""
        return config.name

    @classmethod
    def build(cls, config: BackboneConfig, task: Task) -> Self:
        """Return a transformers model by hub id or local folder, with its tokenizer.

        Raises:
            BackboneError: If it cannot be found or loaded.
        """
        remedy = "name a hub id (with a network), or a local folder with config.json, weights and tokenizer files"
        check_weights_available(config.name, remedy)
        refuse_code(config.name)
        folder = Path(config.name)
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise BackboneError(
                f"model.backbone.name: {config.name!r} is an adapter of PEFT without its model; name the model, or the "
                "folder of both together (filtune export --merge)"
            )
        with library_errors(config.name, "config.json", remedy):
            _read_config(config)
        with library_errors(config.name, "its tokenizer", remedy):
            tokenizer = _load_tokenizer(config.name)
        with library_errors(config.name, "the model", remedy):
            model, head, is_fresh = _load_with_head(config, task.outputs, tokenizer.pad_token_id)
            encoder = model.encoder if isinstance(model, MeanPooled) else model
            _check_vocabulary(tokenizer, encoder)
            lengths = [config.max_length, usable_positions(encoder), tokenizer.model_max_length]
            tokenizer.padding_side = padding_side(encoder)
            if config.frozen == "4bit":
                for name in head:
                    model.get_submodule(name).to(encoder.device, torch.float32)
            else:
                model = model.float()
            backbone = cls(model, head, tokenizer, min(length for length in lengths if length is not None))
        backbone.has_fresh_head, backbone.is_pretrained = is_fresh, config.pretrained
        return backbone

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the tokens (B, L) of texts or pairs of texts, padded to the longest.

        Without padding there is no mask: transformers would read it on the host, which then waits for the device.
        """
        texts = batch["text"]
        columns = list(zip(*texts, strict=True)) if isinstance(texts[0], (tuple, list)) else [texts]
        tokens = self.tokenizer(
            *(list(column) for column in columns),
            padding=len(texts) > 1,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        if "attention_mask" in tokens and bool(tokens["attention_mask"].all()):
            del tokens["attention_mask"]
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in tokens.items()}

    def input_settings(self) -> dict[str, Any]:
        """Return the tokens of a sentence, the size of the vocabulary, and the plain values of the configuration."""
        model = self.plain_model
        config = (model.encoder if isinstance(model, MeanPooled) else model).config.to_dict()
        plain = {name: value for name, value in config.items() if type(value) in (int, float, bool, str)}
        kept = {name: value for name, value in plain.items() if not name.startswith("_") and name not in UNRELATED}
        tokens = self.tokenizer(PROBE)["input_ids"]
        return {**kept, "tokens": [int(token) for token in tokens], "vocabulary": len(self.tokenizer)}

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the outputs (B, m) of tokens (B, L)."""
        outputs = self.model(**inputs)
        return outputs if isinstance(outputs, Tensor) else outputs.logits


def _load_tokenizer(name: str) -> Any:
    """Return the tokenizer, with a token for padding.

    Raises:
        ValueError: If it has no vocabulary.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.pad_token is None:  # decoders have none, and need it for batches
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if len(tokenizer) <= len(tokenizer.all_special_ids) + 1:
        raise ValueError("its folder has no vocabulary: every token would be unknown")
    return tokenizer


def _check_vocabulary(tokenizer: Any, encoder: Any) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        ValueError: If it has fewer.
    """
    try:
        weight = getattr(encoder.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # of models that compute embeddings otherwise
        return
    tokens = 1 + max(tokenizer.get_vocab().values())
    if isinstance(weight, Tensor) and tokens > len(weight):
        raise ValueError(f"the tokenizer has {tokens} tokens, and the model embeddings of {len(weight)} alone")


def _load_with_head(
    config: BackboneConfig, outputs: int, padding: int | None
) -> tuple[nn.Module, tuple[str, ...], bool]:
    """Return the model with the head asked for, the names of the modules that are trained, and whether it is random."""
    if config.head == "mean":
        # a pooler is not used, and where the checkpoint has none it is random
        encoder, fresh, _ = _load_pretrained(AutoModel, config, ("pooler",))
        return MeanPooled(encoder, outputs), ("head", *(f"encoder.{name}" for name in fresh)), True
    auto = AutoModelForSequenceClassification
    with torch.device("meta"):  # names alone
        head = _head_of(auto.from_config(_read_config(config, num_labels=outputs), trust_remote_code=False))
    model, fresh, is_fresh = _load_pretrained(auto, config, head, num_labels=outputs, ignore_mismatched_sizes=True)
    model.config.pad_token_id = padding
    return model, (*head, *fresh), is_fresh


def _head_of(model: Any) -> tuple[str, ...]:
    """Return the names of the modules that a classifier has on top of its encoder."""
    children = [(name, child) for name, child in model.named_children() if name != model.base_model_prefix]
    return tuple(name for name, child in children if any(True for _ in child.parameters()))


def _load_pretrained(
    auto: Any, config: BackboneConfig, head: tuple[str, ...], **arguments: Any
) -> tuple[Any, tuple[str, ...], bool]:
    """Return a model, its modules apart from the head that the checkpoint lacks, and whether it lacks the head as well.

    Args:
        auto: The class of transformers that loads it.
        config: The options.
        head: Names of modules that need no weights; they are not among those returned.
        **arguments: Of the model's configuration.

    Raises:
        ValueError: If the weights are those of another model.
    """
    if not config.pretrained:
        arguments.pop("ignore_mismatched_sizes", None)
        return auto.from_config(_read_config(config, **arguments), trust_remote_code=False), (), True
    arguments["trust_remote_code"] = False
    options = {**arguments, "output_loading_info": True}
    model, found = auto.from_pretrained(config.name, **options, **quantisation(config, head))
    own = tuple(f"{name}." for name in head)
    others = sorted(name for name, *_ in found["mismatched_keys"] if not name.startswith(own))
    if others:
        raise ValueError(f"its weights are of other sizes than its config.json says, {others[0]} among them")
    if found["mismatched_keys"]:
        rank_zero_warn(f"model.backbone.name: the head of {config.name!r} is of another task; a fresh one is trained")
    _warn_of_unused(config.name, model, found["unexpected_keys"])
    lacking = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    is_fresh = any(name.startswith(own) for name in lacking)
    fresh = _fresh_modules(config.name, model, [name for name in found["missing_keys"] if not name.startswith(own)])
    if fresh and config.frozen == "4bit":  # what is trained keeps its bits
        model = auto.from_pretrained(config.name, **arguments, **quantisation(config, (*head, *fresh)))
    return model, fresh, is_fresh


def _warn_of_unused(name: str, model: nn.Module, unused: Collection[str]) -> None:
    """Warn of weights that are not loaded, where they are layers like the model's own, or more than it has.

    The head of another task is none of these.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    own = {_NUMBER.sub("#", key.removeprefix(prefix)) for key in model.state_dict()}
    layers = sorted(key for key in unused if _NUMBER.sub("#", key.removeprefix(prefix)) in own)
    if layers or len(unused) > len(own):
        rank_zero_warn(
            f"model.backbone.name: {name!r} has weights of {len(unused)} tensors that the model of its config.json "
            f"lacks, such as {(layers or sorted(unused))[0]}; they are not loaded"
        )


def _read_config(config: BackboneConfig, **arguments: Any) -> Any:
    return AutoConfig.from_pretrained(config.name, trust_remote_code=False, **arguments)


def _fresh_modules(name: str, model: nn.Module, missing: list[str]) -> tuple[str, ...]:
    """Return the names of the modules whose parameters are missing from a checkpoint, and warn of them.

    Raises:
        ValueError: If more is missing than is there.
    """
    parameters = dict(model.named_parameters())
    missing = sorted(parameters.keys() & set(missing))
    if 2 * len(missing) > len(parameters):
        raise ValueError(
            f"its weights are of another model: {len(missing)} of {len(parameters)} tensors are missing, such as "
            f"{missing[0]}"
        )
    owners = dict.fromkeys(each.rpartition(".")[0] for each in missing)
    # the parameters of a module that has others within cannot be trained without theirs
    fresh = tuple(owner for owner in owners if owner and not any(model.get_submodule(owner).children()))
    if fresh:
        rank_zero_warn(
            f"model.backbone.name: {name!r} has no weights of {', '.join(fresh)}; they start at random, and are "
            "trained and saved with the head"
        )
    if rest := [each for each in missing if each.rpartition(".")[0] not in fresh]:
        rank_zero_warn(
            f"model.backbone.name: {name!r} has no weights of {', '.join(rest)}; they are random, and frozen unless "
            "--model.backbone.adapter is null"
        )
    return fresh
