"""What becomes of each of PEFT's methods on layers 16 wide: the arguments it needs there, or why it is refused."""

from __future__ import annotations

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

KNOWN = {"dora", *(str(kind.value).lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING)}
"""All that the installed PEFT has."""

WORK = (
    "adamss beft boft deft delora dora fourierft frod glora gralora hira hra ia3 lily ln_tuning loha lokr lora "
    "miss oft peanut psoft pvera randlora road shira supertuning tinylora trainable_tokens unilora vblora vera waveft"
).split()

ARGUMENTS: dict[str, dict[str, Any]] = {
    "adamss": {"r": 8},
    "fourierft": {"n_frequency": 20},
    "miss": {"r": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 4},
    "shira": {"r": 4},
    "trainable_tokens": {"token_indices": [5, 6, 9]},
    "vblora": {"vector_length": 4, "num_vectors": 8},
    "waveft": {"n_frequency": 20},
}
"""Arguments of those methods whose defaults are for wider layers."""

TARGETS = {"ln_tuning": ["LayerNorm"], "trainable_tokens": ["word_embeddings"]}
"""Where they go, if not on query and value."""

REFUSED: dict[str, str] = {
    "adalora": "gives up ranks as it goes on",
    "adaption_prompt": "cannot be put on layers with these targets",
    "c3a": "backward pass",
    "osf": "whose gradient a hook replaces",
    "poly": "task_ids should not be None",
    "shadow": "cannot be put on layers with these targets",
    **dict.fromkeys(
        "cartridge cpt multitask_prompt_tuning p_tuning prefix_tuning prompt_tuning xlora".split(),
        "works on the whole model or its inputs",
    ),
}
"""Methods that do not work, with why."""

CONVOLUTIONS = ("lora", "dora", "boft", "hira", "hra", "ia3", "ln_tuning", "loha", "lokr", "oft")
"""Methods that go on convolutions as well."""
