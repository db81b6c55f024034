"""The parts of a learner, its step, and its copy."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from filtune.datamodules import Task
from filtune.lightning_modules.monitoring import Watch
from filtune.lightning_modules.optimization import group_parameters
from filtune.optimizers import Likelihood, OnlineOptimizer
from filtune.optimizers.kalman.monitors import page_test
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import Self

from .growth import check_growth, grow
from .inputs import Inputs, Sample
from .labels import Labels
from .model import LiveModel, Readers, Snapshot, autocast, snapshot_of
from .pending import Id, Pending, Waiting
from .plain import shortened
from .settings import LearnerSettings
from .watching import kept_states
from .watching.monitor import MISSING, LearnerMonitor
from .watching.window import LABEL, SAMPLE

CHECK_INTERVAL = 50
"""Steps between two checks for divergence, as many as ``fit`` has between two points of its curves."""

KEEP_INTERVAL = 200
"""Steps between two states to rewind to, as many as ``fit`` has between two checkpoints."""

NOT_COPIED = {"lock", "_readers", "_snapshot"}
"""Attributes of a process, which a copy makes anew."""

NO_END = 1 << 62
"""Steps of a stream without an end."""

LARGE = 1e18
"""Numbers up to this size have a finite loss at outputs of zero: float32 holds their square."""

CHUNK = 64
"""Most samples of one forward pass of a prediction."""


class LearnerCore:
    """The parts of a learner and its step.

    One thread learns at a time, under a lock. Predictions take no lock: they use the last snapshot, which every step
    replaces as a whole once there have been any predictions.

    Attributes:
        settings: What the learner is.
        model: The model and its online metrics.
        optimizer: The optimizer.
        labels: The classes.
        inputs: Reads samples.
        pending: The samples that wait for their labels.
        monitor: Figures over a window, alarms, and states to go back to.
        steps: Steps taken.
        unlabelled: Samples that came without a label and without an id.
    """

    @property
    def task(self) -> Task:
        """The task of the learner."""
        return self.model.task

    def build(self, settings: LearnerSettings, device: torch.device, classes: Sequence[Any] | None) -> None:
        """Build the model and everything beside it, before the first sample.

        Args:
            settings: What the learner is.
            device: Where its model is.
            classes: The classes as they were given; by default their names.
        """
        self.settings, self.seed, self.device = settings, settings.seed, device
        self.schedule, self._precision = settings.schedule, settings.precision
        task, options = settings.task, settings.model
        self.labels = Labels(task.kind, classes or task.classes, task.label_options, settings.takes_new)
        self.inputs = Inputs(task.modality, settings.columns, task.features)
        self.pending = Pending(settings.max_pending)
        self.watch = Watch(options.get("on_divergence") or "stop")
        self.monitor = LearnerMonitor(task)
        self.model = LiveModel()
        build, own = settings.optimizer_init(), settings.own
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model.build(settings.architecture, task, int(options.get("weight_averaging") or 0), own)
            self.model.to(self.device).eval()
            self.optimizer: OnlineOptimizer = build(
                group_parameters(self.model.backbone, options.get("param_groups") or {})
            )
            self.optimizer.attach(self.model.backbone)
        if settings.takes_new:
            check_growth(self.model, self.optimizer)
        self.scheduler = self._build_scheduler()
        self.steps = self.unlabelled = self.answered = self.answered_right = 0
        self.drift_state = page_test.start(torch.zeros((), device=device))
        self.drifted_at = torch.zeros((), dtype=torch.int64, device=device)  # 0: never
        self._advised = False
        self.keep()
        self._open()

    def _build_scheduler(self) -> LambdaLR | None:
        return (
            None if self.schedule.constant else self.schedule.build(self.optimizer, self.settings.total_steps or NO_END)
        )

    def keep(self) -> None:
        """Keep the present state as one to rewind to, where that is the policy."""
        self.watch.keep(self.optimizer, self.steps, self.model.target_state)

    def counts(self) -> list[int]:
        """Return what was counted, for a checkpoint."""
        return [self.unlabelled, self.answered, self.answered_right, int(self.drifted_at)]

    def load_counts(self, counts: Sequence[Any], drift: dict[str, torch.Tensor]) -> None:
        """Restore both counts."""
        self.unlabelled, self.answered, self.answered_right, drifted_at = counts
        self.drifted_at.fill_(drifted_at)
        self.drift_state = {name: value.to(self.device) for name, value in drift.items()}

    def _open(self) -> None:
        """Make what belongs to this process and is neither copied nor saved."""
        self.lock = threading.RLock()
        self._readers: Readers | None = None
        self._snapshot: Snapshot | None = None

    @property
    def autocast(self) -> torch.autocast:
        """The context in which the model computes."""
        return autocast(self.device, self._precision)

    def has_no_choice(self, snapshot: Snapshot) -> bool:
        """Return whether too few classes are known for a model to choose between."""
        return self.labels.likelihood.is_softmax and len(snapshot.classes) < 2

    def newest(self) -> Snapshot:
        """Return the parameters after the last completed step; only the first call ever waits for a step."""
        snapshot = self._snapshot
        if snapshot is None:
            with self.lock:
                self._readers = self._readers or Readers(self.model)
                snapshot = self._snapshot = self._snapshot or self._take_snapshot()
        return snapshot

    @torch.no_grad()
    def predicted(self, samples: list[Sample], snapshot: Snapshot) -> list[Likelihood]:
        """Return the likelihoods of samples, chunk by chunk, on the host."""
        found = []
        assert self._readers is not None
        with self._readers.borrow(snapshot) as backbone, self.autocast:
            for start in range(0, len(samples), CHUNK):
                batch = self.inputs.batch(samples[start : start + CHUNK], snapshot.features)
                inputs = self._readers.prepare(backbone, batch)
                outputs = backbone(inputs).float().cpu()
                found.append(self.model.likelihood.of(outputs, snapshot.target_value))
        return found

    def learn(self, samples: list[Sample], labels: list[Any], came: int = SAMPLE | LABEL) -> None:
        """Take one step; the lock is held.

        Args:
            samples: The samples.
            labels: Their labels.
            came: What has come now: labels alone, or samples with their labels.
        """
        is_softmax = self.labels.likelihood.is_softmax
        known = len(self.labels.values) if is_softmax else None
        self.add_classes(self.labels.new_among(labels))
        self.model.online.known = known  # of the metrics that have grown
        if is_softmax and len(self.labels.values) < 2:  # of a single class nothing can be learned
            outputs = torch.zeros(len(samples), self.task.outputs, device=self.device)
            target = torch.zeros(len(samples), dtype=torch.int64, device=self.device)
            observation = self.model.likelihood.of(outputs, None).observe(target)
            self.model.online.update(observation)
            self.monitor.score(self.model.online.given_out(observation))
            self.inputs.learned(samples)
            self.came(came, len(samples))
            self.publish()
            return
        target = self.targets(labels)
        self.inputs.place(samples)
        batch = {**self.inputs.batch(samples), "label": target}
        is_scored = self.model.target_state is None or self.model.target_state.is_ready
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]), self.autocast:
            observation = self.model.learn_batch(batch, self.optimizer, self.seed, self.steps)
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1
        self.inputs.learned(samples)
        self.drift_state, drifted = page_test.watch(self.drift_state, observation)
        self.drifted_at = torch.where(drifted, self.steps, self.drifted_at)
        if is_scored:
            self.monitor.score(self.model.online.given_out(observation))
        if self.steps % CHECK_INTERVAL == 0:
            self.check()
        self.came(came, len(samples))
        if self.steps % KEEP_INTERVAL == 0:
            self.keep_state()
        self.publish()

    def came(self, what: int, count: int = 1) -> None:
        """Count samples or labels that came, and apply the rules of the alarms, which may restore a kept state.

        Alarms of one fault come one after the other: what comes on while another is on restores nothing.
        """
        was_quiet = self.monitor.is_quiet(besides=MISSING)
        for _ in range(count):
            self.monitor.window.came(what)
        events = self.monitor.observe(self.drift_state, self.steps)
        reasons = [event for event in events if event.status == "firing" and event.quantity != MISSING]
        if reasons and was_quiet and self.monitor.rollback_on_alarm and self.monitor.kept:
            step = self.restore_state()
            for event in reasons:
                event.rolled_back_to = step

    def let_wait(self, id: Id, waiting: Waiting) -> None:
        """Let a sample wait for its label; the lock is held."""
        self.pending.add(id, waiting)
        self.came(SAMPLE)

    def configure_monitor(self, options: dict[str, Any]) -> None:
        """Take options of :meth:`LearnerMonitor.plan`; the first state that is kept is the present one."""
        kept_none = not self.monitor.keep_states
        self.monitor.configure(options, self.drift_state)
        if kept_none:
            self.keep_state()

    def keep_state(self) -> None:
        """Keep the present state as one to go back to, where some are kept, no alarm is on, and it has not diverged."""
        monitor = self.monitor
        if monitor.keep_states and monitor.is_quiet() and self.optimizer.check_divergence() is None:
            monitor.add_kept(kept_states.kept_of(self.model, self.optimizer, self.inputs, self.steps))

    def restore_state(self) -> int:
        """Restore the newest state that was kept, and return the number of its step.

        Parameters, optimizer, the estimates of the targets and the standardisation of a table are as they were. Steps,
        metrics, the window, the drift test and the samples that wait go on.

        Raises:
            ValueError: If none is kept.
        """
        kept = self.monitor.take_kept()
        kept_states.restore_kept(kept, self.model, self.optimizer, self.inputs)
        self.keep()
        self.publish()
        return kept.step

    def targets(self, labels: Sequence[Any]) -> torch.Tensor:
        """Return the targets of labels, (B,) or (B, m).

        Raises:
            ValueError: Naming a label that is none, or whose loss at outputs of zero is not finite.
        """
        target = self.labels.encode(labels)
        if self.labels.likelihood.has_classes or float(target.abs().max()) <= LARGE:
            return target.to(self.device)
        target = target.to(self.device)
        state = copy.deepcopy(self.model.target_state)
        if state is not None:  # a step takes the target in before it learns from it
            state.see_targets(target)
        outputs = torch.zeros(len(target), self.task.outputs, device=self.device)
        loss = self.labels.likelihood.of(outputs, None if state is None else state.value()).nll(target)
        if not bool(loss.isfinite()):
            worst = labels[int(target.abs().reshape(len(target), -1).amax(1).argmax())]
            raise ValueError(f"y: the loss of the label {shortened(worst)} is not finite; give it in other units")
        return target

    def check_labels(self, labels: Sequence[Any]) -> None:
        """Check labels before anything is changed for them.

        Raises:
            ValueError: Naming the first that is none.
        """
        if not self.labels.new_among(labels):
            self.targets(labels)

    def publish(self) -> None:
        """Let predictions see the parameters of now, once there have been any predictions."""
        if self._readers is not None:
            self._snapshot = self._take_snapshot()

    def _take_snapshot(self) -> Snapshot:
        return snapshot_of(self.model, self.labels.values, self.steps, self.inputs.features)

    def add_classes(self, new: list[Any]) -> None:
        """Take new classes; the model grows where it has too few outputs for them."""
        if not new:
            return
        values = [*self.labels.values, *new]
        outputs = max(len(values), self.task.outputs)
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            grow(self.model, self.optimizer, outputs)
        self.labels.values = values
        self.model.task = replace(self.task, classes=self.labels.names)
        if self.monitor.grow(self.task):
            self.keep_state()
        self.keep()
        self.publish()

    def check(self) -> None:
        """Apply the policy for divergence, and keep the state as a good one from time to time.

        Raises:
            FloatingPointError: If the optimizer diverged, and the policy is to stop.
        """
        if self.watch.check(self.optimizer, self.steps, self.model.target_state):
            self.model.average.restart()
            self.publish()
        elif self.steps % KEEP_INTERVAL == 0:
            self.keep()
        advice = self.optimizer.diagnose()
        if advice and not self._advised:
            rank_zero_warn(f"step {self.steps}: {advice}")
        self._advised = advice is not None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle keeps, as it is between two steps: all but locks and readers.

        The frozen weights, which nothing changes, are those of the learner itself.
        """
        with self.lock:
            memo = {id(param): param for param in self.model.backbone.parameters() if not param.requires_grad}
            rates = None if self.scheduler is None else self.scheduler.state_dict()  # itself, it holds a function
            kept = {key: value for key, value in vars(self).items() if key not in NOT_COPIED}
            return copy.deepcopy({**kept, "scheduler": rates}, memo)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy."""
        rates = state.pop("scheduler")
        vars(self).update(state)
        self.optimizer.attach(self.model.backbone)
        saved = [group.get("lr") for group in self.optimizer.param_groups]
        self.scheduler = self._build_scheduler()  # which sets the rate of the first step
        if self.scheduler is not None:
            self.scheduler.load_state_dict(rates)
            for group, rate in zip(self.optimizer.param_groups, saved, strict=True):
                group["lr"] = rate
        self._open()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that learns on its own; the frozen weights are shared."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        return twin

    def __repr__(self) -> str:
        """Return the backbone, the optimizer and the number of steps."""
        name = self.settings.architecture.name
        return f"OnlineLearner({self.task.kind}, {name}, {type(self.optimizer).__name__}, {self.steps} steps)"
