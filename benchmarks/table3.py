r"""The twelve model-task pairs of LoKO's Table 3: a step of the filter against a step of AdamW, batch 1.

Weights are random, for they do not matter to the time; LoRA and head are such that the trained parameters are those of
Table 6 (ViT-L with its 100 classes has 495,716). Images have 224 pixels, texts about the mean length of their task.
The paper's own ratios stand beside; it names no hardware for them.

    python -m benchmarks.table3 --device cuda --output docs/results/table3_cuda.json
    python -m benchmarks.table3 --rounds 3 --pairs MRPC/RoBERTa-base CIFAR10/ResNet18

``--graphs`` adds LoKO's step as one CUDA graph. It has not been run: no CUDA device was available.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filtune.experiments.terminal import terminal_table
from filtune.optimizers import LoKO
from rich.console import Console
from torch import Tensor
from torch.nn.attention import SDPBackend

from benchmarks.methods import Batch, OptimizerMethod, map_tensors
from benchmarks.models import Case, pretrained_image, roberta
from benchmarks.timing import batches, build_methods, compare_methods, describe_environment, interleave

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


class Pair(NamedTuple):
    """A model on a task.

    Attributes:
        build: Makes the model.
        outputs: m.
        parameters: How many are trained.
        paper: The paper's seconds a step, of LoKO and of AdamW.
    """

    build: Callable[[], Case]
    outputs: int
    parameters: int
    paper: tuple[float, float]


def _image(name: str, targets: list[str], head: str, outputs: int, n: int, paper: tuple[float, float]) -> Pair:
    return Pair(lambda: pretrained_image(name, outputs, None, targets, head), outputs, n, paper)


def _text(length: int, shape: dict[str, int], n: int, paper: tuple[float, float]) -> Pair:
    return Pair(lambda: roberta(2, None, length, **shape), 2, n, paper)


PAIRS = {
    "MNIST/DenseNet-121": _image("densenet121", ["conv1"], "classifier", 10, 166_026, (0.23, 0.025)),
    "CIFAR10/ResNet18": _image("resnet18", ["conv"], "fc", 10, 148_822, (0.11, 0.007)),
    "CIFAR10/ViT-B16": _image("vit_base_patch16_224", ["query"], "head", 10, 155_146, (0.14, 0.013)),
    "CIFAR100/ResNet50": _image("resnet50", ["conv"], "fc", 100, 522_672, (0.67, 0.017)),
    "CIFAR100/ViT-B16": _image("vit_base_patch16_224", ["query"], "head", 100, 224_356, (0.53, 0.014)),
    "ImageNet100/ViT-L16": _image("vit_large_patch16_224", ["query"], "head", 100, 495_716, (1.4, 0.03)),
    "SST-2/RoBERTa-base": _text(25, {}, 665_858, (0.139, 0.022)),
    "SST-2/RoBERTa-large": _text(25, LARGE, 1_248_258, (0.17, 0.034)),
    "CoLA/RoBERTa-base": _text(11, {}, 665_858, (0.137, 0.02)),
    "CoLA/RoBERTa-large": _text(11, LARGE, 1_248_258, (0.169, 0.035)),
    "MRPC/RoBERTa-base": _text(53, {}, 665_858, (0.139, 0.02)),
    "MRPC/RoBERTa-large": _text(53, LARGE, 1_248_258, (0.169, 0.036)),
}


class GraphedOptimizer(OptimizerMethod):
    """An optimizer whose whole step is a CUDA graph: inputs are copied to where it reads them, and it is replayed."""

    graph: torch.cuda.CUDAGraph | None = None

    def work(self, batch: Batch) -> Any:
        """Record at first, replay from then on."""
        if self.graph is None:
            self.held = map_tensors(batch[0], torch.clone), batch[1].clone()
            self.graph = self._record(self.held)
        for held, new in zip(_tensors(self.held), _tensors(batch), strict=True):
            held.copy_(new)
        self.graph.replay()

    def _record(self, batch: Batch) -> torch.cuda.CUDAGraph:
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                super().work(batch)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            super().work(batch)
        return graph

    def measure_algebra(self, batch: Batch) -> None:
        """Measure nothing, because inside a graph the algebra cannot be timed separately."""


def _tensors(batch: Batch) -> list[Tensor]:
    inputs, target = batch
    return [*(inputs.values() if isinstance(inputs, dict) else [inputs]), target]


def measure_pair(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure AdamW, LoKO and the lower bounds on one pair."""
    pair, device = PAIRS[name], torch.device(options.device)
    torch.manual_seed(0)
    with device:
        case = pair.build()
    methods = build_methods(case, ["adamw", "loko"], pair.outputs, device)
    if options.graphs:
        methods["loko-graph"] = GraphedOptimizer(case, device, LoKO)
    for method in (methods[other] for other in methods if other != "adamw"):
        method.attention = SDPBackend.MATH if options.plain_attention else None
    rounds = interleave(
        methods, batches(case, pair.outputs, 1, device), options.warmup, options.rounds, options.seconds
    )
    n = sum(p.numel() for p in case.parameters() if p.requires_grad)
    return {
        "pair": name,
        "outputs": pair.outputs,
        "trainable_parameters": n,
        "rounds": rounds,
        "paper_ratio": pair.paper[0] / pair.paper[1],
        "optimizers": compare_methods(methods),
    }


def print_pairs(pairs: list[dict[str, Any]]) -> None:
    """Print the ratios."""
    names = [name for name in pairs[0]["optimizers"] if name != "adamw"]
    heads = ("pair", "m", "n", "AdamW, ms", *(f"{name} / AdamW" for name in names), "LoKO / floor", "paper")
    rows = []
    for pair in pairs:
        found = pair["optimizers"]
        rows.append(
            (
                pair["pair"],
                str(pair["outputs"]),
                f"{pair['trainable_parameters']:,}",
                f"{1000 * found['adamw']['median_seconds']:.1f}",
                *(f"{found[name]['ratio_to_adamw']:.2f}" for name in names),
                f"{found['loko']['ratio_to_floor']:.2f}",
                f"{pair['paper_ratio']:.1f}",
            )
        )
    title = "a step of LoKO against a step of AdamW, batch 1"
    Console(width=150).print(terminal_table(title, heads, rows))


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="for a pair, but at least three rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graphs", action="store_true", help="LoKO's step as a CUDA graph, too")
    parser.add_argument(
        "--plain-attention",
        action="store_true",
        help="all but AdamW take attention apart into operations that can be vectorised over the rows",
    )
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args(args)
    if options.graphs and torch.device(options.device).type != "cuda":
        parser.error("--graphs: there are graphs on a CUDA device alone; take --device cuda")
    torch.set_num_threads(options.threads)
    pairs = []
    for name in options.pairs:
        print(name, flush=True)
        pairs.append(measure_pair(name, options))
    print_pairs(pairs)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"pairs": pairs, "environment": describe_environment(torch.device(options.device), options.threads)}
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
