"""``filtune export`` and ``filtune predict``: options are parsed before torch is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from filtune.lightning_modules.trust import SWITCH

from .formats import EXPORTS, FORMATS

EXPORT = """\
The folder's README.md is a model card that says how to load it.

  filtune export --ckpt_path RUN --to adapter/
  filtune export --ckpt_path RUN --to model/ --merge
  filtune export --ckpt_path RUN --to graph/ --format onnx
  filtune export --ckpt_path RUN --push USER/MODEL --private
"""

PREDICT = """\
The output has the columns of the input as they stand, prediction, and probability_CLASS of each class. After training
with a filter (LoKO, EKF, R-Kalman, Filtune) its covariance of the parameters gives the uncertainty of the outputs:
logit_std is the standard deviation of the difference of two logits, or of each of several (logit_std_CLASS), and
probability_bayes_CLASS the probability averaged over it. A regression has std, and predictive_std of a new value;
counts have log_rate_std. A .csv, .tsv or .jsonl that is written in the format of the input keeps its records byte for
byte.

  filtune predict --ckpt_path RUN --input new.csv
  filtune predict --ckpt_path RUN --text "a sentence"
"""


def export_parser(needs_folder: bool = True) -> argparse.ArgumentParser:
    """Return the parser of ``filtune export``.

    Args:
        needs_folder: Whether ``--to`` must be given, as it must unless there is ``--push``.
    """
    parser = _parser("export", "Write a run's model for PEFT, transformers, timm or ONNX, and to the hub.", EXPORT)
    parser.add_argument(
        "--to", type=Path, required=needs_folder, help="folder to write, new or empty; may be left out with --push"
    )
    parser.add_argument("--merge", action="store_true", help="the whole model, the adapter merged into its weights")
    parser.add_argument(
        "--format",
        choices=EXPORTS,
        help="adapter (default where the run has one); merged, the same as --merge; the merged model as a graph: onnx "
        "(needs filtune[onnx]) or torch_export",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export, in the folder and on the hub"
    )
    parser.add_argument(
        "--push", metavar="REPO", help="repository of the hub, USER/MODEL, to write it to; needs a token (HF_TOKEN)"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is private, and an old one must be")
    parser.add_argument(
        "--base_model", metavar="HUB_ID", help="hub id of the base model, where the run names a folder of it"
    )
    parser.add_argument(
        "--license", metavar="ID", help="licence for the card, such as apache-2.0; default what the base model states"
    )
    return parser


def predict_parser() -> argparse.ArgumentParser:
    """Return the parser of ``filtune predict``."""
    parser = _parser("predict", "Predict new texts or images with a run's model, with its uncertainty.", PREDICT)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--input", help="file (.csv, .tsv, .json, .jsonl, .ndjson, .parquet), folder or hub id; needs no labels"
    )
    what.add_argument("--text", nargs="+", help="one text, or the two of a pair, to predict and print")
    parser.add_argument("--output", type=Path, help=f"file ({', '.join(FORMATS)}); default INPUT.predictions.csv")
    parser.add_argument("--split", help="the split, where the input has several")
    parser.add_argument("--text_columns", nargs="+", help="column of the text, or both of a pair; default the run's")
    parser.add_argument("--image_column", help="column of the images; default the run's")
    parser.add_argument("--batch_size", type=int, default=32, help="samples at once (default 32)")
    parser.add_argument("--on_bad_row", choices=("error", "skip"), default="error", help="what to do about bad rows")
    parser.add_argument(
        "--escape_formulas",
        action="store_true",
        help="put an apostrophe before cells that a spreadsheet would run as formulas (.csv, .tsv); without it they "
        "are as in the input, and their number is printed",
    )
    parser.add_argument("--encoding", help="encoding of a text file without a byte order mark (default UTF-8)")
    quoting = ("auto", "doubled", "backslash", "none")
    parser.add_argument("--quoting", choices=quoting, default="auto", help="quoting of a .csv or .tsv (default auto)")
    parser.add_argument("--no_uncertainty", action="store_true", help="leave the covariance out, which is faster")
    return parser


def _parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"filtune {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ckpt_path", type=Path, required=True, help="a run's folder, for its last checkpoint, or a checkpoint"
    )
    parser.add_argument("--config", type=Path, help="the run's configuration, if it is not RUN/config.yaml")
    parser.add_argument(
        SWITCH,
        action="append",
        default=[],
        metavar="PATH",
        help="class path of a class of your own that the run was trained with, such as my_module.MyBackbone; may be "
        "repeated. Nothing else than filtune's own classes is imported for a run",
    )
    return parser


def run_export(args: list[str]) -> None:
    """Run ``filtune export``."""
    needs_folder = not any(arg.partition("=")[0] == "--push" for arg in args)
    options = export_parser(needs_folder).parse_args(args)
    from filtune.lightning_modules.launch import quiet

    from . import export

    quiet()
    export.main(options)


def run_predict(args: list[str]) -> None:
    """Run ``filtune predict``."""
    options = predict_parser().parse_args(args)
    from filtune.lightning_modules.launch import quiet

    from . import predict

    quiet()
    predict.main(options)
