"""A covariance or a noise is one class: found by its name, with options of its own, trained, saved and restored."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.optimizers import EKF, Categorical, Filtune, LoKO, RKalman
from filtune.optimizers.kalman.blocks import BlockJacobian, Gain
from filtune.optimizers.kalman.covariance import Correction, Covariance
from filtune.optimizers.kalman.noise import ObservationNoise
from filtune.optimizers.kalman.update import MeasurementUpdate
from filtune.optimizers.parts import State
from torch import Tensor

from tests.optimizers.models import drive, labels, mlp, variances
from tests.optimizers.reference import flat


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds is gone after it."""
    for family in (Covariance, ObservationNoise):
        monkeypatch.setattr(family, "registry", dict(family.registry))


def define_isotropic() -> None:
    """A file with a covariance: P = p I, p the mean of a diagonal filter's variances, never below ``least``."""

    class Isotropic(Covariance):
        """One variance for all parameters."""

        name = "isotropic"

        def __init__(self, shapes: list[torch.Size], *, least: float = 0.0) -> None:
            super().__init__(shapes)
            if least < 0:
                raise ValueError(f"least must be zero or positive; got {least}")
            self.least = least

        def names(self) -> list[str]:
            return ["p"]

        def elements(self) -> int:
            return 1

        def start(self, prior: Tensor) -> State:
            return {"p": prior.mean()}

        def predict(self, state: State, q: float) -> State:
            return {"p": state["p"] + q}

        def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, None]:
            return H.gram(state["p"].expand(self.n)), None

        def correct(
            self, state: State, H: BlockJacobian, projected: None, gain: Gain, batch: MeasurementUpdate
        ) -> Correction:
            delta, reduction = H.update(state["p"].expand(self.n), gain)
            p = (state["p"] - reduction.mean()).clamp_min(self.least)
            return Correction(delta, {"p": p}, torch.zeros((), dtype=torch.int64))

        def variance(self, state: State) -> Tensor:
            return state["p"].expand(self.n)


def define_counting() -> None:
    """A file with a noise that remembers something under a name of its own: R = r0 I / (number of steps)^power."""

    class Counting(ObservationNoise):
        """Noise that falls with the number of steps."""

        name = "counting"

        def __init__(self, *, r0: float = 1.0, power: float = 1.0) -> None:
            self.r0, self.power = r0, power

        def start(self, d: int, like: Tensor) -> State:
            return {"taken": like.new_zeros(())}

        def update(self, state: State, e: Tensor, HPH: Tensor) -> tuple[Tensor, State]:
            taken = state["taken"] + 1
            identity = torch.eye(e.shape[1], dtype=e.dtype)
            return self.r0 * taken**-self.power * identity, {"taken": taken}


OPTIONS: list[dict[str, Any]] = [
    {"covariance": "isotropic", "noise": "counting"},
    {"covariance": {"name": "isotropic", "least": 0.01}, "noise": {"name": "counting", "power": 0.5}, "r0": 0.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["names", "mappings"])
def test_a_covariance_and_a_noise_of_ones_own_are_trained_and_restored(options: dict[str, Any]) -> None:
    define_isotropic()
    define_counting()
    model, stream = mlp(3), labels(10, 2, 3)
    optimizer = EKF(model.parameters(), process_noise=1e-4, dtype="float64", **options)
    before = flat(model)
    drive(optimizer, model, Categorical, stream[:5])
    assert not torch.equal(flat(model), before)
    assert float(optimizer.stats["variance_min"]) == float(variances(optimizer)[0]) < 0.1005
    assert float(optimizer.filter["taken"]) == 5
    twin = copy.deepcopy(model)
    restored = EKF(twin.parameters(), process_noise=1e-4, dtype="float64", **options)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((optimizer, model), (restored, twin)):
        drive(each, its, Categorical, stream[5:])
    assert torch.equal(flat(model), flat(twin))
    assert torch.equal(variances(optimizer), variances(restored))
    assert float(restored.filter["taken"]) == 10


def test_a_part_checks_its_own_options() -> None:
    define_isotropic()
    with pytest.raises(ValueError, match=r"^EKF: least must be zero or positive; got -1"):
        EKF(mlp(2).parameters(), {"name": "isotropic", "least": -1})


def test_two_parts_cannot_have_one_name() -> None:
    with pytest.raises(TypeError, match="covariance diagonal is Diagonal already"):
        type("Other", (Covariance,), {"name": "diagonal"})


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (EKF, {"covariance": "full", "rank": 4}, "rank is an option of covariance low_rank, and covariance is full"),
        (EKF, {"covariance": "diagonal", "buffer_size": 4}, "buffer_size is an option of covariance low_rank"),
        (EKF, {"covariance": {"name": "full", "rank": 4}}, "covariance full has no option rank; its options: none"),
        (EKF, {"covariance": {"name": "low_rank", "rank": 4}, "rank": 5}, "rank is given twice: 4 and 5"),
        (EKF, {"covariance": {"rank": 4}}, "covariance must be one of full, .*; got None"),
        (EKF, {"covariance": "low-rank"}, "covariance must be one of .*low_rank.*; got 'low-rank'"),
        (LoKO, {"noise": "identity", "beta": 0.5}, "beta is an option of noise ema-1, .*, and noise is identity"),
        (LoKO, {"noise": "softmax", "r0": 0.5}, "r0 is an option of noise .*, and noise is softmax"),
        (LoKO, {"update": "posterior_mode", "noise": "softmax"}, "update posterior_mode has no option noise"),
        (LoKO, {"update": "posterior_mode", "beta": 0.5}, "beta is an option of noise .*, and noise is none"),
        (LoKO, {"rank_tolerance": 0.1}, "rank_tolerance needs noise softmax"),
        (RKalman, {"update": "posterior_mode"}, "update posterior_mode has no option rho; got 0.0001"),
        (RKalman, {"noise": "softmax", "observation": "logits"}, ".* set observation probabilities"),
        (Filtune, {"rank": 0}, "rank must be at least 1, .*; got 0"),
        (Filtune, {"rows_per_sample": -1}, "rows_per_sample must be zero or positive, .*; got -1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else getattr(value, "__name__", str(value)),
)
def test_an_option_of_another_part_is_refused_in_one_line(rule: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{rule.__name__}: {message}") as error:
        rule(mlp(2).parameters(), **options)
    assert "\n" not in str(error.value)


def test_an_option_at_its_default_is_ignored_by_other_parts() -> None:
    EKF(mlp(2).parameters(), "full", rank=10, buffer_size=0, rows_per_sample=0, noise="identity", beta=0.95)
