"""Learners side by side on one stream: the same model and start, other optimizers, and paired differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from filtune.experiments.classes import classes as known_classes
from filtune.experiments.composition import compose, find_config, shipped
from filtune.lightning_modules.yaml_loader import parse_value

from filtune.suggestions import suggest

from .. import storage
from ..learner import OnlineLearner
from ..settings import LearnerSettings, optimizer_section
from .differences import BlockMeans, Difference
from .window import Score

T = TypeVar("T")


class Shadow:
    """A learner beside the one whose predictions count, and its paired differences.

    Attributes:
        learner: The learner.
        failure: Why it learns no more; empty while it does.
        loss: Differences of the losses, its own minus the first learner's.
        error: Differences of the errors; see :class:`Score`.
        totals: Sums of its losses and errors.
    """

    def __init__(self, learner: OnlineLearner) -> None:
        self.learner, self.failure = learner, ""
        self.loss, self.error = BlockMeans(), BlockMeans()
        self.totals = [0.0, 0.0]

    def state(self) -> dict[str, Any]:
        """Return everything for a checkpoint."""
        sums = [self.loss.state(), self.error.state(), self.totals]
        return {"learner": storage.content(self.learner), "failure": self.failure, "sums": sums}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the failure and the differences."""
        loss, error, totals = state["sums"]
        self.loss.load(loss)
        self.error.load(error)
        self.failure, self.totals = state["failure"], list(totals)


