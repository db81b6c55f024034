"""What a run says about its backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class BackboneConfig:
    """A backbone, its adapter and its head.

    Args:
        name: ``lenet5``, a timm model name, a transformers hub id, or a local folder in the hub's layout.
        library: Where the name is looked up; ``auto`` takes ``builtin`` for lenet5, ``transformers`` for text
            and ``timm`` for images.
        pretrained: Load pre-trained weights; otherwise random ones from the seed.
        adapter: ``lora``, ``dora``, the name of any other PEFT method that is put on layers (such as ``ia3``), or
            null to train all weights.
        rank: Rank r of ``lora``, ``dora``, ``loha`` and ``lokr``; other methods take theirs from ``adapter_args``.
        alpha: Scale of these, alpha / r; null takes alpha = r.
        targets: Modules the adapter goes on, by role (``query``, ``key``, ``value``, ``conv``, ``linear``) or by
            the end of their name.
        adapter_args: Further arguments of the PEFT configuration.
        head: ``own``, the architecture's classification head, or ``mean``, a linear layer on the mean of the
            token states (transformers).
        head_init: How the ``mean`` head starts: ``random``, or ``zero``, where one class is as likely as any other
            before the first sample.
        max_length: Most tokens of a text; longer ones are cut, and so is what the model has no positions for.
        image_size: Side of the image the backbone sees; null takes the backbone's own.
        frozen: How weights that are not trained are kept: ``float32``, ``bfloat16``, which halves their memory, or
            ``4bit`` (transformers on CUDA, with bitsandbytes installed). What is trained is float32 whatever this says.
        gradient_checkpointing: Keep the inputs of the model's layers alone for the backward pass and work the rest out
            again: less memory, a third more time. The results are the same.
    """

    name: str = "lenet5"
    library: Literal["auto", "builtin", "timm", "transformers"] = "auto"
    pretrained: bool = True
    adapter: str | None = None
    rank: int = 8
    alpha: float | None = None
    targets: list[str] = field(default_factory=lambda: ["query"])
    adapter_args: dict[str, Any] = field(default_factory=dict)
    head: Literal["own", "mean"] = "own"
    head_init: Literal["random", "zero"] = "random"
    max_length: int = 128
    image_size: int | None = None
    frozen: Literal["float32", "bfloat16", "4bit"] = "float32"
    gradient_checkpointing: bool = False
