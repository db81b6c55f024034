"""``filtune learn``: a stream of JSON lines in, a line of JSON out for each."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from filtune.lightning_modules import signals
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO

from . import storage
from .learner import OnlineLearner
from .lines import Lines
from .plain import check_id
from .settings import OPEN

STREAM = "stream"
"""Entry of the state with the position in the input and in the output."""


class Output:
    """The lines that are written; of a file, those after the last saved state are written again when it goes on.

    Args:
        target: A file, or ``-`` for standard output.
        size: Bytes of the file that belong to the state; None where there is no state.

    Raises:
        ValueError: If the file has content of something else, or has lost lines.
    """

    def __init__(self, target: str, size: int | None) -> None:
        self.is_pipe = target == "-"
        if self.is_pipe:
            self.file: BinaryIO = sys.stdout.buffer
            return
        path = Path(target)
        present = path.stat().st_size if path.exists() else 0
        if size is None and present:
            raise ValueError(f"--output: {path} has content that is not of this state; name a new file")
        if size is not None and present < size:
            raise ValueError(f"--output: {path} has {present} bytes, the state has written {size}; put it back")
        self.file = open(path, "ab")  # noqa: SIM115
        self.file.truncate(size or 0)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a line, at once; half of a surrogate pair is written as JSON escapes it."""
        self.file.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        self.file.flush()

    def size(self) -> int:
        """Return the bytes that are on the disk now; 0 of a pipe."""
        if self.is_pipe:
            return 0
        os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        if not self.is_pipe:
            self.file.close()


class LineAnswers:
    """A service that learns from lines, and answers each.

    Args:
        learner: The learner.
        label_column: Column of the label.
        id_column: Column of the id.
    """

    def __init__(self, learner: OnlineLearner, label_column: str, id_column: str) -> None:
        self.learner, self.label_column, self.id_column = learner, label_column, id_column
        self.inputs = learner.inputs
        if not self.inputs.columns and self.inputs.modality != "table":
            self.inputs.columns = [self.inputs.modality]
        self.counts: Counter[str] = Counter()

    def answer(self, line: bytes | None) -> dict[str, Any]:
        """Return what is answered to a line; nothing is learned from one that is wrong.

        Raises:
            FloatingPointError: If the optimizer has diverged.
        """
        try:
            answer, change = self._answer(self._row(line))
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:  # of libraries too; nothing has changed
            return self._bad(error)
        try:
            answer["learned"] = change()
        except ValueError as error:
            return self._bad(error)
        self.counts["learned"] += answer["learned"]
        return answer

    def _bad(self, error: Exception) -> dict[str, Any]:
        self.counts["bad"] += 1
        return {"error": " ".join(str(error).split()) or type(error).__name__}

    def _row(self, line: bytes | None) -> dict[str, Any]:
        if line is None:
            raise ValueError("the line is too long")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError("no JSON object with the columns of a sample")
        return row

    def _answer(self, row: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], bool]]:
        """Return the answer, and what the line changes, which returns whether it was learned from."""
        y, id = row.get(self.label_column), row.get(self.id_column)
        if id is not None:
            check_id(id)
        answer: dict[str, Any] = {} if id is None else {"id": id}
        has_label = not self.learner.labels.is_missing(y)
        if has_label:
            self.learner.check_labels([y])
        names = self.inputs.columns or [name for name in row if name not in (self.label_column, self.id_column)]
        if all(row.get(name) is None for name in names):
            if id is None or not has_label:
                sample = repr(names[0]) if names else "a feature"
                raise ValueError(f"the line has neither {sample} nor the label of an earlier id")
            return {**answer, "label": y}, partial(self.learner.feedback, id, y)
        x = self.inputs.read({name: row.get(name) for name in names})
        prediction = self._prediction(x)
        answer |= {**prediction, **({"label": y} if has_label else {})}
        return answer, partial(self._take, x, y if has_label else None, id, prediction["prediction"])

    def _take(self, x: Any, y: Any, id: Any, prediction: Any) -> bool:
        """Learn from a sample, or let it wait for its label; return whether it was learned from."""
        if y is not None:
            self.learner.learn_one(x, y, id)
        elif id is not None:
            self.learner.wait(x, id, prediction)
        return y is not None

    def _prediction(self, x: Any) -> dict[str, Any]:
        """Return the prediction, and of classes that are exclusive its probability and the entropy of all in nats."""
        if not self.learner.labels.likelihood.is_softmax:
            return {"prediction": self.learner.predict_one(x)}
        found = self.learner.predict_proba_one(x)
        if not found:
            return {"prediction": None}
        best = max(found, key=lambda name: found[name])
        entropy = -sum(p * math.log(p) for p in found.values() if p > 0)
        return {"prediction": best, "probability": found[best], "entropy": entropy}


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
    lines = Lines(options.input, options.follow, stream and stream["input"], options.skip_read)
    output = Output(options.output, stream and stream["output"])
    learner = begin(options)
    if options.columns:
        learner.inputs.columns = list(options.columns)
    answers = LineAnswers(learner, options.label_column, options.id_column)
    if stream:
        print(f"filtune: goes on after line {lines.count} of {options.input}", file=sys.stderr)

    def save() -> None:
        position = {"input": lines.state(), "output": output.size(), "counts": dict(answers.counts)}
        storage.write(learner, options.state, {STREAM: position})

    answers.counts.update((stream or {}).get("counts", {}))
    try:
        if stream is None:
            save()  # from here on the output belongs to the state, also where a kill comes before the next save
        for line in lines:
            output.write({"line": lines.count, **answers.answer(line)})
            if lines.count % options.save_interval == 0:
                save()
        save()
    except signals.Stopped:
        save()
        raise
    finally:
        signals.defer(False)
        lines.close()
        output.close()
    counts = answers.counts
    print(
        f"filtune: {lines.count} lines read, {counts['learned']} learned from, {counts['bad']} bad; the state is in "
        f"{options.state}",
        file=sys.stderr,
    )
