"""Any optimizer of torch, or of a package that follows its protocol, by the name of its class."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Closure, OnlineOptimizer, observe, tensors, to_device, torch_attributes, unhooked_step
from .distributed import Ranks
from .likelihoods.base import Observation
from .other_generators import seeded
from .ranges import NOT_NEGATIVE, check_arguments
from .torch_classes import check_rule_arguments, checked_group, import_rule, required_arguments
from .torch_groups import arrange, fallback

ATTRIBUTES = "attributes"
"""Key of a state dict under which the plain attributes of the classes are: some keep a part of their state there."""

STEPS = "steps"
"""Key of a state dict under which the number of steps is."""

_KEPT_BY_TORCH = frozenset({"state", "param_groups", "defaults"})


class TorchOptimizer(OnlineOptimizer):
    """Any class of torch.optim, pytorch_optimizer or ivon.

    It is driven by a closure as the other optimizers are. The class is given the gradient of the mean negative
    log-likelihood of the samples of all ranks, and a closure that computes it, as torch's protocol has it. A gradient
    that is not finite is counted in ``stats["nonfinite_steps"]`` and replaced by zero.

    Predictions are made, validated, saved and exported at the point that the method predicts with:

    * Of a class with ``train()`` and ``eval()`` (Schedule-Free) that is the average x. The parameters are x outside of
      a step; within it they are y, at which the gradient is taken.
    * Of a class with ``sampled_params()`` (IVON) it is the mean. The gradient is taken at a sample.
    * Of all others it is where the gradient is taken.

    In the first two cases a step costs a forward pass more, for the prediction before the update.

    Source: the class that is named; the update is its own.

    Args:
        params: Parameters or parameter groups, each of which may have its own options of the class.
        name: Class path of the rule: ``torch.optim.NAME``, ``pytorch_optimizer.NAME`` or ``ivon.IVON``; a class of
            another package only where the user has named it.
        arguments: Arguments of the class by name, such as ``{lr: 1e-3}``; those that are left out have the class's
            defaults.
        fallback_lr: Learning rate of AdamW (without weight decay) for the parameters that the class does not take:
            those which are no pair of LoRA matrices (``pytorch_optimizer.LoRARite``) or no matrices
            (``torch.optim.Muon``). Other classes take all.

    Raises:
        ValueError: If there is no such class, or it does not take the arguments or the parameters.

    Examples:
        >>> import torch
        >>> from filtune import Categorical, TorchOptimizer
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = TorchOptimizer(model.parameters(), "torch.optim.NAdam", {"lr": 0.1})
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> losses = [optimizer.step(lambda: Categorical(model(x)).observe(y)).nll().item() for _ in range(20)]
        >>> losses[-1] < 0.5 * losses[0]
        True
    """

    class_option: ClassVar[str] = "name"
    remedy: ClassVar[str] = "take a smaller --optimizer.arguments.lr"

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        name: str = "torch.optim.NAdam",
        arguments: dict[str, Any] | None = None,
        fallback_lr: float = 1e-3,
    ) -> None:
        is_mapping = arguments is None or isinstance(arguments, Mapping)
        check_arguments(
            "TorchOptimizer",
            [
                ("fallback_lr", fallback_lr, *NOT_NEGATIVE.judge(fallback_lr)),
                ("arguments", arguments, is_mapping, "be a mapping such as {lr: 1e-3}"),
            ],
        )
        cls = import_rule(name)
        given = check_rule_arguments(name, cls, arguments or {})
        groups, rest = arrange(cls, params)
        self.name = name
        groups = [checked_group(cls, group) for group in groups]
        self._rules = [_build(name, cls, groups, given), *fallback(rest, fallback_lr)]
        super().__init__([group for rule in self._rules for group in rule.param_groups], self._rules[0].defaults)
        options = {key: value for group in self.param_groups for key, value in group.items() if key != "params"}
        self.defaults |= {key: value for key, value in options.items() if not isinstance(value, Tensor)}
        for rule in self._rules:
            self.state.update(rule.state)
        self.stats = {}
        self._is_checked, self._steps = False, 0
        self._share()

    def unrecordable(self) -> str:
        """Return why no step can be recorded."""
        return "classes of other packages count their steps on the host; take AdamW, AdaGrad or SGD"

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Take one step and return the observation made before it, at the point of the predictions.

        Raises:
            ValueError: If the class fails or does not evaluate the closure, or its state cannot be saved.
        """
        main = self._rules[0]
        calls: list[tuple[Observation, Tensor]] = []
        predicted = Ranks.current().join(observe(closure))[0] if self._is_averaged or self._is_sampled else None

        def evaluate() -> Tensor:
            calls.append(self._gradient(closure))
            return calls[-1][0].nll().detach()

        self._average(False)
        try:
            self._run(main, evaluate)
            for rule in self._rules[1:]:
                unhooked_step(rule.step)()
        finally:
            self._average(True)
            torch.clear_autocast_cache()
        if not calls:
            raise ValueError(f"TorchOptimizer: name: {self.name} did not evaluate its closure; take another class")
        self._check_state()
        joint = calls[0][0] if predicted is None else predicted
        finite = torch.stack([norm.isfinite() for _, norm in calls]).all()
        self.stats = {"grad_norm": calls[0][1], "nonfinite_steps": self.count(~finite)}
        self.follow(joint, finite)
        return joint

    def _run(self, rule: torch.optim.Optimizer, evaluate: Any) -> None:
        """Take the step of a class, whose own errors are reported in one line.

        Raises:
            ValueError: If the class fails, other than in the closure or for lack of memory.
        """
        failed: list[BaseException] = []

        def watched() -> Tensor:
            try:
                return evaluate()
            except BaseException as error:
                failed.append(error)
                raise

        try:
            with seeded(type(rule), torch.initial_seed() + self._steps):
                unhooked_step(rule.step)(watched)
            self._steps += 1
        except Exception as error:
            if failed or isinstance(error, (torch.OutOfMemoryError, MemoryError, OSError)):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"TorchOptimizer: {self.name} fails in its step ({reason}); take another class") from error

    def _gradient(self, closure: Closure) -> tuple[Observation, Tensor]:
        """Compute the gradient in ``grad``, zero where it is not finite; return the observation and the norm, ()."""
        with self._sampled():
            torch.clear_autocast_cache()  # it holds the parameters of the pass before
            joint, norm = self.differentiate(closure)
            for p in self.trained():
                if p.grad is not None:
                    p.grad = torch.where(norm.isfinite(), p.grad, 0)
                elif self._is_sampled:  # IVON reads them all
                    p.grad = torch.zeros_like(p)
        return joint, norm

    @property
    def _is_averaged(self) -> bool:
        """Return true if the class predicts with an average of its iterates; ``eval()`` puts it into the parameters."""
        return all(callable(getattr(self._rules[0], name, None)) for name in ("train", "eval"))

    @property
    def _is_sampled(self) -> bool:
        """Return true if the class takes its gradient at a sample of the parameters."""
        return callable(getattr(self._rules[0], "sampled_params", None))

    def _average(self, enabled: bool) -> None:
        """Put the average into the parameters, or the point at which the gradient is taken."""
        if self._is_averaged and self.state:  # before the first step there is no average
            rule: Any = self._rules[0]
            rule.eval() if enabled else rule.train()

    @contextmanager
    def _sampled(self) -> Iterator[None]:
        """Put a sample into the parameters for a while, of a class that has samples; an error leaves the mean."""
        rule: Any = self._rules[0]
        mean = [p.data for p in self.trained()] if self._is_sampled else []
        try:
            with rule.sampled_params(train=True) if self._is_sampled else nullcontext():
                yield
        except BaseException:
            for p, value in zip(self.trained(), mean, strict=False):
                p.data = value
            raise

    def _check_state(self) -> None:
        """Check, after the first step, that a checkpoint can hold the state.

        Raises:
            ValueError: If the class keeps objects other than tensors and plain values there.
        """
        if self._is_checked:
            return
        kept = [*self.state.values(), *({**group, "params": None} for group in self.param_groups)]
        odd = [f"{key} ({type(value).__name__})" for each in kept if isinstance(each, dict)
               for key, value in each.items() if not _is_plain(value)]  # fmt: skip
        if odd:
            raise ValueError(
                f"TorchOptimizer: name: {self.name} keeps {odd[0]} in its state, which a checkpoint cannot hold; take "
                "another class"
            )
        self._is_checked = True

    def state_bytes(self) -> int:
        """Return the size of the state in bytes, with what a class keeps in its groups."""
        grouped = [tensor for group in self.param_groups for tensor in tensors({**group, "params": None})]
        return super().state_bytes() + sum(tensor.numel() * tensor.element_size() for tensor in grouped)

    def settings(self) -> dict[str, Any]:
        """Return the class, whose state it is."""
        return {**super().settings(), "name": self.name}

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the plain attributes of the classes."""
        kept = [_attributes(rule) for rule in self._rules]
        return {**super().state_dict(), ATTRIBUTES: kept, STEPS: self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state bit for bit: torch would cast it to the type of the parameters.

        Raises:
            ValueError: If it was saved with another class, or does not fit.
        """
        saved = copy.deepcopy(dict(state_dict))
        attributes, self._steps = saved.pop(ATTRIBUTES, []), saved.pop(STEPS, 0)
        super().load_state_dict(saved)
        indices = [index for group in saved["param_groups"] for index in group["params"]]
        for index, p in zip(indices, list(self.trained()), strict=True):
            if index in saved["state"]:
                self.state[p] = to_device(saved["state"][index], p.device)
        device = next(self.trained()).device
        for group in self.param_groups:
            group.update({key: to_device(value, device) for key, value in group.items() if key not in ("params", "lr")})
        for rule, values in zip(self._rules, attributes, strict=False):
            known = _attributes(rule)
            vars(rule).update({key: to_device(value, device) for key, value in values.items() if key in known})
        self.stats = {}
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy keeps; torch would copy of the classes no attribute but groups and state."""
        left_out = torch_attributes()
        rules = [(type(rule), {k: v for k, v in vars(rule).items() if k not in left_out}) for rule in self._rules]
        return {**super().__getstate__(), "_rules": rules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore groups and state; of a copy, the classes as well."""
        super().__setstate__(state)
        if "_rules" in state:
            self._rules = [_rebuilt(cls, own) for cls, own in state["_rules"]]
        self._share()

    def _share(self) -> None:
        """Make the classes share the groups and the state of this object, which are saved."""
        start = 0
        for rule in self._rules:
            stop = start + len(rule.param_groups)
            alone = len(self._rules) == 1
            groups = self.param_groups if alone else self.param_groups[start:stop]
            rule.__setstate__({"state": self.state, "param_groups": groups})
            start = stop


