"""The step of online learning: predict a batch, learn from it, score the prediction. With a trainer or without one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from filtune.datamodules import Task
from filtune.optimizers import Likelihood, Observation, OnlineOptimizer
from filtune.optimizers.base import Closure
from filtune.optimizers.distributed import Ranks
from filtune.optimizers.likelihoods import likelihood_of
from filtune.optimizers.likelihoods.tasks import StreamState
from filtune.optimizers.step_graphs import StepGraphs
from torch import Tensor

from .backbones import Backbone, BackboneConfig, build_backbone
from .metrics import Prequential
from .optimization import WeightAverage
from .seeding import seed_step
from .trust import OwnClasses


class OnlineStep:
    """A model, its online metrics and the step that changes both; a base of whatever drives it.

    Attributes:
        task: What is predicted.
        likelihood: The likelihood of the task's kind.
        backbone: The model.
        target_state: Estimates that follow the targets, where they are learned in running units.
        online: The online metrics.
        average: Mean of the trained parameters.
        graphs: The steps as CUDA graphs, where they are.
        timer: Entered around the optimizer's step.
    """

    task: Task
    likelihood: type[Likelihood]
    backbone: Backbone
    target_state: StreamState | None  # without a default, which would hide the module of that name
    online: Prequential
    average: WeightAverage
    graphs: StepGraphs | None = None
    timer: AbstractContextManager[Any] = nullcontext()

    def build(self, config: BackboneConfig, task: Task, averaged_steps: int, own: OwnClasses = None) -> None:
        """Build the model and its metrics for a task; random weights follow from torch's generator.

        Args:
            config: The backbone, its adapter and its head.
            task: The task.
            averaged_steps: Steps of the mean of the parameters; 0 for none.
            own: Classes outside filtune that may be imported; by default any.

        Raises:
            ValueError: If the backbone cannot be built.
        """
        self.task, self.likelihood = task, likelihood_of(task.kind)
        self.target_state = self.likelihood.build_state(task.outputs) if task.target_scaling else None
        self.backbone = build_backbone(config, task, own)
        self.online = Prequential(task)
        self.average = WeightAverage(self.backbone, averaged_steps)

    def likelihood_given(self, inputs: Any) -> Likelihood:
        """Return the likelihood of the outputs for preprocessed inputs."""
        return self.likelihood.of(self.backbone(inputs), self._target_value())

    def observe(self, inputs: Any, target: Tensor) -> Observation:
        """Return the likelihood of the outputs, bound to the target."""
        return self.likelihood_given(inputs).observe(target)

    def learn_batch(
        self,
        batch: dict[str, Any],
        optimizer: OnlineOptimizer,
        seed: int | None,
        number: int,
        step: Callable[[Closure], Any] | None = None,
    ) -> Observation:
        """Predict a batch, learn from it, and record the prediction, of the samples of all processes.

        Args:
            batch: Texts or images, and ``label``.
            optimizer: The optimizer.
            seed: The run's seed.
            number: The step's number, from 0.
            step: Takes the optimizer's step, as a trainer does that counts steps; by default the optimizer itself.

        Returns:
            The observation of before the update.
        """
        seed_step(seed, number, next(self.backbone.parameters()).device)
        inputs, target = self.backbone.preprocess(batch), batch["label"]
        known, before = self._see_targets(target)
        with self.timer:
            if self.graphs is None:
                prediction = (step or optimizer.step)(lambda: self.observe(inputs, target))
            else:
                prediction = self.graphs.take(self._observe_with, (inputs, target, self._target_value()), step)
            self.average.update()
        if self.target_state is not None:
            self.target_state.see_residuals(prediction)
            prediction = self.likelihood.of(prediction.outputs, before).observe(prediction.target)
        self.online.update(prediction, optimizer.predictive(), score=known)
        return prediction

    def saved_names(self, state: dict[str, Any]) -> set[str]:
        """Return the names of the tensors of a state that a checkpoint holds: all but the frozen backbone's."""
        trained = {f"backbone.{name}" for name, p in self.backbone.named_parameters() if p.requires_grad}
        return trained | {name for name in state if name.startswith(("online.", "target_state."))}

    def _target_value(self) -> Any:
        """Return what the likelihood must know of the targets; None where there is nothing to know."""
        return None if self.target_state is None else self.target_state.value()

    def _observe_with(self, inputs: Any, target: Tensor, value: Any) -> Observation:
        """Return the observation of a batch, given what the likelihood must know of the targets."""
        return self.likelihood.of(self.backbone(inputs), value).observe(target)

    def _see_targets(self, target: Tensor) -> tuple[bool, Any]:
        """Update the state of the targets with those of all processes, before the batch is learned from.

        Returns:
            Whether targets had been seen before, without which their units are unknown; and the state's value then,
            for the prediction must not know its own target.
        """
        state = self.target_state
        if state is None:
            return True, None
        known, before, ranks = state.is_ready, state.value(), Ranks.current()
        sizes = [len(target)] if ranks.world == 1 else ranks.integers(len(target), target.device)
        state.see_targets(ranks.gather([target], sizes)[0])
        return known, before
