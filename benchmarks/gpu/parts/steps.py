"""Step times beside an eager AdamW's: the twelve pairs of LoKO's Table 3, batches, classes; eager, compiled, graphs.

Methods take turns in one process on the same samples. A time is that of a block of steps on the wall clock until the
device is done, per step; ``host_seconds`` is when the host had issued them. Ratios are to torch's AdamW (foreach), here
``adamw``, in the same round; the floor is one forward and one backward pass.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from filtune.optimizers import Filtune

from benchmarks.gpu.record import Record
from benchmarks.methods import OPTIMIZERS, Floor, Graphed, Method, OptimizerMethod, TimedMethod, TorchAdamW
from benchmarks.models import Case, roberta, small_transformer, transformer, vit_base
from benchmarks.tables import PAIRS
from benchmarks.timing import batches, compare_methods, interleave

SECONDS = 300
ALONE = True
SMOKE = True

BLOCK = 4
"""Steps of a method in a row."""

FILTERS = ["loko", "r-kalman", "low-rank", "filtune"]
NATURAL = ["ngd", "ring", "reng"]
"""With the papers' own batches and refreshes."""


def run_steps(record: Record) -> None:
    """Record one entry per model, batch, type and way."""
    if record.quick:
        plan = [("tiny", lambda: small_transformer(3), 3, 1, False)]
    else:
        plan = [(name, pair.build, pair.outputs, 1, False) for name, pair in PAIRS.items()]
    if record.smoke:
        plan = [entry for entry in plan if entry[0] in ("tiny", "CIFAR10/ResNet18", "MRPC/RoBERTa-base")]
    for name, build, outputs, batch, autocast in plan:
        record.attempt(f"{name} float32", compare_on_model, build, outputs, batch, autocast, record)
        record.clean()
    graphs(record)
    for name, build, outputs, batch, _ in plan:
        record.attempt(f"{name} bf16", compare_on_model, build, outputs, batch, True, record)
        record.clean()
    if record.smoke:
        return
    for entry in classes_and_batches(record.quick):
        name, build, outputs, batch, natural = entry
        record.attempt(name, compare_on_model, build, outputs, batch, True, record, natural=natural)
        record.clean()
    compiled(record)


def classes_and_batches(quick: bool) -> list[tuple[str, Any, int, int, bool]]:
    """Return further models: MiniLM's shape over classes, and the natural gradients' batches."""
    if quick:
        return [("tiny batch 2 bf16", lambda: small_transformer(3), 3, 2, True)]
    found = [
        (f"MiniLM {m} classes batch 1 bf16", partial(transformer, m, 8, ["query"]), m, 1, True) for m in (2, 10, 100)
    ]
    return [
        *found,
        ("RoBERTa-base 2 classes batch 32 x 128 bf16", partial(roberta, 2, None, 128), 2, 32, True),
        ("ViT-B16 100 classes batch 64 bf16", partial(vit_base, 100, None, 0), 100, 64, True),
        ("MiniLM 2 classes batch 8 bf16", partial(transformer, 2, 8, ["query"]), 2, 8, True),
    ]


def compare_on_model(
    build: Any, outputs: int, batch: int, autocast: bool, record: Record, natural: bool = True
) -> dict[str, Any]:
    """Return the figures of all methods on one model."""
    device = record.device
    torch.manual_seed(0)
    with device:
        case = build().to(device)
    methods: dict[str, Any] = {
        "floor": Floor(case, device, 1, autocast),
        "adamw": TorchAdamW(case, device, autocast, foreach=True),
        "adamw-online": OptimizerMethod(case, device, OPTIMIZERS["adamw"], autocast),
    }
    if record.cuda:
        methods["adamw-fused"] = TorchAdamW(case, device, autocast, fused=True)
    names = FILTERS if batch <= 8 or outputs == 2 else []
    names = names + ([] if outputs == 2 else ["filtune-top-1", "filtune-top-2"])  # two classes are one row anyway
    names += ["loko-plain-attention"] if outputs > 2 and record.cuda and batch == 1 else []
    skipped: dict[str, str] = {}
    for name in names + (NATURAL if natural else []):
        try:
            methods[name] = OptimizerMethod(case, device, OPTIMIZERS[name], autocast)
        except Exception as error:
            skipped[name] = f"{type(error).__name__}: {str(error)[:300]}"
    found = take_turns(methods, batches(case, outputs, batch, device), record)
    trained = sum(p.numel() for p in case.parameters() if p.requires_grad)
    return {"outputs": outputs, "batch": batch, "trained": trained, **found, "skipped": skipped}


def take_turns(methods: dict[str, Any], stream: Any, record: Record) -> dict[str, Any]:
    """Let the methods take turns, and return their figures; one that fails is left out."""
    failed: dict[str, str] = {}
    seconds = 0.5 if record.quick else 3.0 if record.smoke else 4.5
    warmup = 1 if record.quick or record.smoke else 4
    rounds = interleave(methods, stream, warmup, 60, min(seconds, max(record.left(), 0.0)), BLOCK, failed)
    return {"rounds": rounds, "methods": compare_methods(methods), "failed": failed}