def _build(name: str, cls: type, groups: list[dict[str, Any]], given: dict[str, Any]) -> torch.optim.Optimizer:
    """Return a class built over parameter groups.

    Raises:
        ValueError: Naming the argument that it refuses, found by giving it each alone.
    """
    try:
        return cls(groups, **given)
    except Exception as error:  # of another package, which may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        needed = dict.fromkeys(required_arguments(cls), 1.0)
        odd = next((key for key in given if _refuses(cls, {**needed, key: given[key]})), None)
        place = f"arguments.{odd}: {given[odd]!r}: " if odd else ""
        raise ValueError(f"TorchOptimizer: {place}{name}: {reason}") from error


def _refuses(cls: type, given: dict[str, Any]) -> bool:
    """Return whether a class refuses arguments, on parameters of its own."""
    groups, _ = arrange(cls, [nn.Parameter(torch.zeros(2, 4)), nn.Parameter(torch.zeros(4, 2))])
    try:
        cls(groups, **given)
    except Exception:  # see above
        return True
    return False


def _rebuilt(cls: type[torch.optim.Optimizer], own: dict[str, Any]) -> torch.optim.Optimizer:
    """Return an instance with these attributes."""
    rule = cls.__new__(cls)
    rule.__setstate__(own)
    return rule


def _attributes(rule: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the attributes of plain values and tensors that a class adds to torch's, such as a count of steps."""
    left_out = torch_attributes() | _KEPT_BY_TORCH
    return {key: value for key, value in vars(rule).items() if key not in left_out and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Return whether a value can be saved; a parameter cannot, for it is the model's."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value.keys(), *value.values())))
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter) and not value.requires_grad
    return value is None or type(value) in (bool, int, float, str, torch.dtype)
