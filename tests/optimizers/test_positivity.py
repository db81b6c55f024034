"""The variance stays positive and the state finite, whatever the scales, and bad numbers leave no trace."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from filtune.optimizers import Categorical, Gaussian, LoKO
from filtune.optimizers.kalman.state import FILTER
from torch import Tensor, nn

from tests.conftest import EXAMPLES
from tests.optimizers.models import FEATURES, drive, labels, mlp
from tests.optimizers.reference import flat

CASES, STEPS = 4 * EXAMPLES, 4


class Affine(nn.Module):
    """Outputs base + x V theta with only theta trained: a state of any size, smaller than d too."""

    def __init__(self, n: int, m: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(n, generator=generator))
        self.register_buffer("V", scale * torch.randn(FEATURES, m, n, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bf,fmn,n->bm", x, self.V, self.theta)


@dataclass
class Draw:
    """A random case: everything between calm and absurd."""

    seed: int

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=g))

        def one_of(*options: object) -> object:
            return options[int(torch.randint(len(options), (), generator=g))]

        self.m, self.B, self.n = (int(one_of(*options)) for options in ((2, 3, 5, 12), (1, 2, 4), (1, 2, 30)))
        self.scale, self.p0 = 10 ** uniform(-6, 6), 10 ** uniform(-6, 1)
        self.dtype, self.noise = one_of("float32", "float64"), one_of("ema-1", "ema-2")
        self.observation, self.beta = one_of("probabilities", "probabilities", "logits"), one_of(0.0, 0.5, 0.95, 0.999)
        self.decayed = one_of(False, False, True)
        self.one_label = one_of(False, True)
        self.model = Affine(self.n, self.m, self.scale, g).to(
            torch.float64 if self.dtype == "float64" else torch.float32
        )
        self.stream = [
            (x.to(self.model.theta.dtype), y * 0 if self.one_label else y)
            for x, y in labels(STEPS, self.B, self.m, self.seed)
        ]

    def optimizer(self) -> LoKO:
        """LoKO for this case, its noise decayed to denormal numbers where the case says so."""
        options = {"noise": self.noise, "observation": self.observation, "beta": self.beta}
        optimizer = LoKO(self.model.parameters(), p0=self.p0, dtype=self.dtype, **options)
        if self.decayed:
            d = {"probabilities": self.m - 1, "logits": self.m if self.m > 2 else 1}[self.observation]
            tiny = torch.finfo(optimizer.dtype).tiny * 2**-20
            optimizer.state[FILTER]["R"] = tiny * torch.eye(d, dtype=optimizer.dtype)
        return optimizer


def test_random_cases_stay_positive_and_finite() -> None:
    for seed in range(CASES):
        case = Draw(seed)
        optimizer = case.optimizer()
        prior = optimizer.variance()[0].clone()
        drive(optimizer, case.model, Categorical, case.stream)
        p = optimizer.variance()[0]
        assert bool((p > 0).all() & p.isfinite().all() & (p <= prior).all()), case
        assert bool(case.model.theta.isfinite().all()), case
        assert int(optimizer.stats["nonfinite_steps"]) == 0, case


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("observation", ["probabilities", "logits"])
@pytest.mark.parametrize("B", [1, 3])
def test_the_clamp_never_fires_where_the_noise_is_not_dwarfed(dtype: str, observation: str, B: int) -> None:
    """Well-posed: p_i h'R^-1h <= 1e4, so that 1 - p_i h'S^-1h >= 1e-4 is far above the rounding of S^-1."""
    for seed in range(3):
        model = mlp(4, seed).to(torch.float64 if dtype == "float64" else torch.float32)
        optimizer = LoKO(model.parameters(), p0=1.0, observation=observation, dtype=dtype).attach(model)
        stream = [(x.to(model[0].weight.dtype), y) for x, y in labels(20, B, 4, seed)]
        drive(optimizer, model, Categorical, stream)
        R = optimizer.state[FILTER]["R"].double()
        assert float(optimizer.stats["variance_min"]) / float(torch.linalg.eigvalsh(R)[0]) < 1e4
        assert int(optimizer.stats["clamped"]) == 0
        assert int(optimizer.stats["nonfinite_steps"]) == 0


def test_overflow_within_the_step_changes_nothing_either() -> None:
    """Finite outputs whose squares are not: ee' overflows float32."""
    model = nn.Linear(FEATURES, 2)
    optimizer = LoKO(model.parameters())
    before = flat(model)
    drive(optimizer, model, Gaussian, [(torch.ones(1, FEATURES), torch.full((1, 2), 1e30))])
    assert int(optimizer.stats["nonfinite_steps"]) == 1
    assert torch.equal(flat(model), before)
    assert torch.equal(optimizer.state[FILTER]["R"], torch.eye(2))
