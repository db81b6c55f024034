"""The interface of a backbone, its options, and the source of its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from filtune.datamodules import Task
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import RepositoryNotFoundError
from torch import Tensor, nn
from typing_extensions import Self

from .errors import BackboneError

HEAD = "head"
"""The value of ``--model.backbone.adapter`` that trains the head and nothing else."""


@dataclass
class BackboneConfig:
    """A backbone, its adapter and its head.

    Args:
        name: Name of the model: ``lenet5``, a timm model, a transformers hub id, a local folder in the hub's layout (of
            transformers or of timm), a file of weights in such a folder of timm's, or the dotted path of a class of
            your own, such as ``my_module.MyBackbone``.
        library: Library in which the name is looked up: ``builtin``, ``timm`` or ``transformers``; ``auto`` takes
            ``builtin`` for the names it has, ``transformers`` for texts and ``timm`` for images.
        pretrained: Load pre-trained weights; ``false`` starts from random weights, drawn from the seed.
        adapter: Adapter of the layers: ``lora``, ``dora`` or another PEFT method (such as ``ia3``); ``head`` trains the
            head alone, null all weights.
        rank: Rank r of ``lora``, ``dora``, ``loha`` and ``lokr``; other methods take theirs from ``adapter_args``.
        alpha: Scale of the adapter's output, which is multiplied by alpha / r; null takes alpha = r.
        targets: Modules that get an adapter, by role (``query``, ``key``, ``value``, ``linear``, ``conv``, and
            ``pointwise`` for ungrouped convolutions of one pixel) or by the end of their name.
        adapter_args: Further arguments of the adapter's PEFT configuration, by name.
        head: Classification head: ``own`` is the architecture's, ``mean`` a linear layer on the mean of the token
            states (transformers).
        head_init: Initialisation of a fresh head: ``random``, as the library does it, or ``zero`` for its last layer,
            which gives all classes the same probability before the first sample; ``auto`` takes ``zero`` on
            pre-trained weights and ``random`` where the whole network is random. A head that comes with the
            pre-trained weights is kept.
        weight_init: Initialisation of the weights of a network that is not pre-trained: ``library``, as the library
            does it, or ``xavier_uniform``, ``xavier_normal`` (Glorot and Bengio, 2010), ``kaiming_uniform`` or
            ``kaiming_normal`` (He et al., 2015), with biases of zero.
        max_length: Largest number of tokens of a text; longer texts are cut, also at the number of positions of the
            model.
        image_size: Side in pixels of the square image that the backbone gets; null takes the model's own.
        frozen: Storage of the weights that are not trained: ``float32``, ``bfloat16``, which halves their memory, or
            ``4bit`` (transformers on CUDA, with bitsandbytes installed). Trained parameters are always float32.
        gradient_checkpointing: Store only the inputs of the model's layers for the backward pass and recompute the
            rest: less memory, a third more time. The results are the same.
    """

    name: str = "lenet5"
    library: str = "auto"
    pretrained: bool = True
    adapter: str | None = None
    rank: int = 8
    alpha: float | None = None
    targets: list[str] = field(default_factory=lambda: ["query"])
    adapter_args: dict[str, Any] = field(default_factory=dict)
    head: Literal["own", "mean"] = "own"
    head_init: Literal["auto", "zero", "random"] = "auto"
    weight_init: Literal["library", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"] = "library"
    max_length: int = 128
    image_size: int | None = None
    frozen: Literal["float32", "bfloat16", "4bit"] = "float32"
    gradient_checkpointing: bool = False

    @property
    def uses_peft(self) -> bool:
        """True if an adapter of PEFT is put on the layers."""
        return self.adapter not in (None, HEAD)


class Backbone(nn.Module):
    """A model with its own preprocessing: raw batch -> inputs -> outputs.

    A subclass in a file of this folder is found by itself; one anywhere else is named by its dotted path. It sets
    ``modality`` and, in this folder, ``names``, and defines ``build`` and ``preprocess``.

    Args:
        model: Maps the inputs to outputs (B, m).
        head: Names of the sub-modules of ``model`` that form its head; they are trained beside an adapter.

    Attributes:
        has_fresh_head: Whether the head's weights are random; False where they come with the pre-trained weights.
        is_pretrained: Whether the weights before the head are pre-trained; ``build`` sets it.
        modality: The input, ``text``, ``image`` or ``table``: the key of a batch that ``preprocess`` reads.
        library: The value of ``--model.backbone.library`` that selects the class.
        names: The values of ``--model.backbone.name`` the class takes, unless ``accepts`` is overridden.
        roles: Roles of ``--model.backbone.targets`` with the ends of the names of their modules, beside or in place
            of those of :data:`~filtune.lightning_modules.backbones.adapters.ROLES`.
        load_code: Python that loads the whole exported model of images, for its model card, with fields for ``name``,
            ``file`` (its weights), ``channels`` and ``outputs``; empty to load it by ``build`` of the class.
    """

    modality: ClassVar[Literal["text", "image", "table"]]
    library: ClassVar[str] = "builtin"
    names: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[dict[str, tuple[str, ...]]] = {}
    load_code: ClassVar[str] = ""

    def __init__(self, model: nn.Module, head: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.has_fresh_head, self.is_pretrained = True, False

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Return whether the class takes this ``--model.backbone.name``."""
        return name in cls.names

    @classmethod
    def hub_id(cls, config: BackboneConfig) -> str | None:
        """Return the hub id of what ``build`` loads; None where it needs nothing, or loads it from elsewhere.

        Raises:
            ValueError: If there are no such weights.
        """
        return None

    @classmethod
    def build(cls, config: BackboneConfig, task: Task) -> Self:
        """Return the backbone with ``task.outputs`` outputs, without an adapter.

        Args:
            config: The options; ``name``, ``pretrained``, ``head``, ``max_length`` and ``image_size`` are for this
                method, the adapter and the memory options are applied afterwards.
            task: The data module's task.

        Raises:
            ValueError: If the backbone cannot be built.
        """
        raise NotImplementedError

    def preprocess(self, batch: dict[str, Any]) -> Any:
        """Turn a raw batch (texts or images) into the model's inputs, on the model's device."""
        raise NotImplementedError

    def forward(self, inputs: Any) -> Tensor:
        """Return the outputs (B, m)."""
        return self.model(inputs)

    def input_settings(self) -> dict[str, Any]:
        """Return what the inputs are made into and how the frozen model computes, as far as the weights do not say it.

        Plain values by name, kept in a checkpoint: a model whose weights are the same may read its inputs otherwise.
        """
        return {}

    @property
    def plain_model(self) -> nn.Module:
        """The model without PEFT's wrapper; where there is an adapter, its layers are in it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the model's first weights."""
        return next(self.parameters()).dtype


def check_weights_available(name: str, remedy: str) -> None:
    """Check that a model is on disk or on the hub; without a network, libraries would try for a minute.

    Args:
        name: Local folder or hub id.
        remedy: What to do about it if not.

    Raises:
        BackboneError: If it is neither here nor there.
    """
    if os.path.isdir(name):
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BackboneError(f"model.backbone.name: there is no folder {name!r}; {remedy}")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=10)
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"model.backbone.name: the hub has no model {name!r}, or it is not public; {remedy}"
        ) from error
    except Exception as error:  # of the HTTP library, whichever it is
        raise BackboneError(
            f"model.backbone.name: {name!r} is not a local folder, and the hub could not be reached; {remedy}"
        ) from error
