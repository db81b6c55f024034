"""``filtune learn``: samples from a stream without an end in, an answer out for each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from filtune.lightning_modules import signals
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO

from . import storage
from .answers import Answers
from .learner import OnlineLearner
from .notices import print_line
from .places import check_places, lock_of, naming_state, outbox_of
from .settings import OPEN
from .sources import AnswerOutput, SampleSource, SourceOptions, open_output, open_source
from .watching.comparison import open_comparison
from .watching.options import monitor_options
from .watching.reporting import ALARM_STATUS, WatchReports
from .watching.webhook import check_webhook

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
        reports: Reports alarms, and the comparison with other learners.
    """

    def __init__(
        self,
        source: SampleSource,
        output: AnswerOutput,
        answers: Answers,
        path: Path,
        save_interval: int,
        reports: WatchReports,
    ) -> None:
        self.source, self.output, self.answers = source, output, answers
        self.path, self.save_interval, self.reports = path, save_interval, reports

    def run(self) -> None:
        """Learn from the stream to its end, or to an alarm that ends the command.

        Raises:
            Stopped: If a signal came; the state is saved.
            BrokenPipeError: If the reader of the answers has gone; the state is saved.
        """
        try:
            for sample in self.source:
                place, answer = self.source.describe(), self.answers.answer(sample)
                self.output.write({**place, **answer, **self.reports.take(place)}, self.source.is_ready)
                if self.source.count % self.save_interval == 0:
                    self.save()
                if self.reports.stops:
                    break
            self.save()
        except signals.Stopped:
            self.save()
            raise
        except BrokenPipeError:
            self.save()
            print_line(f"the reader of the answers has gone; the state is in {self.path}")
            raise
        finally:
            signals.defer(False)
            self.source.close()
            self.output.close()
            self.reports.close()

    def save(self) -> None:
        """Write the state; nothing is acknowledged before it is on the disk."""
        position = {"input": self.source.state(), "output": self.output.state(), **self.answers.state()}
        if self.answers.comparison.shadows:
            position["against"] = self.answers.comparison.state()
        storage.write(self.answers.learner, self.path, {STREAM: position})
        self.source.acknowledge()


def check_beginning(options: argparse.Namespace) -> None:
    """Check that there is a state, or one thing to begin with.

    Raises:
        ValueError: If there is neither, or both.
    """
    if options.state.exists():
        return
    if bool(options.ckpt_path) == bool(options.config):
        raise ValueError(f"--state: {options.state} is not there; give one of --ckpt_path and --config to begin with")
    if options.ckpt_path and options.classes:
        raise ValueError("--classes: a checkpoint has its own; leave them out, or add new ones: --new_classes add")


def position_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the position in the stream that the state has; None where there is no state.

    Raises:
        ValueError: If the state is of something else.
    """
    if not options.state.exists():
        return None
    with naming_state(options.state):
        stream = AtomicCheckpointIO().load_checkpoint(options.state).get(STREAM)
    if stream is None:
        raise ValueError(f"--state: {options.state} was not written by filtune learn; begin with it by --ckpt_path")
    return stream


def begin(options: argparse.Namespace) -> OnlineLearner:
    """Return the learner, from the state where there is one."""
    bounds = {"new_classes": options.new_classes, "max_pending": options.max_pending}
    if options.state.exists():
        with naming_state(options.state):
            return OnlineLearner.load(options.state, own=options.own_class, **bounds)
    if options.ckpt_path:
        return OnlineLearner.from_checkpoint(options.ckpt_path, own=options.own_class, **bounds)
    classes = OPEN if options.classes == [OPEN] else options.classes
    bounds["new_classes"] = options.new_classes or "refuse"
    return OnlineLearner.from_config(options.config, classes=classes, columns=options.columns or (), **bounds)


def roll_back(options: argparse.Namespace, stream: dict[str, Any] | None) -> None:
    """Write the state with the model and the optimizer of the last kept one; the position stays.

    Raises:
        ValueError: If there is no state, or none was kept in it.
    """
    if stream is None:
        raise ValueError(f"--rollback: there is no state {options.state} in which an earlier one could be kept")
    learner = begin(options)
    step = learner.rollback()
    storage.write(learner, options.state, {STREAM: stream})
    print_line(
        f"rolled back to the state of step {step}; {options.state} goes on at its position, after step {learner.steps}"
    )


def main(options: argparse.Namespace) -> int:
    """Run ``filtune learn``, and return its exit status: 0, or :data:`ALARM_STATUS` where an alarm has ended it.

    Raises:
        ValueError: Naming the option that is wrong.
        Stopped: If a signal came; the state is saved.
    """
    if options.save_interval < 1:
        raise ValueError(f"--save_interval: must be at least 1, got {options.save_interval}")
    if options.webhook:
        check_webhook(options.webhook)
    check_places(options)
    check_beginning(options)
    with lock_of(options.state):
        return _learn(options)


def _learn(options: argparse.Namespace) -> int:
    """Run the command while the state is locked: roll back, or learn from the stream."""
    stream = position_of(options)
    if options.rollback:
        roll_back(options, stream)
        return 0
    source = open_source(options.input, SourceOptions(options.follow, options.skip_read), stream and stream["input"])
    # where samples were read and no byte was written, they were answered to a pipe: a file that is there is another's
    written = stream and (stream["output"] or (None if stream["input"]["count"] else 0))
    output = open_output(options.output, written)
    learner = begin(options)
    if options.columns:
        learner.inputs.columns = list(options.columns)
    watched = learner.monitor.options()
    learner.watch_for(**monitor_options(options))
    comparison = open_comparison(learner, options.against, (stream or {}).get("against"), is_new=stream is None)
    answers = Answers(
        learner, options.label_column, options.id_column, comparison, options.uncertainty, options.unique_ids
    )
    if stream:
        answers.load(stream)
    outbox = outbox_of(options.state)
    reports = WatchReports(
        learner.monitor, options.state.name, options.webhook, outbox, options.stop_on_alarm, comparison
    )
    loop = LearnLoop(source, output, answers, options.state, options.save_interval, reports)
    known_ids = ((stream or {}).get("ids") or {}).get("most", 0)
    if stream is None or learner.monitor.options() != watched or answers.ids.most != known_ids:
        # from here on the output, the ids of alarms and the options belong to the state, whenever a kill comes
        loop.save()
    if stream is not None:
        print_line(f"goes on after line {source.count} of {source.name}")
    loop.run()
    counts = {"bad": 0, **answers.counts, **source.counts}
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if name != "learned")
    print_line(
        f"{source.count} samples read, {counts.get('learned', 0)} learned from{said and f', {said}'}; the state is in "
        f"{options.state}"
    )
    return ALARM_STATUS if reports.stops else 0
