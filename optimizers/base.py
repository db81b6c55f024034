"""What every optimizer of filtune has in common: one way to be driven, and figures about its last step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
        stats: Figures of the last step, by name: detached tensors on the model's device, never waited for.
            ``nonfinite_steps`` counts the steps on which a non-finite value was met since the state was created.
    """

    stats: dict[str, Tensor]

    def attach(self, model: nn.Module) -> Self:
        """Let the rule look at the model's layers; most need not, and ignore it."""
        return self

    def failure(self) -> str | None:
        """What went wrong since the state was created, in one line; waits for the device."""
        nonfinite = self.stats.get("nonfinite_steps") if hasattr(self, "stats") else None
        if nonfinite is None or not int(nonfinite):
            return None
        return f"{int(nonfinite)} non-finite gradients: the optimizer diverges; take a smaller --optimizer.lr"

    def advice(self) -> str | None:
        """What its user should know of the state it is in, in one line; waits for the device."""
        return None

    def predictive(self) -> Tensor | None:
        """Probabilities that take the parameters' uncertainty into account, where the rule knows it, (B, m)."""
        return None

    def trained(self) -> Iterator[Tensor]:
        """The parameters of all groups, in order."""
        return (p for group in self.param_groups for p in group["params"])

    def differentiate(self, closure: Closure) -> tuple[Observation, Tensor]:
        """Leave the derivative of the mean negative log-likelihood of all ranks' samples in ``grad``.

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
        """Steps on which a non-finite value was met, with the present one, of which it is said, ()."""
        return (
            getattr(self, "stats", {}).get("nonfinite_steps", torch.zeros_like(nonfinite, dtype=torch.int64))
            + nonfinite
        )

    def check_ranks(self) -> None:
        """See that all processes hold the same parameters, bit for bit.

        Raises:
            ValueError: On all of them, naming those that differ.
        """
        Ranks.current().check(self.replicated())

    def replicated(self) -> Iterator[Tensor]:
        """What every process must hold alike."""
        return self.trained()

    def state_bytes(self) -> int:
        """Bytes held by the optimizer's state."""
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors(self.state))


class FirstOrder(OnlineOptimizer):
    """Drives one of torch's own rules by a closure: backward of the mean negative log-likelihood, then the rule.

    Mix it in before the torch class: ``class AdamW(FirstOrder, torch.optim.AdamW)``.
    """

    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Take one step and return the observation made before it."""
        joint, norm = self.differentiate(closure)
        self.stats = {"grad_norm": norm, "nonfinite_steps": self.count(~norm.isfinite())}
        super().step()
        return joint

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rule's state, and count failures anew."""
        super().load_state_dict(state_dict)
        self.stats = {}


def check_arguments(name: str, arguments: Iterable[tuple[str, Any, bool, str]]) -> None:
    """Refuse arguments out of range.

    Args:
        name: The optimizer's.
        arguments: Of each its name, its value, whether it will do, and what it must do.

    Raises:
        ValueError: Naming the first that will not do.
    """
    for argument, value, holds, allowed in arguments:
        if not holds:
            raise ValueError(f"{name}: {argument} must {allowed}; got {value!r}")


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of nested dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
