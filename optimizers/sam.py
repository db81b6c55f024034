"""Sharpness-aware minimization (Foret et al., 2020): the gradient at the worst point of a small neighbourhood."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import SETTINGS, Closure, FirstOrder, OnlineOptimizer, unhooked_step
from .likelihoods.base import Observation
from .parts import default_arguments
from .ranges import FIRST_ORDER, NOT_NEGATIVE, check_ranges

RANGES = {**FIRST_ORDER, "rho": NOT_NEGATIVE}
"""Ranges of the options."""


def base_rules() -> dict[str, type[FirstOrder]]:
    """Return the rules that SAM can be put around: torch's own, as :class:`FirstOrder` drives them, in lower case."""
    return {cls.__name__.lower(): cls for cls in sorted(FirstOrder.__subclasses__(), key=lambda cls: cls.__name__)}


class SAM(OnlineOptimizer):
    r"""Sharpness-aware minimization around SGD, AdamW or AdaGrad.

    .. math::
        \hat\epsilon = \rho\, \frac{\nabla L(\theta)}{|\nabla L(\theta)|}, \quad
        g = \nabla L(\theta + \hat\epsilon), \quad \theta \leftarrow \text{base}(\theta, g)

    The base rule takes the gradient at the worst point of a neighbourhood, to first order. The norm |.| is over the
    parameters of all groups. The closure is called twice. A gradient that is not finite is counted in
    ``stats["nonfinite_steps"]`` and replaced by zero.

    Source: Foret et al. (2020), [arXiv:2010.01412](https://arxiv.org/abs/2010.01412), equations 2 and 3 with p = 2.

    Args:
        params: Parameters or parameter groups, each of which may have its own ``rho`` and options of the base rule.
        base: Rule that takes the step, a first-order one of filtune in lower case: ``sgd``, ``adamw`` or ``adagrad``.
        lr: Learning rate of the base rule, zero or positive.
        rho: Radius of the neighbourhood, in the unit of the parameters, zero or positive; 0 gives the base rule.
        momentum: Momentum of ``sgd``, in [0, 1); the other rules have none.
        betas: Decay of the averages of the gradient and of its square, of ``adamw``, each in [0, 1).
        eps: Term that is added to the denominator, of ``adamw`` and ``adagrad``.
        weight_decay: L2 penalty of ``sgd`` and ``adagrad``, decoupled weight decay of ``adamw``; zero or positive.

    Raises:
        ValueError: If an argument is out of range, or the base rule is unknown.

    Examples:
        The gradient of (theta - 2)^2 / 2 at theta = 0 - 0.5 is -2.5, where it is -2 at theta itself.

        >>> import torch
        >>> from filtune import SAM, Gaussian
        >>> theta = torch.zeros(1, 1, requires_grad=True)
        >>> optimizer = SAM([theta], lr=0.1, rho=0.5)
        >>> seen = optimizer.step(lambda: Gaussian(theta).observe(torch.tensor([2.0])))
        >>> round(theta.item(), 6)
        0.25
    """

    relative_cost: ClassVar[float] = 2.0  # two passes

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        base: str = "sgd",
        lr: float = 1e-2,
        rho: float = 0.05,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        rules = base_rules()
        if base not in rules:
            raise ValueError(f"SAM: base must be one of {', '.join(rules)}; got {base!r}")
        options = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        check_ranges("SAM", {**options, "rho": rho}, RANGES)
        known, own = default_arguments(rules[base]), default_arguments(type(self))
        for name, value in options.items():
            if name not in known and value not in (own[name], 0):
                raise ValueError(f"SAM: {name} is no option of base {base}; got {name} {value!r}")
        # the class of torch itself, which takes no closure here
        classes = (cls for cls in rules[base].__mro__ if issubclass(cls, torch.optim.Optimizer))
        rule = next(cls for cls in classes if not issubclass(cls, OnlineOptimizer))
        self._base: torch.optim.Optimizer = rule(params, **{k: v for k, v in options.items() if k in known})  # type: ignore
        super().__init__(self._base.param_groups, {**self._base.defaults, "rho": rho})
        self.state.update(self._base.state)
        for group in self.param_groups:
            check_ranges("SAM", group, RANGES)
        self.stats = {}
        self._share()

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Take one step and return the observation made before it, at the parameters themselves."""
        observation, norm = self.differentiate(closure)
        theta = [p.clone() for p in self.trained()]
        try:
            self._ascend(norm)
            torch.clear_autocast_cache()  # it holds the parameters of the first pass
            perturbed, perturbed_norm = self.differentiate(closure)
        finally:
            for p, value in zip(self.trained(), theta, strict=True):
                p.copy_(value)
        torch.clear_autocast_cache()
        finite = (norm + perturbed_norm).isfinite()
        for p in self.trained():
            if p.grad is not None:
                p.grad = torch.where(finite, p.grad, 0)
        unhooked_step(self._base.step)()
        sharpness = perturbed.nll() - observation.nll()
        self.stats = {"grad_norm": norm, "sharpness": sharpness, "nonfinite_steps": self.count(~finite)}
        self.follow(observation, finite)
        return observation

    def _ascend(self, norm: Tensor) -> None:
        """Add rho g / |g| to the parameters, or nothing where g is zero."""
        length = norm.clamp_min(torch.finfo(norm.dtype).tiny)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad / length, alpha=group["rho"])

    def _share(self) -> None:
        """Make the base rule share the groups and the state of this object, which are saved."""
        self._base.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def settings(self) -> dict[str, Any]:
        """Return the base rule, whose state it is."""
        return {**super().settings(), "base": type(self._base).__name__.lower()}

    def check_settings(self, state_dict: dict[str, Any]) -> None:
        """Check the base rule, which the groups of a state of an earlier release show.

        Raises:
            ValueError: If the state is that of another rule.
        """
        super().check_settings(state_dict)
        base = type(self._base).__name__.lower()
        bases = [set(default_arguments(cls)) for cls in base_rules().values()]
        telling = {
            name for each in bases for name in each if not all(name in other for other in bases)
        }  # a schedule adds keys of its own to the groups
        differ = telling & (set(state_dict["param_groups"][0]) ^ set(self.param_groups[0]))
        if differ and SETTINGS not in state_dict:
            raise ValueError(
                f"SAM: the checkpoint was saved with another base than {base}: only one has {min(differ)}; set "
                "optimizer.base to the checkpoint's"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore groups and state, the base rule's as well; a loaded state, unlike a copy, restarts the counters."""
        super().__setstate__(state)
        if "_base" not in state:
            self.stats = {}
            self.memory().clear()
        self._share()
