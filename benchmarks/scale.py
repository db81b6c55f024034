"""Memory and time per step of a causal language model that classifies into 1,000 labels.

Half a billion random parameters in bfloat16 (the shape of Qwen2.5-0.5B), LoRA r=8 on queries and values, a linear head
on the last token, gradient checkpointing, one text at a time. The optimizers take turns on one model, each with its own
copy of the trained parameters, as in :mod:`benchmarks.timing`. Times are of the process, so that others on the machine
count little.

    python -m benchmarks.scale --threads 1 --output docs/results/scale.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from benchmarks.methods import OPTIMIZERS, OptimizerMethod
from benchmarks.models import Case
from benchmarks.timing import batches, describe_environment, write_record

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "tie_word_embeddings": True,
}
"""Of Qwen2.5-0.5B, as its configuration on the hub has it."""


def language_model(labels: int, length: int, **shape: Any) -> Case:
    """Return the adapted model; its weights are drawn in bfloat16, without a copy in float32.

    Args:
        labels: m.
        length: Tokens of a text.
        shape: Changes of ``SHAPE``.
    """
    config = Qwen2Config(**{**SHAPE, **shape}, num_labels=labels, pad_token_id=0, use_cache=False)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Qwen2ForSequenceClassification(config)
    finally:
        torch.set_default_dtype(before)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    adapter = LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"], modules_to_save=["score"])
    adapted = get_peft_model(model, adapter)
    for param in adapted.parameters():
        if param.requires_grad:
            param.data = param.data.float()

    def draw(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(5, config.vocab_size, (batch, length), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return Case(adapted, draw)


def peak_memory() -> int:
    """Return the most memory that the process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(case: Case, labels: int, names: list[str], steps: int) -> dict[str, dict[str, Any]]:
    """Return the figures of every optimizer: process time of its steps, and bytes of its state.

    The first step of each is left out of the times.
    """
    device = torch.device("cpu")
    found: dict[str, dict[str, Any]] = {}
    methods = {name: OptimizerMethod(case, device, OPTIMIZERS[name], autocast=True) for name in names}
    for name, method in methods.items():
        method.case.train()  # in which mode alone transformers checkpoints; nothing is dropped out
        found[name] = {"seconds": []}
    stream = batches(case, labels, 1, device)
    for step in range(steps + 1):
        batch = next(stream)
        for name, method in methods.items():
            start = time.process_time()
            method.work(batch)
            if step:
                found[name]["seconds"].append(time.process_time() - start)
            print(f"step {step} {name}: {time.process_time() - start:.1f} s", flush=True)
    for name, method in methods.items():
        found[name]["median_seconds"] = statistics.median(found[name]["seconds"])
        found[name]["state_bytes"] = method.optimizer.state_bytes()
    for own in found.values():
        own["ratio_to_adamw"] = own["median_seconds"] / found["adamw"]["median_seconds"]
    return found


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="steps of each optimizer after the first")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--length", type=int, default=64, help="tokens of a text")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=["adamw", "filtune"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="path of the JSON")
    options = parser.parse_args(args)
    if "adamw" not in options.optimizers:
        parser.error("--optimizers: adamw is the reference and must be among them")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    case = language_model(options.labels, options.length, num_hidden_layers=options.layers)
    weights = sum(p.numel() * p.element_size() for p in case.parameters())
    record = {
        "parameters": sum(p.numel() for p in case.parameters()),
        "trained_parameters": sum(p.numel() for p in case.parameters() if p.requires_grad),
        "weights_bytes": weights,
        "peak_bytes_before_a_step": peak_memory(),
        "labels": options.labels,
        "length": options.length,
        "optimizers": measure(case, options.labels, options.optimizers, options.steps),
        "peak_bytes": peak_memory(),
        "environment": describe_environment(torch.device("cpu"), options.threads),
    }
    print(json.dumps(record, indent=2))
    if options.output:
        write_record(record, options.output)


if __name__ == "__main__":
    main()