class Comparison:
    """A learner and others that see the same samples: the same model from the same start, with other optimizers.

    Each predicts a sample before it learns from it. A shadow that diverges, or whose prediction is not finite,
    stops, and changes nothing for the others.

    Args:
        learner: The learner whose predictions count.
        against: Optimizers: names or classes as :class:`OnlineLearner` takes them, the name of a configuration, or a
            name with options such as ``adamw lr=1e-3``. A dict names them.
        state: What :meth:`state` returned; the optimizers are those of the state then.

    Attributes:
        count: Predictions that were compared.
        left_out: Predictions of the first learner that were not finite, with which none can be compared.

    Raises:
        ValueError: If an optimizer is not there, comes twice, or has not these options.
    """

    def __init__(
        self,
        learner: OnlineLearner,
        against: Iterable[Any] | Mapping[str, Any] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.learner = learner
        self.count, self.left_out, self.totals = 0, 0, [0.0, 0.0]
        if state is not None:
            self.shadows = {name: self._restored(entry) for name, entry in state["shadows"].items()}
            self.count, self.totals = state["count"], list(state["totals"])
            self.left_out = state.get("left_out", 0)
            return
        named = against if isinstance(against, Mapping) else names_of(against)
        self.shadows = {name: Shadow(self._copy(name, optimizer)) for name, optimizer in named.items()}

    def _copy(self, name: str, optimizer: Any) -> OnlineLearner:
        """Return a learner with the present model and another optimizer."""
        try:
            settings = with_optimizer(self.learner.settings, optimizer)
            content = storage.content(self.learner)
            content["filtune"] = {**content["filtune"], "config": settings.config, "rewinds": 0}
            live = {key: value for key, value in content[storage.LIVE].items() if key not in ("monitor", "good")}
            content |= {"optimizer_states": [], "lr_schedulers": [], storage.LIVE: live}
            return self._built(content)
        except ValueError as error:
            raise ValueError(f"against {name!r}: {error}") from error

    def _built(self, content: Mapping[str, Any]) -> OnlineLearner:
        """Return the learner of a checkpoint's content; it shares the frozen weights with the first one."""
        learner = OnlineLearner.__new__(OnlineLearner)
        own = self.learner.settings.own
        states = copy.deepcopy(content["optimizer_states"])  # which torch's optimizers would share, not copy
        storage.restore_content(learner, {**content, "optimizer_states": states}, own=own, device=self.learner.device)
        shared = dict(self.learner.model.backbone.named_parameters())
        for name, param in learner.model.backbone.named_parameters():
            if not param.requires_grad:
                param.data = shared[name].data
        learner.inputs.columns = list(self.learner.inputs.columns)
        return learner

    def _restored(self, entry: Mapping[str, Any]) -> Shadow:
        shadow = Shadow(self._built(entry["learner"]))
        shadow.load(entry)
        return shadow

    # learning

    def apply(self, change: Callable[[OnlineLearner], T]) -> T:
        """Let every learner do the same, and compare what they predicted where they learned.

        Args:
            change: What is done with each learner, such as ``lambda each: each.learn_one(x, y)``.

        Returns:
            What the first learner returned. Where it raises, the others see nothing of it.
        """
        found, score = _scored(self.learner, change)
        if score is not None and not score.is_finite():
            self.left_out += 1
        elif score is not None:
            self.count += 1
            self.totals = _sum(self.totals, score)
        for shadow in self.shadows.values():
            if shadow.failure:
                continue
            try:
                _, other = _scored(shadow.learner, change)
            except Exception as error:  # of whatever kind: what counts is the first learner
                shadow.failure = _line(error)
                continue
            if other is not None and not other.is_finite():
                shadow.failure = f"predictions are not finite from sample {self.count} on"
            elif score is not None and score.is_finite() and other is not None:
                shadow.loss.add(other.loss - score.loss)
                shadow.error.add(other.error - score.error)
                shadow.totals = _sum(shadow.totals, other)
        return found

    def each(self, ask: Callable[[OnlineLearner], T]) -> dict[str, T]:
        """Return what the shadows that still learn answer, by name; one that raises learns no more."""
        found = {}
        for name, shadow in self.shadows.items():
            if shadow.failure:
                continue
            try:
                found[name] = ask(shadow.learner)
            except Exception as error:  # of whatever kind: what counts is the first learner
                shadow.failure = _line(error)
        return found

    # results

    @property
    def name(self) -> str:
        """Name of the first learner's optimizer."""
        return type(self.learner.optimizer).__name__

    def results(self) -> list[Result]:
        """Return the first learner's result and those of its shadows."""
        loss, error = (total / max(1, self.count) for total in self.totals)
        own = Result(self.name, self.count, loss, error)
        return [own, *(self._result(name, shadow) for name, shadow in self.shadows.items())]

    def _result(self, name: str, shadow: Shadow) -> Result:
        count = shadow.loss.count
        loss, error = (total / max(1, count) for total in shadow.totals)
        return Result(name, count, loss, error, shadow.loss.difference(), shadow.error.difference(), shadow.failure)

    def table(self) -> str:
        """Return the results as a table of plain text."""
        is_class = self.learner.labels.likelihood.has_classes
        head = ["", "samples", "accuracy" if is_class else "rmse", "log loss", "difference of log loss (95 %)", "p", ""]
        rows = [head, *(result.row(self.name, is_class) for result in self.results())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    # what is saved

    def state(self) -> dict[str, Any]:
        """Return everything but the first learner, for a checkpoint."""
        shadows = {name: shadow.state() for name, shadow in self.shadows.items()}
        return {"shadows": shadows, "count": self.count, "left_out": self.left_out, "totals": self.totals}


@dataclass(frozen=True)
class Result:
    """The result of one learner.

    Attributes:
        name: Its optimizer.
        count: Predictions that were scored.
        loss: Their mean loss in nats.
        error: Their mean error; see :class:`Score`.
        loss_difference: Mean of its losses minus the first learner's; None of the first.
        error_difference: The same of the errors.
        failure: Why it learns no more.
    """

    name: str
    count: int
    loss: float
    error: float
    loss_difference: Difference | None = None
    error_difference: Difference | None = None
    failure: str = ""

    def verdict(self, first: str) -> str:
        """Return who is ahead by the log loss of the stream, or that it may be chance."""
        found = self.loss_difference
        if self.failure:
            return f"stopped: {self.failure}"
        if found is None:
            return ""
        if found.p is None:
            return "too few samples"
        if not found.is_significant:
            return "may be chance"
        return f"{self.name if found.mean < 0 else first} is ahead"

    def row(self, first: str, is_class: bool) -> list[str]:
        """Return the cells of the table."""
        score = f"{1 - self.error:.3f}" if is_class else f"{math.sqrt(self.error):.4g}"
        difference, p = "", ""
        if (found := self.loss_difference) is not None and self.count:
            difference = f"{found.mean:+.4f}"
            if found.low is not None and found.p is not None:
                difference += f" ({found.low:+.4f} to {found.high:+.4f})"
                p = f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
        scored = [score, f"{self.loss:.4f}"] if self.count else ["-", "-"]
        return [self.name, str(self.count), *scored, difference, p, self.verdict(first)]


def _scored(learner: OnlineLearner, change: Callable[[OnlineLearner], T]) -> tuple[T, Score | None]:
    """Return what a change returns, and the scores of what was learned from, NaN of a prediction that is not finite."""
    window = learner.monitor.window
    before = window.count
    found = change(learner)
    if window.count == before:
        return found, None
    return found, window.last(window.count - before) or Score(math.nan, math.nan)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _sum(totals: Sequence[float], values: Sequence[float]) -> list[float]:
    return [total + value for total, value in zip(totals, values, strict=True)]


def names_of(optimizers: Iterable[Any]) -> dict[str, Any]:
    """Return optimizers by name.

    Raises:
        ValueError: If one comes twice.
    """
    found: dict[str, Any] = {}
    for optimizer in optimizers:
        name = " ".join(optimizer.split()) if isinstance(optimizer, str) else getattr(optimizer, "__name__", "")
        name = name or str(optimizer)
        if name in found:
            raise ValueError(f"against {name!r}: is there twice; leave one out, or give it other options")
        found[name] = optimizer
    return found


def open_comparison(
    learner: OnlineLearner, against: Sequence[str] | None, state: Mapping[str, Any] | None, is_new: bool
) -> Comparison:
    """Return the comparison of a command, that of its state where it goes on.

    Args:
        learner: The learner whose predictions count.
        against: What ``--against`` names; None goes on with those of the state.
        state: The comparison in the state; None where there is none.
        is_new: Whether the command begins.

    Raises:
        ValueError: If an optimizer is not there, or is another than in the state.
    """
    names = names_of(against or ())
    if is_new:
        return Comparison(learner, names)
    known = list((state or {}).get("shadows", {}))
    if against is not None and list(names) != known:
        has = ", ".join(known) or "none"
        raise ValueError(f"--against: a learner that joins later has another start; the state has {has}: name the same")
    return Comparison(learner, state=state)


def with_optimizer(settings: LearnerSettings, optimizer: Any) -> LearnerSettings:
    """Return the settings of a learner with another optimizer, and the schedule and parameter groups that it has.

    A rate that decays over a stream needs its length; without it the rate is constant.

    Raises:
        ValueError: If there is no such optimizer.
    """
    part = _part(optimizer) if isinstance(optimizer, str) else {"optimizer": optimizer_section(optimizer)}
    of_optimizer = {key: (part.get("model") or {}).get(key) or {} for key in ("schedule", "param_groups")}
    if settings.total_steps is None:
        of_optimizer["schedule"] = {**of_optimizer["schedule"], "decay": "none"}
    model = {**settings.model, **of_optimizer}
    return replace(settings, config={**settings.config, "model": model, "optimizer": part["optimizer"]})


def _part(text: str) -> dict[str, Any]:
    """Return the configuration that a text names: of a file, else of a class, with options as ``name=value``."""
    name, *pairs = text.split() or [""]
    configs = [each.removeprefix("optimizer/") for each in shipped() if each.startswith("optimizer/")]
    if name.removeprefix("optimizer/") in configs or Path(name).is_file():
        part = compose([str(find_config(name, "against"))])
    elif name.lower() in (classes := {each.lower() for each in known_classes("optimizer")}) or "." in name:
        part = {"optimizer": optimizer_section(name)}
    else:
        raise ValueError(f"there is no such optimizer; {suggest(name, {*configs, *classes})}")
    if not part.get("optimizer"):
        raise ValueError("the configuration has no optimizer; name one of configs/optimizer")
    options = dict(part["optimizer"].get("init_args") or {})
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ValueError(f"{pair!r}: options are written as NAME=VALUE, such as lr=1e-3")
        options[key] = parse_value(value)
    return {**part, "optimizer": {**part["optimizer"], "init_args": options}}
