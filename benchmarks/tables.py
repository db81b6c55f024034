"""The tables of ``python -m benchmarks.cost``: at which models, sizes and batches which methods are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from benchmarks.methods import SKIP
from benchmarks.models import LAYERS, MODELS, Case, layered, lenet5, pretrained_image, roberta, transformer, vit_base
from benchmarks.timing import Point

STATES: dict[str, tuple[int, list[str]]] = {"1e4": (2, ["query"]), "1e5": (2, ["linear"]), "1e6": (24, ["linear"])}
"""LoRA's rank and layers, by the size of the state they make."""


def filter_points() -> Iterator[Point]:
    """Yield every filter over outputs, size of the state and batch, on a transformer of MiniLM's shape.

    Batches are those of the middle size with few outputs. A matrix or a block of P that does not fit is left out.
    """
    sizes = [(state, outputs, 1) for state in STATES for outputs in (2, 10, 100)]
    sizes += [("1e5", outputs, batch) for outputs in (2, 10) for batch in (2, 4, 8)]
    for state, outputs, batch in sizes:
        methods = ["adamw", "loko", "r-kalman", "low-rank"]
        methods += ["loko-logits"] if batch == 1 else []
        methods += ["filtune", "neuron"] if state != "1e6" else []
        methods += ["filtune-top-3"] if state != "1e6" and outputs > 2 else []  # two classes are a row anyway
        methods += ["tensor", "full"] if state == "1e4" and outputs < 100 else []
        rank, targets = STATES[state]
        build = partial(transformer, outputs, rank, targets)
        name, by_batch = f"n {state}, {outputs} outputs, batch {batch}", batch > 1
        panel = f"n {state}, {outputs} outputs, over batches" if by_batch else f"n {state}, batch 1, over outputs"
        yield Point(name, build, outputs, methods, batch, panel, batch if by_batch else outputs, ordinary=True)


def class_points() -> Iterator[Point]:
    """Yield Filtune, AdamW and SOAP over the number of classes, on the models that the studies fine-tune.

    Weights and labels are random, so that with many classes the label is hardly ever the most probable one: with
    ``top_k`` 1, the default beside frozen weights, nearly every step has two rows of the Jacobian, the most there can
    be. On a stream that is predicted well it has one. LeNet-5 is trained whole, with ``top_k`` 9: up to ten rows.
    """
    classes = dict.fromkeys(("minilm", "efficientnet-lite0"), (2, 10, 100, 1000))
    for model, counts in {"lenet5": (2, 10, 100), **classes, "vit-s16": (10, 100, 1000)}.items():
        for outputs in counts:
            build = partial(MODELS[model], outputs, None, 24)
            name = f"{model}, {outputs} classes"
            yield Point(name, build, outputs, ["adamw", "soap", "filtune"], panel=model, x=outputs, rows=1)


def natural_points() -> Iterator[Point]:
    """Yield the natural gradients and what they are compared with, in the batches that they are for."""
    methods = ["adamw", "ngd", "ring", "ring-eigen", "ring-sampled", "reng", "sam", "sophia"]
    texts = ["query", "value"]
    scenes: list[tuple[str, Callable[[], Case], int, int]] = [
        ("minilm, 2 classes, 32 x 24 tokens", partial(transformer, 2, 8, texts), 2, 32),
        ("minilm, 10 classes, 32 x 24 tokens", partial(transformer, 10, 8, texts), 10, 32),
        ("minilm, 2 classes, one text", partial(transformer, 2, 8, texts), 2, 1),
        ("lenet-5, 10 classes, 32 images", partial(lenet5, 10, None, 0), 10, 32),
        (
            "resnet-18, LoRA on all convolutions, 8 images",
            partial(pretrained_image, "resnet18", 10, None, ["conv"], "fc"),
            10,
            8,
        ),
        ("roberta-base, 2 classes, 32 x 128 tokens", partial(roberta, 2, None, 128), 2, 32),
        ("vit-b16, 100 classes, 64 images", partial(vit_base, 100, None, 0), 100, 64),
    ]
    for name, build, outputs, batch in scenes:
        yield Point(name, build, outputs, methods, batch, "natural gradients", rows=1)


