"""``filtune learn``: samples from a stream without an end in, an answer out for each."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from filtune.lightning_modules import signals
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO

from . import storage
from .answers import Answers
from .learner import OnlineLearner
from .settings import OPEN
from .sources import AnswerOutput, SampleSource, SourceOptions, open_output, open_source

STREAM = "stream"
"""Entry of the state with the position in the input and in the output."""


class LearnLoop:
    """The loop of ``filtune learn``: take a sample, answer it, learn from it, and save the state from time to time.

    The order of a save is what keeps every sample from being lost or learned twice: the output is made safe, the state
    is written with the positions of both, and only then does the source forget what is before its position.

    Args:
        source: Where samples come from.
        output: Where answers go.
        answers: Answers and learns.
        path: File of the state.
        save_interval: Samples between two saves.
    """

    def __init__(
        self, source: SampleSource, output: AnswerOutput, answers: Answers, path: Path, save_interval: int
    ) -> None:
        self.source, self.output, self.answers = source, output, answers
        self.path, self.save_interval = path, save_interval

    def run(self) -> None:
        """Learn from the stream to its end.

        Raises:
            Stopped: If a signal came; the state is saved.
        """
        try:
            for sample in self.source:
                self.output.write({**self.source.describe(), **self.answers.answer(sample)})
                if self.source.count % self.save_interval == 0:
                    self.save()
            self.save()
        except signals.Stopped:
            self.save()
            raise
        finally:
            signals.defer(False)
            self.source.close()
            self.output.close()

    def save(self) -> None:
        """Write the state; nothing is acknowledged before it is on the disk."""
        counts = dict(self.answers.counts)
        position = {"input": self.source.state(), "output": self.output.state(), "counts": counts}
        storage.write(self.answers.learner, self.path, {STREAM: position})
        self.source.acknowledge()


def position_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the position in the stream that the state has; None where there is no state.

    Raises:
        ValueError: If there is neither a state nor one thing to begin with, or the state is of something else.
    """
    if not options.state.exists():
        if bool(options.ckpt_path) == bool(options.config):
            raise ValueError(
                f"--state: {options.state} is not there; give one of --ckpt_path and --config to begin with"
            )
        if options.ckpt_path and options.classes:
            raise ValueError("--classes: a checkpoint has its own; leave them out, or add new ones: --new_classes add")
        return None
    stream = AtomicCheckpointIO().load_checkpoint(options.state).get(STREAM)
    if stream is None:
        raise ValueError(f"--state: {options.state} was not written by filtune learn; begin with it by --ckpt_path")
    return stream


def begin(options: argparse.Namespace) -> OnlineLearner:
    """Return the learner, from the state where there is one."""
    bounds = {"new_classes": options.new_classes, "max_pending": options.max_pending}
    if options.state.exists():
        return OnlineLearner.load(options.state, own=options.own_class, **bounds)
    if options.ckpt_path:
        return OnlineLearner.from_checkpoint(options.ckpt_path, own=options.own_class, **bounds)
    classes = OPEN if options.classes == [OPEN] else options.classes
    bounds["new_classes"] = options.new_classes or "refuse"
    return OnlineLearner.from_config(options.config, classes=classes, columns=options.columns or (), **bounds)


def main(options: argparse.Namespace) -> None:
    """Run ``filtune learn``.

    Raises:
        ValueError: Naming the option that is wrong.
        Stopped: If a signal came; the state is saved.
    """
    if options.save_interval < 1:
        raise ValueError(f"--save_interval: must be at least 1, got {options.save_interval}")
    stream = position_of(options)
    source = open_source(options.input, SourceOptions(options.follow, options.skip_read), stream and stream["input"])
    output = open_output(options.output, stream and stream["output"])
    learner = begin(options)
    if options.columns:
        learner.inputs.columns = list(options.columns)
    answers = Answers(learner, options.label_column, options.id_column, options.uncertainty)
    answers.counts.update((stream or {}).get("counts", {}))
    loop = LearnLoop(source, output, answers, options.state, options.save_interval)
    if stream is None:
        loop.save()  # from here on the output belongs to the state, also where a kill comes before the next save
    else:
        print(f"filtune: goes on after line {source.count} of {source.name}", file=sys.stderr)
    loop.run()
    counts = {"bad": 0, **answers.counts, **source.counts}
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if name != "learned")
    print(
        f"filtune: {source.count} samples read, {counts.get('learned', 0)} learned from{said and f', {said}'}; the "
        f"state is in {options.state}",
        file=sys.stderr,
    )
