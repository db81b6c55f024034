"""The base class of all optimizers: one way to call ``step``, and diagnostics of the last step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .distributed import Ranks
from .likelihoods.base import Observation

Closure = Callable[[], Observation]


class OnlineOptimizer(torch.optim.Optimizer):
    """An optimizer whose ``step`` takes a closure that returns an :class:`Observation`, graph attached.

    The rule calls the closure as often as it needs and returns the observation made before the update, whose
    outputs are the prediction. Where several processes of a group learn together, each with samples of its own, the
    update is that of one process with all their samples, and so is the observation that is returned.

    Attributes:
        stats: Diagnostics of the last step, by name: detached tensors on the model's device, computed without waiting
            for it. ``nonfinite_steps`` counts the steps with a non-finite value since the state was created.
        abstract: Whether the class is a base of others and no public name; it is not inherited.
        relative_cost: Time of a step in forward and backward passes of the batch, for estimates of a run's duration.
        row_cost: Time of each further row of a Jacobian, in the same unit; 0 for a rule that forms none.
    """

    stats: dict[str, Tensor]
    abstract: ClassVar[bool] = True
    relative_cost: ClassVar[float] = 1.0
    row_cost: ClassVar[float] = 0.0

    def attach(self, model: nn.Module) -> Self:
        """Let the rule watch the model's layers; most rules need not, and ignore it."""
        return self

    def check_divergence(self) -> str | None:
        """Return what went wrong since the state was created, in one line; waits for the device."""
        nonfinite = self.stats.get("nonfinite_steps") if hasattr(self, "stats") else None
        if nonfinite is None or not int(nonfinite):
            return None
        return f"{int(nonfinite)} non-finite gradients: the optimizer diverges; take a smaller --optimizer.lr"

    def diagnose(self) -> str | None:
        """Return a warning about the state, in one line; waits for the device."""
        return None

    def predictive(self) -> Tensor | None:
        """Return the posterior predictive probabilities of the last batch, (B, m), where the rule knows them."""
        return None

    def trained(self) -> Iterator[Tensor]:
        """Yield the parameters of all groups, in order."""
        return (p for group in self.param_groups for p in group["params"])

    def differentiate(self, closure: Closure) -> tuple[Observation, Tensor]:
        """Compute the derivative of the mean negative log-likelihood of all ranks' samples, in ``grad``.

        Args:
            closure: Called once.

        Returns:
            The observation of all ranks' samples, and the norm of the gradient, ().
        """
        with torch.enable_grad():
            observation = closure()
            loss = observation.nll()
        self.zero_grad()
        loss.backward()
        ranks = Ranks.current()
        joint, sizes = ranks.join(observation)
        grads = [p.grad for p in self.trained() if p.grad is not None]
        ranks.average(grads, sizes)
        return joint, torch.nn.utils.get_total_norm(grads)

    def count(self, nonfinite: Tensor) -> Tensor:
        """Update the count of non-finite steps.

        Args:
            nonfinite: Whether the present step is one, () bool.
        """
        return (
            getattr(self, "stats", {}).get("nonfinite_steps", torch.zeros_like(nonfinite, dtype=torch.int64))
            + nonfinite
        )

    def check_ranks(self) -> None:
        """Check that all processes hold the same parameters, bit for bit.

        Raises:
            ValueError: On all of them, naming those that differ.
        """
        Ranks.current().check(self.replicated())

    def replicated(self) -> Iterator[Tensor]:
        """Yield what must be equal on all processes."""
        return self.trained()

    def state_bytes(self) -> int:
        """Return the size of the optimizer's state in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors(self.state))


class FirstOrder(OnlineOptimizer):
    """Base of torch's own rules, driven by a closure: backward of the mean negative log-likelihood, then the rule.

    Mix it in before the torch class: ``class AdamW(FirstOrder, torch.optim.AdamW)``.
    """

    abstract: ClassVar[bool] = True

    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Take one step and return the observation made before it."""
        joint, norm = self.differentiate(closure)
        self.stats = {"grad_norm": norm, "nonfinite_steps": self.count(~norm.isfinite())}
        super().step()
        return joint

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rule's state; the diagnostics restart."""
        super().load_state_dict(state_dict)
        self.stats = {}


def check_arguments(name: str, arguments: Iterable[tuple[str, Any, bool, str]]) -> None:
    """Check that arguments are valid.

    Args:
        name: The optimizer's name; empty in a part of an optimizer, which puts its name before the message itself.
        arguments: Tuples (name, value, is_valid, requirement).

    Raises:
        ValueError: Naming the first that is not.
    """
    for argument, value, is_valid, requirement in arguments:
        if not is_valid:
            owner = f"{name}: " if name else ""
            raise ValueError(f"{owner}{argument} must {requirement}; got {value!r}")


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield every tensor of nested dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
