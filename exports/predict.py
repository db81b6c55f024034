"""``filtune predict``: predictions of a run's model for new texts or images, with their uncertainty."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from filtune.datamodules.source import TextOptions
from filtune.experiments.escaping import plain
from filtune.lightning_modules.atomic import atomic_path
from filtune.optimizers.likelihoods import Likelihood
from tqdm import tqdm

from .formats import FORMATS
from .inputs import Rows, file_stem, texts
from .prediction import Predictor, columns
from .restore import Restored, restore
from .spreadsheet import note_formulas
from .tables import check_names, write_table


def main(options: argparse.Namespace) -> None:
    """Predict a file, a folder, or one text, by the options of ``filtune predict``.

    Raises:
        ValueError: If an option is invalid, or the input does not suit the run.
    """
    if options.batch_size < 1:
        raise ValueError(f"--batch_size: must be at least 1, got {options.batch_size}")
    output = None if options.input is None else _output(options.output, options.input)
    run = restore(options.ckpt_path, options.config, options.own_class)
    predictor = Predictor(run, not options.no_uncertainty)
    if not predictor.has_covariance:
        print(f"{run.optimizer_class.__name__} keeps no covariance of the parameters: no columns of uncertainty")
    if options.text is not None:
        _print_one(run, predictor, options.text)
        return
    chosen = options.text_columns if run.task.modality == "text" else options.image_column and [options.image_column]
    texts_as = TextOptions(options.encoding, options.quoting)
    rows = Rows(run, options.input, options.split, chosen, options.on_bad_row, texts_as)
    print(plain(str(rows.report)), flush=True)
    likelihood, predicted = predict(predictor, rows, options.batch_size)
    check_names(rows, predicted)
    with atomic_path(output) as temporary:
        write_table(rows, predicted, temporary, output.suffix.lower(), options.escape_formulas)
    formulas = note_formulas(rows.columns(), predicted, output.suffix.lower(), options.escape_formulas)
    print(f"{output}: {plain(likelihood.summary(run.coding))}{formulas}")


def predict(predictor: Predictor, rows: Rows, batch_size: int) -> tuple[Likelihood, dict[str, list[Any]]]:
    """Return the likelihood of all rows, in their order, and the columns of the table.

    Of many classes the covariances, (B, m, m), would not fit into memory for all rows.

    Args:
        predictor: The model.
        rows: The rows.
        batch_size: Most samples at once.
    """
    size, kept = predictor.batch_size(batch_size), rows.kept
    starts = range(0, len(kept), size)
    bar = tqdm(starts, "predicting", unit="batch", leave=False, disable=None if len(starts) > 20 else True)
    outputs, found = [], defaultdict[str, list[Any]](list)
    for start in bar:
        prediction = predictor(rows.batch(kept[start : start + size]))
        outputs.append(prediction.outputs)
        for name, values in columns(prediction, predictor.run).items():
            found[name] += values
    return prediction.likelihood.at(torch.cat(outputs)), dict(found)


def _print_one(run: Restored, predictor: Predictor, values: list[str]) -> None:
    if run.task.modality != "text":
        raise ValueError(f"--text: {run.task.name} has {run.task.modality}s; name a file or folder by --input")
    for name, (value,) in columns(predictor(texts(values)), run).items():
        print(plain(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"))


def _output(output: Path | None, source: str) -> Path:
    """Return the path of the output.

    Raises:
        ValueError: If the format is unknown, or the input would be overwritten.
    """
    stem = file_stem(source)
    output = output or stem.with_name(f"{stem.name}.predictions.csv")
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"--output: {output} is of an unknown type; a file must end in one of {', '.join(FORMATS)}")
    if output.exists() and Path(source).exists() and output.samefile(source):
        raise ValueError(f"--output: {output} is the input; name another file")
    return output