def memory_points() -> Iterator[Point]:
    """Yield every covariance over the size of the state, with two classes and with ten, for its memory alone."""
    for state, (rank, targets) in STATES.items():
        for outputs in (2, 10):
            methods = ["adamw", "loko", "low-rank", "filtune", "filtune-bfloat16"]
            methods += ["neuron"] if state != "1e6" else []
            methods += ["tensor", "full"] if state == "1e4" else []
            build = partial(transformer, outputs, rank, targets)
            yield Point(f"n {state}, {outputs} outputs", build, outputs, methods, panel=f"{outputs} outputs", rows=1)


def jacobian_points() -> Iterator[Point]:
    """Yield the vectorised Jacobian and a loop of single passes, for every kind of layer and several batches."""
    for kind in LAYERS:
        for batch in (1, 4, 16):
            methods = ["adamw", "loko", "loko-loop"]
            yield Point(f"{kind}, batch {batch}", partial(layered, kind), 4, methods, batch, kind, batch)


def size_points() -> Iterator[Point]:
    """Yield the low-rank filters over the number of trained parameters, on RoBERTa's base shape, one text at a time."""
    for rank in (1, 11, 48):
        build = partial(roberta, 2, None, 24, rank=rank, targets=("query", "value"))
        methods = ["adamw", "loko", "filtune", "low-rank"]
        yield Point(
            f"roberta-base, rank {rank}", build, 2, methods, panel="roberta-base", x=592_130 + 36_864 * rank, rows=1
        )


class Pair(NamedTuple):
    """A model on a task of LoKO's Table 3.

    Attributes:
        build: Makes the model.
        outputs: m.
        parameters: How many are trained.
        published: The paper's seconds a step, of LoKO and of AdamW.
    """

    build: Callable[[], Case]
    outputs: int
    parameters: int
    published: tuple[float, float]


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def _image(name: str, targets: list[str], head: str, outputs: int, n: int, published: tuple[float, float]) -> Pair:
    return Pair(partial(pretrained_image, name, outputs, None, targets, head), outputs, n, published)


def _text(length: int, shape: dict[str, int], n: int, published: tuple[float, float]) -> Pair:
    return Pair(partial(roberta, 2, None, length, **shape), 2, n, published)


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
"""Weights are random, for they do not matter to the time; LoRA and head are such that the trained parameters are those
of Table 6 (ViT-L with its 100 classes has 495,716). Images have 224 pixels, texts about the mean length of their task.
The paper names no hardware for its times."""


def table3_points() -> Iterator[Point]:
    """Yield the twelve model-task pairs of LoKO's Table 3, batch 1."""
    for name, pair in PAIRS.items():
        ratio = pair.published[0] / pair.published[1]
        yield Point(name, pair.build, pair.outputs, ["adamw", "loko"], panel="LoKO, Table 3", published=ratio)


class CostTable(NamedTuple):
    """A table of points.

    Attributes:
        points: Yields them.
        default: Those that are measured unless others are named: a pattern of their names.
        rounds: Most rounds of a point.
        seconds: Seconds after which a point ends.
        figure: What is plotted of a method.
    """

    points: Callable[[], Iterator[Point]]
    default: tuple[str, ...] = ("*",)
    rounds: int = 200
    seconds: float = 12.0
    figure: str = "ratio_to_adamw"


TABLES: dict[str, CostTable] = {
    "filters": CostTable(filter_points, rounds=1000),
    "classes": CostTable(class_points),
    "sizes": CostTable(size_points, seconds=30.0),
    "memory": CostTable(memory_points, rounds=3, seconds=0.0, figure="memory_ratio_to_adamw"),
    "jacobian": CostTable(jacobian_points, seconds=6.0),
    "natural": CostTable(natural_points, ("minilm*", "lenet-5*", "resnet-18*"), rounds=8 * SKIP, seconds=240.0),
    "table3": CostTable(table3_points, rounds=50, seconds=60.0),
}
