"""A Llama of a billion random parameters as a classifier with LoRA, frozen in four bits and in bfloat16."""

from __future__ import annotations

import gc
import time
from importlib.util import find_spec
from typing import Any

import torch
from filtune.optimizers import AdamW, Filtune, LoKO, OnlineOptimizer
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification

from benchmarks.gpu.record import Record
from benchmarks.gpu.rules import build, step
from benchmarks.models import Case

SECONDS = 40
ALONE = True
SMOKE = True

BILLION = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = 128


def run_memory4bit(record: Record) -> None:
    """Record one entry per storage of the frozen weights, classes, and optimizer."""
    for frozen in ("4bit", "bfloat16"):
        if frozen == "4bit" and not record.cuda:
            record.put("4bit", {"skipped": "needs a CUDA device"})
            continue
        if frozen == "4bit" and find_spec("bitsandbytes") is None:
            record.put("4bit", {"skipped": "bitsandbytes is not installed"})
            continue
        for outputs in (2, 100):
            for checkpointing in (False, True):
                if checkpointing and outputs == 2:
                    continue
                name = f"{frozen} {outputs} classes{' checkpointing' if checkpointing else ''}"
                record.attempt(name, measure_llama, frozen, outputs, checkpointing, record)
                record.clean()
            if record.smoke:
                break


def measure_llama(frozen: str, outputs: int, checkpointing: bool, record: Record) -> dict[str, Any]:
    """Return size, memory and step time of the optimizers on one model."""
    case = llama(frozen, outputs, record)
    if checkpointing:
        case.model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        case.train()  # checkpointing is for training; there is no dropout
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in case.parameters()),
        "trained": sum(p.numel() for p in case.parameters() if p.requires_grad),
        "model_bytes": sum(p.numel() * p.element_size() for p in case.parameters()),
    }
    rules: dict[str, Any] = {"adamw": AdamW, "loko": LoKO, "filtune": Filtune}
    rules["filtune-top-2"] = lambda params: Filtune(params, top_k=2)
    if outputs > 2 and record.smoke:
        rules.pop("loko")
    for name, make in rules.items():
        try:
            found[name] = time_steps(build(make, case), case, outputs, record)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        gc.collect()
    return found


def time_steps(optimizer: OnlineOptimizer, case: Case, outputs: int, record: Record) -> dict[str, Any]:
    """Return the median time of a step and the memory at its peak."""
    generator, seconds = torch.Generator().manual_seed(0), []
    count = 3 if record.quick or record.smoke else 12
    for k in range(count):
        inputs = case.sample(generator, 1)
        batch = {name: value.to(record.device) for name, value in inputs.items()}, torch.tensor([k % outputs])
        batch = batch[0], batch[1].to(record.device)
        if record.cuda:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            torch.cuda.synchronize()
        start = time.perf_counter()
        loss = step(optimizer, case, batch, autocast=True).nll()
        if record.cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    found = {"median_seconds": sorted(seconds)[len(seconds) // 2], "loss": float(loss), "steps": count}
    found["state_bytes"] = optimizer.state_bytes()
    if record.cuda:
        found |= {
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "step_bytes": torch.cuda.max_memory_allocated() - held,
        }
    return found


def llama(frozen: str, outputs: int, record: Record) -> Case:
    """Return a random Llama with LoRA on queries and values and a trained head in float32."""
    shape = TINY if record.quick and not record.cuda else BILLION
    config = LlamaConfig(vocab_size=32000, num_labels=outputs, pad_token_id=0, tie_word_embeddings=False, **shape)
    with record.device:
        model = LlamaForSequenceClassification(config).to(torch.bfloat16)
    if frozen == "4bit":
        quantise(model)
    adapter = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(model, adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()

    def draw(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(5, 32000, (batch, TOKENS if record.cuda else 8), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return Case(model, draw).to(record.device).eval()


def quantise(model: nn.Module) -> None:
    """Replace the dense layers of the decoder by ones in four bits (NF4), in place."""
    import bitsandbytes as bnb

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "score" not in name:
            new = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            new.weight = bnb.nn.Params4bit(module.weight.data.cpu(), requires_grad=False, quant_type="nf4")
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, new.to(module.weight.device))