def graphs(record: Record) -> None:
    """Record whole steps as CUDA graphs beside eager ones, and whether they compute the same."""
    if not record.cuda:
        record.put("graphs", {"skipped": "needs a CUDA device"})
        return
    names = ["MRPC/RoBERTa-base"] if record.smoke else ["MRPC/RoBERTa-base", "CIFAR10/ResNet18", "CIFAR10/ViT-B16"]
    for name in names:
        for autocast in (False, True) if not record.smoke else (False,):
            record.attempt(f"graphs {name} {'bf16' if autocast else 'float32'}", compare_graphs, name, autocast, record)
            record.clean()


def compare_graphs(name: str, autocast: bool, record: Record) -> dict[str, Any]:
    """Return the figures of eager steps and graphs on one pair."""
    pair, device = PAIRS[name], record.device
    torch.manual_seed(0)
    with device:
        case = pair.build().to(device)
    stream = batches(case, pair.outputs, 1, device)
    data = [no_mask(next(stream)) for _ in range(6)]
    rules: dict[str, Any] = {
        "adamw-capturable": partial(TorchAdamW, capturable=True),
        "loko": partial(OptimizerMethod, method=OPTIMIZERS["loko"]),
        "r-kalman": partial(OptimizerMethod, method=OPTIMIZERS["r-kalman"]),
        "filtune": partial(OptimizerMethod, method=OPTIMIZERS["filtune"]),
        "filtune-small": partial(OptimizerMethod, method=Method(partial(Filtune, rank=10, buffer_size=5))),
        "ring": partial(OptimizerMethod, method=OPTIMIZERS["ring"]),
        "adamw-online": partial(OptimizerMethod, method=OPTIMIZERS["adamw"]),
    }
    methods: dict[str, Any] = {
        "floor": Floor(case, device, 1, autocast),
        "adamw": TorchAdamW(case, device, autocast, foreach=True),
    }
    failed, agree = {}, {}
    for rule, make in rules.items():
        try:
            eager, graphed = (make(case, device, autocast=autocast) for _ in range(2))
            graphed = Graphed(graphed)
            if rule == "adamw-capturable":  # it records its graph after four steps
                graphed.work(data[0])
                for _ in range(5):
                    eager.work(data[0])
            for batch in data:
                eager.work(batch)
                graphed.work(batch)
            agree[rule] = largest_difference(eager, graphed.method)
            methods |= {rule: eager, f"{rule}-graph": graphed}
        except Exception as error:
            failed[rule] = f"{type(error).__name__}: {str(error)[:600]}"
            torch.cuda.synchronize()
    found = take_turns(methods, (no_mask(batch) for batch in stream), record)
    return {**found, "capture_failed": failed, "largest_difference": agree}


def largest_difference(one: TimedMethod, two: TimedMethod) -> dict[str, float]:
    """Return the largest difference of the trained parameters of two methods, and the largest parameter."""
    pairs = list(zip(one.trained, two.trained, strict=True))
    return {
        "difference": max(float((a - b).detach().abs().max()) for a, b in pairs),
        "largest": max(float(a.detach().abs().max()) for a, _ in pairs),
    }


def no_mask(batch: Any) -> Any:
    """Return a batch of texts without padding without its mask, which transformers would read on the host."""
    inputs, target = batch
    if isinstance(inputs, dict):
        inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
    return inputs, target


def compiled(record: Record) -> None:
    """Record steps with a compiled model beside eager ones."""
    names = ["tiny"] if record.quick else ["MRPC/RoBERTa-base", "CIFAR10/ResNet18"]
    for name in names:
        if record.quick or record.left() > 25:
            record.attempt(f"compiled {name} bf16", compare_compiled, name, record)
            record.clean()


def compare_compiled(name: str, record: Record) -> dict[str, Any]:
    """Return the figures of AdamW, LoKO and Filtune on a compiled model and on the same one as it is."""
    device = record.device
    torch.manual_seed(0)
    outputs = 3 if record.quick else PAIRS[name].outputs
    with device:
        case: Case = (small_transformer(3) if record.quick else PAIRS[name].build()).to(device).eval()
    stream = (no_mask(batch) for batch in batches(case, outputs, 1, device)) if not record.quick else None
    stream = stream or batches(case, outputs, 1, device)
    begun = time.monotonic()
    torch._functorch.config.donated_buffer = False  # the first vectorised pass keeps the graph, to fall back on a loop
    faster = Case(torch.compile(case.model, dynamic=False), case.sample)
    methods: dict[str, Any] = {"floor": Floor(case, device, 1, True)}
    for prefix, model in (("", case), ("compiled ", faster)):
        methods[f"{prefix}adamw"] = TorchAdamW(model, device, True, True, foreach=True)
        for rule in ("loko", "filtune-top-1"):
            methods[f"{prefix}{rule}"] = OptimizerMethod(model, device, OPTIMIZERS[rule], True, True)
    found = take_turns(methods, stream, record)
    return {**found, "seconds_in_all": time.monotonic() - begun}
