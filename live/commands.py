"""``filtune learn``: options are parsed before torch is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from filtune.lightning_modules.trust import SWITCH

from .watching.options import add_options

LEARN = """\
A sample is a JSON object with its columns, its label if it is known, and an id. A label that comes later is a sample of
its own, with the id and the label. There is an answer for each, with the prediction of before the label is learned
from. The state is saved from time to time, at the end, and when a signal stops the command; the same command goes on
from it. The input is a file of JSON lines, a Redis stream, or a data set of the hub:

  filtune learn --config task/own_text --config backbone/minilm --config filtune --classes ham spam \\
      --state spam.ckpt --input messages.jsonl --follow --output predictions.jsonl
  tail -f messages.jsonl | filtune learn --ckpt_path RUN --state spam.ckpt
  filtune learn --ckpt_path RUN --state spam.ckpt --input 'redis://localhost:6379/0?stream=messages' --follow \\
      --output 'redis://localhost:6379/0?stream=predictions'
  filtune learn --ckpt_path RUN --state spam.ckpt --input 'hub:nyu-mll/glue?config=sst2&split=train'
"""


def learn_parser() -> argparse.ArgumentParser:
    """Return the parser of ``filtune learn``."""
    parser = argparse.ArgumentParser(
        prog="filtune learn",
        description="Learn from a stream of samples that has no end, and predict each before it is learned from.",
        epilog=LEARN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, required=True, help="checkpoint that is written, and gone on from")
    parser.add_argument("--ckpt_path", type=Path, help="a run's folder or a checkpoint to begin with")
    parser.add_argument("--config", action="append", help="configuration to begin with, by name or path; repeatable")
    parser.add_argument(
        "--input", default="-", help="file of JSON lines, redis://... or hub:...; - (default) is standard input"
    )
    parser.add_argument("--follow", action="store_true", help="wait for what is appended to the file or the stream")
    parser.add_argument(
        "--output", default="-", help="file of JSON lines, or redis://...; - (default) is standard output"
    )
    parser.add_argument("--save_interval", type=int, default=200, help="samples between two saves (default 200)")
    parser.add_argument("--columns", nargs="+", help="column of the input, or both of a pair; default the model's")
    parser.add_argument("--label_column", default="label", help="column of the label (default label)")
    parser.add_argument("--id_column", default="id", help="column of the id (default id)")
    parser.add_argument("--classes", nargs="+", help="the classes, or the word open for those of the labels that come")
    parser.add_argument("--new_classes", choices=("refuse", "add"), help="what to do about a label that is no class")
    parser.add_argument("--max_pending", type=int, default=10_000, help="most samples that wait for a label")
    parser.add_argument("--unique_ids", type=int, metavar="N",
        help="each id names one sample: of the newest N, repetitions are not learned from, and a label may come before "
        "its sample; 0 ends it, and left out it stays as the state has it (of a new one 0)")  # fmt: skip
    parser.add_argument("--uncertainty", action="store_true", help="add what a filter knows of it; costs about a step")
    parser.add_argument("--skip_read", action="store_true", help="of standard input, skip as many lines as were read")
    add_options(parser)
    parser.add_argument("--stop_on_alarm", action="store_true", help="end with exit status 4 when an alarm comes on")
    parser.add_argument("--rollback", action="store_true", help="go back to the last kept state, and do nothing else")
    parser.add_argument("--against", action="append", metavar="OPTIMIZER",
        help="compare with another optimizer on the same stream: 'adamw', 'adamw lr=1e-3'; repeatable")  # fmt: skip
    parser.add_argument(SWITCH, action="append", default=[], metavar="PATH", help="class of your own in a checkpoint")
    return parser


def run_learn(args: list[str]) -> int:
    """Run ``filtune learn``, and return its exit status."""
    options = learn_parser().parse_args(args)
    from filtune.lightning_modules.launch import quiet

    from . import learn

    quiet()
    return learn.main(options)
