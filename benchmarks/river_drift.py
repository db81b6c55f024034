"""Prequential accuracy on River's drifting streams, of filtune's optimizers on a small network and of River's methods.

``python -m benchmarks.river_drift`` writes the tables of docs/river.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from filtune.live.adapters.river import RiverClassifier
from filtune.optimizers import AdamW, Filtune, LoKO
from river import drift, forest, linear_model, preprocessing, tree
from river.datasets import synth

Stream = Iterator[tuple[dict[Any, float], Any]]


def switching(first: Any, second: Any, seed: int, samples: int) -> Stream:
    """Return a stream that goes from one generator to the other around the middle, within about 100 samples."""
    return iter(synth.ConceptDriftStream(first, second, seed=seed, position=samples // 2, width=100))


STREAMS: dict[str, Callable[[int, int], Stream]] = {
    "SEA, function 0 to 2, abrupt": lambda seed, n: switching(
        synth.SEA(variant=0, seed=seed, noise=0.1), synth.SEA(variant=2, seed=seed + 100, noise=0.1), seed, n
    ),
    "Agrawal, function 0 to 4, abrupt": lambda seed, n: switching(
        synth.Agrawal(classification_function=0, seed=seed),
        synth.Agrawal(classification_function=4, seed=seed + 100),
        seed,
        n,
    ),
    "Rotating hyperplane, gradual": lambda seed, n: iter(
        synth.Hyperplane(seed=seed, n_features=10, n_drift_features=5, mag_change=0.01)
    ),
    "Random RBF, moving centroids": lambda seed, n: iter(
        synth.RandomRBFDrift(
            seed_model=seed, seed_sample=seed, n_classes=4, n_features=4, n_centroids=20, change_speed=0.001
        )
    ),
}


def adamw(seed: int, **options: Any) -> RiverClassifier:
    """Return the network under AdamW."""
    return RiverClassifier(optimizer=partial(AdamW, lr=1e-2), seed=seed, **options)


METHODS: dict[str, Callable[[int], Any]] = {
    "MLP, Filtune": lambda seed: RiverClassifier(optimizer=Filtune, seed=seed),
    "MLP, LoKO": lambda seed: RiverClassifier(optimizer=LoKO, seed=seed),
    "MLP, AdamW": adamw,
    "MLP, AdamW, restart by ADWIN": lambda seed: adamw(seed, drift_detector=drift.ADWIN(), on_drift="restart"),
    "Logistic regression": lambda seed: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "Softmax regression": lambda seed: preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
    "Hoeffding adaptive tree": lambda seed: tree.HoeffdingAdaptiveTreeClassifier(seed=seed),
    "Adaptive random forest": lambda seed: forest.ARFClassifier(seed=seed),
}


def numbers_of(x: dict[Any, Any]) -> dict[Any, float]:
    """Return a sample as numbers, which they all are but for some of numpy's types."""
    return {name: float(value) for name, value in x.items()}


def run(method: str, stream: str, seed: int, samples: int) -> tuple[float, float]:
    """Return the prequential accuracy in percent, and processor time per sample in ms."""
    model, right, start = METHODS[method](seed), 0, time.process_time()
    for x, y in itertools.islice(STREAMS[stream](seed, samples), samples):
        x = numbers_of(x)
        right += model.predict_one(x) == y
        model.learn_one(x, y)
    return 100 * right / samples, 1e3 * (time.process_time() - start) / samples


def main() -> None:
    """Print a table row by row: mean and range of the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| method | {' | '.join(STREAMS)} | ms a sample |\n|---|{'---|' * len(STREAMS)}---|")
    for method in METHODS:
        cells, times = [], []
        for stream in STREAMS:
            if method == "Logistic regression" and stream.startswith("Random RBF"):  # of four classes
                cells.append("")
                continue
            found = [run(method, stream, seed, options.samples) for seed in range(options.seeds)]
            scores = [score for score, _ in found]
            times += [each for _, each in found]
            cells.append(f"{statistics.mean(scores):.1f} ± {(max(scores) - min(scores)) / 2:.1f}")
        print(f"| {method} | {' | '.join(cells)} | {math.fsum(times) / len(times):.2f} |", flush=True)


if __name__ == "__main__":
    main()
