"""A model that learns from a stream without an end and predicts while it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from filtune.datamodules import Task
from filtune.lightning_modules import BackboneConfig
from filtune.optimizers import Filtune
from filtune.optimizers.kalman.monitors import page_test
from typing_extensions import Self

from . import storage
from .core import LearnerCore
from .labels import class_list
from .pending import Id, Waiting
from .plain import check_id
from .settings import from_config, from_parts
from .uncertainty import describe
from .watching.window import LABEL, SAMPLE


class OnlineLearner(LearnerCore):
    """A backbone that is fine-tuned sample by sample, by the very step of ``filtune fit`` and without a trainer.

    The parameters and the online metrics after so many samples are those of ``fit`` on the same stream with the same
    seed, bit for bit. All methods may be called from several threads. One thread learns at a time; predictions do not
    wait for it, and see the parameters after the last completed step.

    Args:
        task: The kind of task, such as ``classification`` or ``regression``, or a whole :class:`Task`.
        backbone: Its name, such as ``lenet5``, a hub id or a folder; or its options as a dict or ``BackboneConfig``.
        optimizer: A class, such as :class:`filtune.Filtune`, a ``functools.partial`` of one, or a name.
        classes: The classes, in the order of the outputs; or ``open`` for those of the labels that come.
        modality: ``text``, ``image`` or ``table``; by default what the backbone takes.
        image_shape: (C, H, W) of the images of a backbone that is built for a size, such as LeNet-5: (1, 28, 28).
        columns: The columns of a dict that are the input: one, the two of a pair of texts, or those of a table, of
            which none stands for all, and 64 at most.
        new_classes: ``refuse`` a label that is no class, or ``add`` it to the classes.
        seed: Seed of random weights and of each step.
        schedule: Options of the learning rate's schedule: ``{"warmup": 100}``.
        param_groups: Options for some of the parameters, by a regular expression on their names.
        weight_averaging: Predict with the mean of the parameters over the last so many steps at most.
        on_divergence: ``stop`` with an error where the optimizer diverges, ``warn``, or ``rewind`` to the last state
            that was good.
        max_pending: Most samples that wait for their labels; beyond it the oldest are dropped.
        total_steps: Length of the stream, for a learning rate that decays over it.
        device: Where the model is.
        precision: ``32-true`` or ``bf16-mixed``.

    Raises:
        ValueError: Naming the argument that is wrong, and the remedy.
    """

    def __init__(
        self,
        task: str | Task = "classification",
        backbone: str | Mapping[str, Any] | BackboneConfig = "lenet5",
        optimizer: Any = Filtune,
        classes: Sequence[Any] | Literal["open"] = (),
        *,
        modality: Literal["text", "image", "table"] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        columns: Sequence[str] = (),
        new_classes: Literal["refuse", "add"] = "refuse",
        seed: int = 0,
        schedule: Mapping[str, Any] | None = None,
        param_groups: Mapping[str, Mapping[str, Any]] | None = None,
        weight_averaging: int = 0,
        on_divergence: Literal["stop", "rewind", "warn"] = "stop",
        max_pending: int = 10_000,
        total_steps: int | None = None,
        device: str | torch.device = "cpu",
        precision: str = "32-true",
    ) -> None:
        classes = class_list(classes)
        model = {
            "schedule": dict(schedule or {}),
            "param_groups": {name: dict(options) for name, options in (param_groups or {}).items()},
            "weight_averaging": weight_averaging,
            "on_divergence": on_divergence,
        }
        settings = from_parts(
            task, backbone, optimizer, classes, modality=modality, image_shape=image_shape, model=model, seed=seed,
            precision=precision, new_classes=new_classes, columns=list(columns), max_pending=max_pending,
            total_steps=total_steps,
        )  # fmt: skip
        self.build(settings, torch.device(device), classes if isinstance(classes, list) else None)

    @classmethod
    def from_config(
        cls,
        config: Any,
        *,
        classes: Sequence[Any] | Literal["open"] | None = None,
        new_classes: Literal["refuse", "add"] = "refuse",
        columns: Sequence[str] = (),
        image_shape: tuple[int, int, int] | None = None,
        max_pending: int = 10_000,
        total_steps: int | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Return a learner of a configuration of ``fit``.

        Args:
            config: A file, the name of a shipped configuration such as ``quickstart``, a dict, or a list of these that
                are merged in order.
            classes: The classes; by default those of the configuration's data, which is read to know them.
            new_classes: ``refuse`` or ``add``.
            columns: The columns of a dict that are the input; by default those of the data.
            image_shape: (C, H, W) of the images, where the classes are given and the data is not read.
            max_pending: Most samples that wait for their labels.
            total_steps: Length of the stream, for a learning rate that decays over it.
            device: Where the model is.

        Raises:
            ValueError: Naming what is wrong with the configuration.
        """
        classes = class_list(classes)
        bounds = {"max_pending": max_pending, "total_steps": total_steps}
        settings = from_config(config, classes, new_classes, image_shape, columns=list(columns), **bounds)
        learner = cls.__new__(cls)
        learner.build(settings, torch.device(device), classes if isinstance(classes, list) else None)
        return learner

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        new_classes: Literal["refuse", "add"] | None = None,
        max_pending: int | None = None,
        total_steps: int | None = None,
        own: Sequence[str] = (),
        device: str | torch.device = "cpu",
    ) -> Self:
        """Return a learner that goes on where a run of ``fit``, or a learner that was saved, has stopped.

        Args:
            path: A run's folder for its last checkpoint, or a file.
            new_classes: ``refuse`` or ``add``; by default as it was saved, ``refuse`` after ``fit``.
            max_pending: Most samples that wait for their labels; by default as it was saved.
            total_steps: Length of the stream, for a learning rate that decays over it; by default as it was saved.
            own: Class paths outside filtune that the file may name; no others are imported.
            device: Where the model is.

        Raises:
            CheckpointError: If the file is damaged, of something else, or does not fit the backbone of today.
        """
        learner = cls.__new__(cls)
        place = torch.device(device)
        storage.restore_learner(learner, Path(path), new_classes, max_pending, total_steps, tuple(own), place)
        return learner

    load = from_checkpoint

    def save(self, path: str | Path) -> None:
        """Write everything to a file, which is complete or not there; :meth:`load` goes on bit for bit.

        The frozen weights are not in it, but a checksum of them. Learning waits until it is written.

        Raises:
            FloatingPointError: If the optimizer has diverged.
            DiskFull: If there is no space left; what was there before is still there.
        """
        storage.write(self, Path(path))

    # prediction

    def predict_one(self, x: Any, id: Id | None = None) -> Any:
        """Return the prediction for a sample: a class, a list of classes, or a number; None before there are classes.

        Args:
            x: The sample: see :meth:`Inputs.read`.
            id: Lets the sample wait for its label, for :meth:`feedback`.
        """
        return self.predict_many([x], None if id is None else [id])[0]

    def predict_many(self, xs: Sequence[Any], ids: Sequence[Id] | None = None) -> list[Any]:
        """Return the predictions for several samples, all with the parameters of one moment.

        Raises:
            ValueError: If there are not as many ids as samples, or one is none. No sample waits then.
        """
        if ids is not None:
            check_lengths("ids", ids, xs)
            for id in ids:
                check_id(id)
        samples = [self.inputs.read(x) for x in xs]
        snapshot = self.newest()
        found = self.predicted(samples, snapshot)  # also of no choice: refuses what the backbone cannot take
        if self.has_no_choice(snapshot):
            answers = [snapshot.classes[0] if snapshot.classes else None] * len(samples)
        else:
            answers = [answer for part in found for answer in self.labels.answers(part)]
        if ids is not None:
            with self.lock:
                for id, sample, answer in zip(ids, samples, answers, strict=True):
                    self.let_wait(id, Waiting(sample, answer, True))
        return answers

    def predict_proba_one(self, x: Any) -> dict[Any, float]:
        """Return the probability of each class for a sample."""
        return self.predict_proba_many([x])[0]

    def predict_proba_many(self, xs: Sequence[Any]) -> list[dict[Any, float]]:
        """Return the probability of each class for several samples.

        Raises:
            ValueError: If the task has no classes.
        """
        if not self.labels.likelihood.has_classes:
            raise ValueError(f"predict_proba: a {self.task.kind} has no probabilities; ask for uncertainty(x)")
        samples, snapshot = [self.inputs.read(x) for x in xs], self.newest()
        found = self.predicted(samples, snapshot)
        if self.has_no_choice(snapshot):
            return [dict.fromkeys(snapshot.classes, 1.0) for _ in samples]
        return [dict(zip(snapshot.classes, row, strict=True)) for part in found for row in part.mean().tolist()]

    def uncertainty(self, x: Any) -> dict[str, Any]:
        """Return how certain the prediction for a sample is; see :func:`live.uncertainty.describe`.

        It costs about what a step does, and waits for the step under way: the covariance is that of now.
        """
        sample = self.inputs.read(x)
        with self.lock:
            return describe(self.model, self.optimizer, self.labels, self.inputs.batch([sample]), self.autocast)

    # learning

    def learn_one(self, x: Any, y: Any = None, id: Id | None = None) -> None:
        """Learn from a sample and its label, whose prediction is scored before.

        Without a label the sample waits for it under its id; without an id as well it is counted and left. A sample
        that waits under the id is replaced by this one, and waits no longer.

        Args:
            x: The sample.
            y: Its label: the class itself, a list of classes, or a number. None where it is missing.
            id: What the sample is known by until its label comes.

        Raises:
            ValueError: If it is no such sample or label. Nothing is learned then.
            FloatingPointError: If the optimizer has diverged.
        """
        if id is not None:
            check_id(id)
        sample = self.inputs.read(x)
        with self.lock:
            if not self.labels.is_missing(y):
                self.check_labels([y])
                if id is not None:
                    self.pending.drop(id)
                self.learn([sample], [y])
            elif id is not None:
                self.let_wait(id, Waiting(sample))
            else:
                self.unlabelled += 1
                self.came(SAMPLE)

    def learn_many(self, xs: Sequence[Any], ys: Sequence[Any]) -> None:
        """Learn from several samples in one step, as ``fit`` does from a batch; those without a label are left out."""
        check_lengths("ys", ys, xs)
        samples = [self.inputs.read(x) for x in xs]
        with self.lock:
            known = [(sample, y) for sample, y in zip(samples, ys, strict=True) if not self.labels.is_missing(y)]
            if known:
                self.learn(*map(list, zip(*known, strict=True)))
            self.unlabelled += len(samples) - len(known)
            self.came(SAMPLE, len(samples) - len(known))

    def wait(self, x: Any, id: Id, answer: Any) -> None:
        """Let a sample wait for its label under an id, with the prediction that was given out for it."""
        sample = self.inputs.read(x)
        with self.lock:
            self.let_wait(id, Waiting(sample, answer, True))

    def feedback(self, id: Id, y: Any) -> bool:
        """Learn from the sample that waits under an id, now that its label is known.

        Returns:
            Whether there was such a sample; a label that is missing itself leaves it waiting.

        Raises:
            ValueError: If it is no such label, or no id. The sample goes on waiting then.
            FloatingPointError: If the optimizer has diverged.
        """
        check_id(id)
        with self.lock:
            if self.labels.is_missing(y):
                return False
            self.check_labels([y])
            found = self.pending.take(id)
            if found is None:
                return False
            self.learn([found.sample], [y], LABEL)
            if found.was_predicted:
                self.answered += 1
                self.answered_right += found.answer == self.labels.given(y)
            return True

    def watch_for(
        self,
        alarms: Sequence[str] | None = None,
        *,
        window: int | None = None,
        keep_states: int | None = None,
        rollback_on_alarm: bool | None = None,
    ) -> None:
        """Set what is watched; what is None stays as it is. See docs/watching.md.

        Args:
            alarms: Rules such as ``accuracy < 0.7``, ``log_loss > 1.2 until 1 after 200`` or ``drift``.
            window: Predictions in the window (1,000).
            keep_states: Most states that are kept to go back to, one every 200 steps while no alarm is on (0).
            rollback_on_alarm: Whether an alarm restores the last of them; then one is kept at least.

        Raises:
            ValueError: Naming the option that is wrong. Nothing is changed then.
        """
        with self.lock:
            self.configure_monitor(self.monitor.plan(alarms, window, keep_states, rollback_on_alarm))

    def rollback(self) -> int:
        """Restore the newest state that was kept, and return the number of its step; everything else goes on.

        Parameters, optimizer, the estimates of the targets and the standardisation of a table are as they were. The
        state is gone then, unless it is the only one, so that a second call goes further back.

        Raises:
            ValueError: If none is kept.
        """
        with self.lock:
            return self.restore_state()

    # what it knows of itself

    @property
    def classes(self) -> list[Any]:
        """The classes known, in the order of the outputs."""
        return list(self.labels.values)

    @property
    def metrics(self) -> dict[str, float]:
        """The online metrics under the names of ``summary.json``, every prediction scored before it was learned from.

        ``answered_accuracy`` is that of the predictions that were given out with an id, where labels came later.
        """
        with self.lock:
            online = self.model.online
            found = {"samples": float(online.samples), "steps": float(self.steps)}
            if int(online.samples):
                computed = {name.replace("/", "_"): float(value) for name, value in online.compute().items()}
                found |= {name: value for name, value in computed.items() if name != "online_l1"}
            if self.answered and self.labels.likelihood.is_softmax:
                found["answered_accuracy"] = 100 * self.answered_right / self.answered
            counts = {"unlabelled": self.unlabelled, "waiting": len(self.pending), "dropped": self.pending.dropped}
            return found | {name: float(count) for name, count in counts.items()}

    @property
    def watched(self) -> dict[str, Any]:
        """The figures over the ``window``, the ``alarms`` with whether each is firing, and counts."""
        with self.lock:
            return self.monitor.status()

    @property
    def drift(self) -> dict[str, Any]:
        """Page's test of the uniform predictor against this one (:mod:`optimizers.kalman.monitors.page_test`).

        ``statistic`` in nats and its ``threshold``, how many drifts were ``detected`` and after which step the last
        one, and whether the test is ``armed``: it is once the predictions are good enough to become worse.
        """
        with self.lock:
            state = self.drift_state
            return {
                "statistic": float(state["page"]),
                "threshold": page_test.LIMIT,
                "detected": int(state["changes"]),
                "last_step": int(self.drifted_at) or None,
                "armed": bool(state["armed"]),
            }


def check_lengths(name: str, given: Sequence[Any], xs: Sequence[Any]) -> None:
    """Check that there is one of something for each sample.

    Raises:
        ValueError: If not.
    """
    if len(given) != len(xs):
        raise ValueError(f"{name}: one is needed for each sample, got {len(given)} for {len(xs)}")
