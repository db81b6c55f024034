"""Sophia-G (Liu et al., 2023, arXiv 2305.14342): a clipped step preconditioned by a diagonal of the Fisher matrix."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Closure, OnlineOptimizer, observe
from .distributed import Ranks
from .likelihoods.base import Observation
from .ranges import COUNT, FIRST_ORDER, POSITIVE, check_ranges

SOPHIA = "sophia"
"""Key of the step counter in the state."""


RANGES = {**FIRST_ORDER, "gamma": POSITIVE, "eps": POSITIVE, "hessian_every": COUNT}
"""Ranges of the options."""


class Sophia(OnlineOptimizer):
    r"""Clipped steps over a diagonal Gauss-Newton estimate.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        h &\leftarrow \beta_2 h + (1 - \beta_2)\, B\, \hat g \odot \hat g \quad \text{every k-th step} \\
        \theta &\leftarrow \theta - \alpha \lambda \theta \\
        \theta &\leftarrow \theta - \alpha\, \mathrm{clip}(m / \max(\gamma h, \epsilon), 1)

    This is Sophia-G, with the Gauss-Newton-Bartlett estimator. g is the gradient of the mean negative log-likelihood of
    the B samples, and g-hat the one at labels drawn from the model, from the same graph. A gradient that is not finite
    is counted in ``stats["nonfinite_steps"]`` and replaced by zero.

    Source: Liu et al. (2023), [arXiv:2305.14342](https://arxiv.org/abs/2305.14342), Algorithm 3 with the estimator of
    Algorithm 2.

    Args:
        params: Parameters or parameter groups, each of which may have its own options except ``hessian_every``.
        lr: Learning rate alpha, zero or positive; it bounds the step of every entry, weight decay aside.
        betas: Decay of the averages of the gradient and of its square, beta_1 and beta_2, each in [0, 1); the defaults
            are those of GRNG, Table 5.
        gamma: Scale of h, positive; the larger it is, the fewer entries are clipped.
        eps: Lower bound epsilon of the denominator, positive.
        weight_decay: Decoupled weight decay lambda, zero or positive; GRNG states none.
        hessian_every: Number of steps from one estimate of h to the next, k; the first step includes one.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        No entry moves by more than the learning rate.

        >>> import torch
        >>> from filtune import Categorical, Sophia
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(2, 3)
        >>> before = model.weight.detach().clone()
        >>> optimizer = Sophia(model.parameters(), lr=0.01)
        >>> seen = optimizer.step(lambda: Categorical(model(torch.ones(1, 2))).observe(torch.tensor([1])))
        >>> bool((model.weight - before).abs().max() < 0.0101)
        True
    """

    relative_cost: ClassVar[float] = 1.1  # measured on transformers on a CPU in batches

    def __init__(
        self,
        params: torch.optim.optimizer.ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.965, 0.98),
        gamma: float = 0.05,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        hessian_every: int = 10,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay}
        check_ranges("Sophia", {**defaults, "hessian_every": hessian_every}, RANGES)
        super().__init__(params, defaults)
        for group in self.param_groups:
            check_ranges("Sophia", group, RANGES)
        self.hessian_every = hessian_every
        self.state[SOPHIA] = {"steps": 0}  # type: ignore[index]
        self.stats = {}

    def step_kind(self) -> Hashable:
        """Return None where the Hessian is estimated, for which labels are drawn."""
        return None if self.state[SOPHIA]["steps"] % self.hessian_every == 0 else ()  # type: ignore[index]

    @torch.no_grad()
    def step(self, closure: Closure) -> Observation:  # type: ignore[override]
        """Take one step and return the observation made before it."""
        steps, ranks = self.state[SOPHIA]["steps"], Ranks.current()  # type: ignore[index]
        refresh = steps % self.hessian_every == 0
        with torch.enable_grad():
            observation = observe(closure)
            loss = observation.nll()
        joint, sizes = ranks.join(observation)
        g, norm = self._gradient(loss, sizes, retain_graph=refresh)
        finite = norm.isfinite()
        if refresh:
            with torch.enable_grad():
                sampled = observation.likelihood.nll(joint.likelihood.sample()[ranks.own(sizes)])
            g_hat, norm_hat = self._gradient(sampled, sizes)
            finite = finite & norm_hat.isfinite()
            self._estimate(g_hat, sum(sizes))
        u = self._move(g)
        clipped = torch.cat([part.flatten() for part in u]).abs() >= 1
        self.state[SOPHIA] = {"steps": steps + 1}  # type: ignore[index]
        self.follow(joint, finite)
        hessian = torch.nn.utils.get_total_norm([self.state[p]["h"] for p in self.trained()])
        figures = {"grad_norm": norm, "hessian_norm": hessian, "clipped": clipped.float().mean()}
        self.stats = {**figures, "nonfinite_steps": self.count(~finite)}
        return joint

    def settings(self) -> dict[str, Any]:
        """Return the name and the period of the Hessian."""
        return {**super().settings(), "hessian_every": self.hessian_every}

    def _gradient(self, loss: Tensor, sizes: list[int], retain_graph: bool = False) -> tuple[list[Tensor], Tensor]:
        """Return the gradient of the mean loss over all ranks' samples, zero if it is not finite, and its norm."""
        params = list(self.trained())
        parts = torch.autograd.grad(loss, params, retain_graph=retain_graph, materialize_grads=True)
        g = [part.contiguous() for part in parts]  # they may be views of each other, or expanded
        Ranks.current().average(g, sizes)
        norm = torch.nn.utils.get_total_norm(g)
        return [torch.where(norm.isfinite(), part, 0) for part in g], norm

    def _estimate(self, g_hat: list[Tensor], B: int) -> None:
        """Update h <- beta_2 h + (1 - beta_2) B g_hat^2 (Algorithm 2)."""
        for group, own in self._groups(g_hat):
            beta, h = group["betas"][1], self._state(group, "h")
            torch._foreach_mul_(h, beta)
            torch._foreach_addcmul_(h, own, own, value=(1 - beta) * B)

    def _move(self, g: list[Tensor]) -> list[Tensor]:
        """Update m and the parameters (Algorithm 3), and return the clipped ratios."""
        moved: list[Tensor] = []
        for group, own in self._groups(g):
            beta, lr, m = group["betas"][0], group["lr"], self._state(group, "m")
            torch._foreach_mul_(m, beta)
            torch._foreach_add_(m, own, alpha=1 - beta)
            denominator = torch._foreach_mul(self._state(group, "h"), group["gamma"])
            torch._foreach_clamp_min_(denominator, group["eps"])
            u = torch._foreach_div(m, denominator)
            torch._foreach_clamp_max_(u, 1.0)
            torch._foreach_clamp_min_(u, -1.0)
            torch._foreach_mul_(group["params"], 1 - lr * group["weight_decay"])
            torch._foreach_add_(group["params"], u, alpha=-lr)
            moved += u
        return moved

    def _groups(self, parts: list[Tensor]) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
        """Yield every group with its share of these tensors, one per parameter."""
        each = iter(parts)
        for group in self.param_groups:
            yield group, list(islice(each, len(group["params"])))

    def _state(self, group: dict[str, Any], name: str) -> list[Tensor]:
        """Return m or h of a group's parameters, zero at first."""
        for p in group["params"]:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in group["params"]]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore m, h and the position in the period of the Hessian, and reset the counter.

        Raises:
            ValueError: If it was saved by another optimizer.
        """
        if SOPHIA not in state_dict["state"]:
            raise ValueError("Sophia: the checkpoint holds no state of Sophia; it is another optimizer's")
        super().load_state_dict(copy.deepcopy(state_dict))
        self.stats = {}
