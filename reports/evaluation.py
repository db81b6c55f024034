r"""The filter's posterior against the softmax: calibration, selective prediction, out-of-distribution detection.

Evaluates runs of ``filtune reproduce``: those of the study's method, and of its tuned baseline, by

* the softmax of either,
* the method's posterior predictive probabilities, with the covariance tempered as the stream has shown to predict best
  ("posterior predictive"), and as it is ("untempered"), and
* the variance of its outputs, mean over the pairs of classes ("variance"), for out-of-distribution detection.

Out of distribution are, for images, the same ones rotated by 90 degrees and uniform noise; for texts, the
sentences of another task.

    filtune report runs/reproduce --study win_stream --evaluate mnist sst2 --posterior docs/results/win_uncertainty.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from filtune.datamodules import StreamDataModule, TextDataModule
from filtune.datamodules.samples import collate
from filtune.experiments.archive import Archive
from filtune.experiments.composition import compose, lookup
from filtune.experiments.tables import load_table
from filtune.experiments.terminal import terminal_table
from filtune.exports.prediction import Prediction, Predictor
from filtune.exports.restore import Restored, restore
from filtune.lightning_modules.atomic import atomic_write
from filtune.lightning_modules.callbacks.summary import commit, device_name, versions
from filtune.lightning_modules.scores import ProbabilityScores
from filtune.optimizers.likelihoods.categorical import difference_variance, predictive_probabilities
from rich.console import Console
from rich.progress import track
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.transforms.v2.functional import rotate

from .seed_runs import SeedRuns
from .statistics import summarise
from .study import compare_streams

Sample = dict[str, Any]

COVERAGE = 0.8
"""Fraction of the samples, the most confident, that is answered in selective prediction."""

OTHER_TEXTS = "cola"
"""Name of the configuration of the task whose sentences are of another kind."""


def other_kinds(samples: list[Sample], run: Restored, seed: int) -> dict[str, list[Sample]]:
    """Return samples of another kind than these, by name."""
    if "text" in samples[0]:
        init = compose([f"task/{OTHER_TEXTS}"])["data"]["init_args"]
        data = TextDataModule(**{**init, "source": lookup(run.config, "data.source"), "split": init["val_split"]})
        data.setup()
        return {f"sentences of {OTHER_TEXTS}": [data.part.samples[int(row)] for row in data.part.rows[: len(samples)]]}
    generator = torch.Generator().manual_seed(seed)
    first = samples[0]["image"]
    top = 256 if first.dtype == torch.uint8 else float(max(sample["image"].max() for sample in samples))
    noise = [(torch.rand(first.shape, generator=generator) * top).to(first.dtype) for _ in samples]
    return {
        "rotated by 90 degrees": [{**sample, "image": rotate(sample["image"], 90.0)} for sample in samples],
        "uniform noise": [{**sample, "image": image} for sample, image in zip(samples, noise, strict=True)],
    }


def calibration(p: Tensor, classes: Tensor) -> dict[str, float]:
    """Return accuracy, log loss, Brier score and calibration error of probabilities.

    Args:
        p: (N, m).
        classes: (N,).
    """
    scores = ProbabilityScores()
    scores.update(p, classes)
    found = {name: float(value) for name, value in scores.compute("").items()}
    return {"accuracy": 100 * float((p.argmax(1) == classes).double().mean()), **found}


def selective(confidence: Tensor, correct: Tensor) -> dict[str, float]:
    r"""Return the figures of selective prediction, which abstains on the least confident samples.

    ``aurc``, in 0..100, is the error among the k most confident, averaged over k = 1..N (Geifman & El-Yaniv 2017);
    less is better. ``accuracy_at_80``, in 0..100, is that of the most confident 80 %. Ties are broken by the order of
    the samples.

    Args:
        confidence: (N,).
        correct: (N,), bool.
    """
    wrong = (~correct[confidence.argsort(descending=True, stable=True)]).double()
    risk = wrong.cumsum(0) / torch.arange(1, len(wrong) + 1, dtype=torch.float64)
    answered = max(1, round(COVERAGE * len(wrong)))
    return {"aurc": 100 * float(risk.mean()), "accuracy_at_80": 100 * float(1 - risk[answered - 1])}


def detection(inside: Tensor, outside: Tensor) -> float:
    """Return the area under the ROC curve, in 0..100, of detecting inputs of another kind by a larger number.

    Args:
        inside: The number of samples of the training distribution, (N,).
        outside: That of the others, (N',).
    """
    truth = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return 100 * float(roc_auc_score(truth.numpy(), torch.cat([inside, outside]).double().numpy()))


def predict_samples(predictor: Predictor, samples: list[Sample]) -> Prediction:
    """Return the outputs of samples, and their covariance where there is one."""
    size = predictor.batch_size(64)
    return Prediction.join(predictor(collate(samples[k : k + size])) for k in range(0, len(samples), size))


def views(prediction: Prediction) -> dict[str, Tensor]:
    """Return the probabilities (N, m) by how they are computed."""
    z, C = prediction.outputs, prediction.covariance
    found, averaged = {"softmax": z.softmax(1)}, prediction.predictive
    if C is None or averaged is None:
        return found
    return {**found, "posterior predictive": averaged, "untempered": predictive_probabilities(z, C)}


def evaluate(run: Restored, samples: list[Sample], seed: int) -> dict[str, dict[str, float]]:
    """Return all figures of a run, by view."""
    predictor = Predictor(run)
    inside = predict_samples(predictor, samples)
    classes = torch.stack([sample["label"] for sample in samples])
    found: dict[str, dict[str, float]] = {}
    for name, p in views(inside).items():
        confidence, predicted = p.max(1)
        found[name] = {**calibration(p, classes), **selective(confidence, predicted == classes)}
    if inside.covariance is not None:
        found["variance"] = {}
    for kind, others in other_kinds(samples, run, seed).items():
        outside = predict_samples(predictor, others)
        for name, p in views(inside).items():
            found[name][kind] = detection(-p.amax(1), -views(outside)[name].amax(1))
        if inside.covariance is not None and outside.covariance is not None:
            spreads = (difference_variance(C).mean((1, 2)) for C in (inside.covariance, outside.covariance))
            found["variance"][kind] = detection(*spreads)
    return found


def runs_of(method: SeedRuns, roots: Sequence[Path]) -> Iterator[tuple[int, Restored]]:
    """Yield the runs of a configuration, by seed.

    Raises:
        ValueError: If one's checkpoint is not there.
    """
    for seed, record in method.finished.items():
        found = [path for root in roots for path in sorted((root / "runs" / record["key"]).rglob("last.ckpt"))]
        if not found:
            places = ", ".join(map(str, roots))
            raise ValueError(
                f"--evaluate: the run of {method.name} with seed {seed} has left no checkpoint in {places}"
            )
        yield seed, restore(found[-1])


def validation_samples(run: Restored, samples: int) -> list[Sample]:
    """Return validation samples of the run's own data; it is an error if there are none."""
    data: StreamDataModule = run.data()
    data.setup()
    part = data.validation
    if part is None:
        raise ValueError(f"{data.label}: there are no validation samples")
    return [part.samples[int(row)] for row in part.rows[:samples]]


def seed_values(values: list[float]) -> dict[str, Any]:
    """Return mean, standard deviation (n - 1) and the values, one per seed."""
    found = summarise(values)
    return {"mean": found and found.mean, "std": found and found.deviation, "seeds": values}


def print_views(title: str, found: dict[str, dict[str, Any]], console: Console) -> None:
    """Print mean and standard deviation of every metric by view."""
    rows = []
    for name in dict.fromkeys(metric for metrics in found.values() for metric in metrics):
        shown = [metrics.get(name) for metrics in found.values()]
        rows.append((name, *(f"{each['mean']:.3f} ± {each['std'] or 0:.3f}" if each else "" for each in shown)))
    console.print(terminal_table(title, ("", *found), rows))


def evaluate_posterior(
    study: str,
    roots: Sequence[Path],
    columns: Sequence[str],
    output: Path,
    baseline: str,
    samples: int,
    console: Console,
) -> None:
    """Evaluate the runs of a study's method and of one baseline, print the figures and write them as JSON.

    Args:
        study: A study with a comparison, by name or path.
        roots: Folders of ``filtune reproduce`` with the runs' checkpoints.
        columns: Names of the streams.
        output: JSON to write, which ``--posterior`` reads.
        baseline: The baseline beside the method, as the study names it.
        samples: Most validation samples.
        console: Where the figures go.

    Raises:
        ValueError: If a stream has no runs of both, or a run has left no checkpoint.
    """
    table = load_table(study)
    streams = {stream.name: stream for stream in compare_streams(table, Archive(roots, [table]))}
    for column in columns:
        if column not in streams or baseline not in streams[column].baselines:
            raise ValueError(f"--evaluate {column}: no runs of both the method and {baseline} on this stream")
    results: dict[str, Any] = {}
    for column in columns:
        methods = {table.raw["comparison"]["method"]: streams[column].method}
        methods[baseline] = streams[column].baselines[baseline]
        gathered: dict[str, dict[str, list[float]]] = {}
        for name, method in methods.items():
            runs = list(runs_of(method, roots))
            for seed, run in track(runs, f"{column}, {name}", console=console, transient=True):
                for view, figures in evaluate(run, validation_samples(run, samples), seed).items():
                    for figure, number in figures.items():
                        gathered.setdefault(f"{name}, {view}", {}).setdefault(figure, []).append(number)
        results[column] = {view: {f: seed_values(v) for f, v in figures.items()} for view, figures in gathered.items()}
        print_views(streams[column].title, results[column], console)
    environment = {
        "date": date.today().isoformat(),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as file:
        file.write(json.dumps({"study": table.name, "columns": results, "environment": environment}, indent=1) + "\n")
