"""The base class of all optimizers: one way to call ``step``, and diagnostics of the last step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .distributed import Ranks
from .growth import grow_elementwise
from .likelihoods.base import Observation
from .parts import constructor_parameters
from .performance import RECENT, Follower, Recent, read_recent, with_more_outcomes
from .ranges import FIRST_ORDER, Range, check_ranges
from .ranges import check_arguments as check_arguments
from .recordable import Recordable

Closure = Callable[[], Observation]


def observe(closure: Closure) -> Observation:
    """Return the observation of a closure.

    Raises:
        TypeError: If it returns a loss, as those of torch's own optimizers do.
    """
    found: Any = closure()
    if isinstance(found, Tensor):
        raise TypeError("the closure returns a tensor: it must return an observation, Categorical(model(x)).observe(y)")
    return found


NONFINITE = "nonfinite_steps"
"""Key of the count of non-finite steps among the diagnostics, and in a state dict."""

SETTINGS = "settings"
"""Key of a state dict under which the options stand that its state belongs to."""


class OnlineOptimizer(Recordable, torch.optim.Optimizer):
    """Base of all optimizers, which are driven by a closure that returns an observation.

    The closure returns an :class:`Observation`, its graph attached. The rule calls it as often as it needs and returns
    the observation made before the update, whose outputs are the prediction. Where several processes of a group learn
    together, each with samples of its own, the update is that of one process with all their samples, and so is the
    observation that is returned.

    Attributes:
        stats: Diagnostics of the last step, by name: detached tensors on the model's device, computed without waiting
            for it. ``nonfinite_steps`` counts the steps with a non-finite value since the state was created.
        remedy: What to change where the optimizer diverges, for a message.
        transient: Names of attributes that a copied or unpickled optimizer does not get, for it builds them itself.
        abstract: Whether the class is a base of others and no public name; it is not inherited.
        relative_cost: Time of a step in forward and backward passes of the batch, for estimates of a run's duration.
        row_cost: Time of each further row of a Jacobian, in the same unit; 0 for a rule that forms none.
        class_option: The option that names a class to import; empty in all that import none.
    """

    stats: dict[str, Tensor]
    abstract: ClassVar[bool] = True
    relative_cost: ClassVar[float] = 1.0
    row_cost: ClassVar[float] = 0.0
    class_option: ClassVar[str] = ""
    remedy: ClassVar[str] = "take a smaller --optimizer.lr"
    transient: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def count_rows(cls, coordinates: int, options: dict[str, Any], is_adapted: bool) -> int:
        """Return the rows of the Jacobian of a sample, for estimates of a run's duration: one per coordinate.

        Args:
            coordinates: Observation coordinates of a sample, d.
            options: Options that are set, by name.
            is_adapted: Whether weights of the model are frozen.
        """
        return coordinates

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; its options are those among ``defaults``.

        Raises:
            ValueError: If it has an option that belongs to the whole optimizer, and would be ignored.
        """
        others = param_group.keys() - self.defaults.keys() - {"params", "name"}  # a name is a label of the user's
        if whole := sorted(others & constructor_parameters(type(self), all_bases=True).keys() if others else ()):
            known = ", ".join(sorted(self.defaults)) or "none"
            raise ValueError(
                f"{type(self).__name__}: {whole[0]} is an option of the whole optimizer, not of a group of parameters; "
                f"pass it to the optimizer (options of a group: {known})"
            )
        super().add_param_group(param_group)

    def attach(self, model: nn.Module) -> Self:
        """Let the rule watch the model's layers; most rules need not, and ignore it."""
        return self

    def check_divergence(self) -> str | None:
        """Return what went wrong since the state was created, in one line; waits for the device.

        That is a gradient that is not finite, or predictions that are far worse than guessing and never were better.
        """
        # a filter computes its figures when they are asked for, at the cost of a step, and looks at its own count
        nonfinite = vars(self).get("stats", {}).get("nonfinite_steps")
        if nonfinite is not None and int(nonfinite):
            return f"{int(nonfinite)} non-finite gradients: the optimizer diverges; {self.remedy}"
        recent = self.recent()
        if recent is None or not recent.diverged:
            return None
        return f"the optimizer diverged: {recent.describe()}, and it never did better; {self.remedy}"

    def diagnose(self) -> str | None:
        """Return a warning that the predictions are far worse than guessing, in one line; waits for the device."""
        recent = self.recent()
        if recent is None or not recent.fails or recent.diverged:
            return None
        what = (
            "the predictions are far worse than guessing" if recent.guesses else "the probabilities are far too certain"
        )
        return f"{what}: {recent.describe()}; the stream changed, or {self.remedy}"

    def memory(self) -> dict[str, Any]:
        """Return the dictionary that keeps what is followed from step to step; saved where it is part of the state."""
        return vars(self).setdefault("_memory", {})

    @property
    def follower(self) -> Follower:
        """Follows how well the samples are predicted (:mod:`optimizers.performance`)."""
        return vars(self).setdefault("_follower", Follower())

    def follow(self, observation: Observation, finite: Tensor | None = None, **residuals: Tensor) -> None:
        """Take a batch into the recent scores; the arguments are those of :meth:`Follower.add`."""
        self.follower.add(self.memory(), observation, finite, **residuals)

    def grow_recent(self, before: Mapping[Tensor, torch.Size]) -> None:
        """Let the recent scores know classes that have not occurred; the arguments are those of :meth:`grow`."""
        memory, more = self.memory(), max(len(param) - shape[0] for param, shape in before.items())
        self.follower.settle(memory)
        if RECENT in memory:
            memory[RECENT] = with_more_outcomes(memory[RECENT], more)

    def recent(self) -> Recent | None:
        """Return how well the last samples were predicted; None before the first. Waits for the device."""
        self.follower.settle(self.memory())
        return read_recent(self.memory().get(RECENT))

    def settings(self) -> dict[str, Any]:
        """Return the options that a saved state belongs to: plain values by name."""
        return {"optimizer": rule_name(type(self))}

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the scores and the count up to now and the options that it belongs to."""
        self.follower.settle(self.memory())
        own = vars(self).get("_memory", {})  # of a rule whose state does not keep it
        kept = {key: own[key] for key in (RECENT, NONFINITE) if key in own}
        return {**super().state_dict(), **kept, SETTINGS: self.settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, on the device of the parameters.

        Raises:
            ValueError: If it was saved with other options, or does not fit; naming what differs.
        """
        self.check_settings(state_dict)
        for own in ("_follower", "_memory"):  # the scores of the state that is replaced
            vars(self).pop(own, None)
        apart = (SETTINGS, RECENT, NONFINITE)
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in apart})
        device = next(self.trained()).device
        for name in (RECENT, NONFINITE):
            if name in state_dict:
                self.memory()[name] = to_device(state_dict[name], device)
        for key, value in self.state.items():  # torch moves only what it keeps by parameter
            if not isinstance(key, Tensor):
                self.state[key] = self.place(value, device)

    def place(self, tree: Any, device: torch.device) -> Any:
        """Return a part of the state that torch does not keep by parameter, on the device where it belongs."""
        return to_device(tree, device)

    def check_settings(self, state_dict: dict[str, Any]) -> None:
        """Check that a state was saved with these options; earlier releases did not save them.

        Raises:
            ValueError: Naming the first that differs.
        """
        own, saved = self.settings(), state_dict.get(SETTINGS, {})
        for option in saved:  # what is new in this release, or a part that begins to watch, has no state yet
            if saved.get(option) != own.get(option):
                raise ValueError(
                    f"{type(self).__name__}: the checkpoint was saved with {option} {saved.get(option)}, this "
                    f"optimizer has {own.get(option)}; build it with the options of the checkpoint, or start without "
                    "its state"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy keeps: all but what torch and the class build anew, with the scores up to now."""
        self.follower.settle(self.memory())
        left_out = self.transient | torch_attributes() | {"_follower"}
        return {**{key: value for key, value in vars(self).items() if key not in left_out}, **super().__getstate__()}

    def can_grow(self) -> bool:
        """Return whether :meth:`grow` is implemented."""
        return False

    def grow(self, before: Mapping[Tensor, torch.Size]) -> None:
        """Take in rows that parameters have gained at their ends, of outputs that no sample has had yet.

        Args:
            before: Shapes of the parameters that have grown, as they were.

        Raises:
            ValueError: If the rule cannot; nothing is changed.
        """
        raise ValueError(
            f"{type(self).__name__}: cannot take new classes while it runs; take a filter (Filtune, LoKO, RKalman, "
            "EKF) or one of torch's rules (AdamW, AdaGrad, SGD), or name all classes at the start"
        )

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
            observation = observe(closure)
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
        before = self.memory().get(NONFINITE, torch.zeros_like(nonfinite, dtype=torch.int64))
        self.memory()[NONFINITE] = before + nonfinite
        return self.memory()[NONFINITE]

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
    """Base of torch's own rules: the gradient of the mean negative log-likelihood, then the rule.

    Mix it in before the torch class: ``class AdamW(FirstOrder, torch.optim.AdamW)``.

    Attributes:
        ranges: Ranges of the rule's options by name; those of a group are checked as well.

    Raises:
        ValueError: If an option is out of range.
    """

    abstract: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, Range]] = FIRST_ORDER

    def __init__(self, params: torch.optim.optimizer.ParamsT, *arguments: Any, **options: Any) -> None:
        check_ranges(type(self).__name__, options, self.ranges)  # torch's own messages do not name the option
        super().__init__(params, *arguments, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Raises:
            ValueError: If one of its options is out of range.
        """
        check_ranges(type(self).__name__, param_group, self.ranges)
        super().add_param_group(param_group)

    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Take one step and return the observation made before it."""
        joint, norm = self.differentiate(closure)
        self.stats = {"grad_norm": norm, "nonfinite_steps": self.count(~norm.isfinite())}
        self.follow(joint, norm.isfinite())
        unhooked_step(super().step)()
        return joint

    def can_grow(self) -> bool:
        """Return True, for the state of these rules is element-wise, or refused when it grows."""
        return True

    def grow(self, before: Mapping[Tensor, torch.Size]) -> None:
        """Give the new rows the state of rows whose gradient was always zero."""
        name, fill = type(self).__name__, {"sum": self.defaults.get("initial_accumulator_value", 0.0)}
        known = [(param, shape) for param, shape in before.items() if param in self.state]
        grown = {param: grow_elementwise(self.state[param], shape, param, fill, name) for param, shape in known}
        self.state.update(grown)
        self.grow_recent(before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rule's state; the diagnostics restart, but not the count of non-finite steps."""
        super().load_state_dict(state_dict)
        self.stats = {}


def rule_name(cls: type) -> str:
    """Return the name of the rule whose state an optimizer has.

    A subclass that declares nothing but a constructor has the state of its base, and each loads the other's.

    Args:
        cls: Its class.
    """
    base = cls.__bases__[0]
    is_variant = len(cls.__bases__) == 1 and issubclass(base, OnlineOptimizer) and not vars(base).get("abstract")
    return rule_name(base) if is_variant and not _declares_methods(cls) else cls.__name__


def _declares_methods(cls: type) -> bool:
    """Return whether a class has methods beside its constructor; a ``step`` that torch wraps is an inherited one."""
    own = {name: getattr(value, "__qualname__", None) for name, value in vars(cls).items() if inspect.isroutine(value)}
    properties = any(isinstance(value, property) for value in vars(cls).values())
    return properties or any(path == f"{cls.__qualname__}.{name}" for name, path in own.items() if name != "__init__")


@cache
def torch_attributes() -> frozenset[str]:
    """Return the names of what torch sets beside groups and state: its hooks, and what a schedule puts on it."""
    plain = torch.optim.SGD([torch.zeros(1)])
    return (frozenset(vars(plain)) | {"step", "_opt_called"}) - {"defaults", "state", "param_groups"}


def unhooked_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a bound ``step`` of torch without the hooks around it.

    torch puts hooks around the ``step`` of a class when its first instance is built, and around that of a subclass of
    ours again. Where ours calls torch's, hooks would run twice or once, depending on what else the process has done.
    """
    function: Any = getattr(step, "__func__", step)
    if not getattr(function, "hooked", False):
        return step
    return partial(function.__wrapped__, getattr(step, "__self__", None))


def to_device(tree: Any, device: torch.device) -> Any:
    """Return nested containers with their tensors on a device; one called ``step`` stays, for torch's rules."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: value if key == "step" else to_device(value, device) for key, value in tree.items()}
    return type(tree)(to_device(value, device) for value in tree) if isinstance(tree, list | tuple) else tree


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield every tensor of nested dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
