"""Measurements: what they are built of, the folder that they leave, and the callbacks along a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filtune.datamodules import DigitsDataModule
from filtune.experiments.composition import compose
from filtune.experiments.keys import canonical_form, run_key
from filtune.experiments.measurements import GradientNorm, base, block_structure
from filtune.experiments.measurements.covariance_structure import coarse, dense_prior
from filtune.experiments.measurements.variance_bounds import bisect, bracket, reaches
from filtune.experiments.run_folder import read_run
from filtune.experiments.runs import MEASURED
from filtune.lightning_modules.backbones.weight_init import RULES, initialize_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

exponents = st.floats(-3, 3)


@given(boundary=exponents, good=exponents, bad=exponents, ratio=st.floats(1.01, 3))
def test_bisection_ends_next_to_the_boundary(boundary: float, good: float, bad: float, ratio: float) -> None:
    up = bad > good
    asked = []

    def holds(value: float) -> bool:
        asked.append(value)
        return (math.log10(value) < boundary) == up

    if (good < boundary) != up or (bad < boundary) == up or good == bad:
        return
    found = bisect(holds, 10**good, 10**bad, ratio)
    assert holds(found) or found == 10**good
    # beyond it by the ratio, and the rounding of the last root, it does not hold
    assert not holds(found * (ratio * (1 + 1e-9)) ** (1 if up else -1))
    assert len(asked) <= 3 + max(0, math.log2(max(1e-9, abs(bad - good) / math.log10(ratio))))


def test_bracket_goes_step_by_step() -> None:
    assert bracket(lambda p0: p0 < 50, 0.1, 10, 4) == (pytest.approx(10), pytest.approx(100))
    assert bracket(lambda p0: p0 > 0.02, 0.1, 0.1, 4) == (0.1, pytest.approx(0.01))
    assert bracket(lambda p0: True, 0.1, 10, 4) is None


@given(correct=st.lists(st.booleans(), min_size=1, max_size=30), needed=st.integers(1, 30))
def test_an_answer_is_given_as_soon_as_it_is_sure(correct: list[bool], needed: int) -> None:
    looked = []

    def watched() -> Iterator[bool]:
        for hit in correct:
            looked.append(hit)
            yield hit

    assert reaches(watched(), len(correct), needed) == (sum(correct) >= needed)
    unsure = looked[:-1]
    assert sum(unsure) < needed
    assert sum(unsure) + len(correct) - len(unsure) >= needed or not unsure


@st.composite
def partitions(draw: st.DrawFn) -> torch.Tensor:
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5).filter(lambda sizes: max(sizes) > 1))
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def covariance(n: int, seed: int) -> torch.Tensor:
    A = torch.randn(n, 2 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return A @ A.mT


@given(blocks=partitions(), seed=st.integers(0, 99))
def test_measures_know_the_extremes(blocks: torch.Tensor, seed: int) -> None:
    n, sizes = len(blocks), blocks.bincount().double()
    most = float(n * (n - 1) / (sizes * (sizes - 1)).sum())
    ones, P = torch.ones(n, n, dtype=torch.float64), covariance(n, seed)
    assert block_structure.outside(ones, blocks) == pytest.approx(float(1 - sizes.square().sum() / n**2), abs=1e-12)
    assert block_structure.concentration(ones, blocks) == pytest.approx(1, rel=1e-12)
    block_diagonal = P * (blocks.unsqueeze(0) == blocks.unsqueeze(1))
    assert block_structure.outside(block_diagonal, blocks) == 0
    assert block_structure.concentration(block_diagonal, blocks) == pytest.approx(most, rel=1e-12)
    assert block_structure.outside(torch.diag(P.diagonal())) == 0
    assert block_structure.outside(P) >= block_structure.outside(P, blocks) >= 0


@given(blocks=partitions(), seed=st.integers(0, 99))
def test_measures_depend_neither_on_order_nor_on_units(blocks: torch.Tensor, seed: int) -> None:
    P = covariance(len(blocks), seed)
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
    expected = block_structure.measures(P, {"blocks": blocks})
    permuted = block_structure.measures(P[order][:, order], {"blocks": blocks[order]})
    scale = torch.linspace(0.1, 3, len(blocks), dtype=torch.float64)
    rescaled = block_structure.measures(scale.unsqueeze(1) * P * scale, {"blocks": blocks})
    for name, value in expected.items():
        assert permuted[name] == pytest.approx(value, rel=1e-9, abs=1e-12)
        if "correlation" in name:
            assert rescaled[name] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_blocks_are_those_of_the_filters() -> None:
    layer = nn.Linear(3, 2)
    shapes = [param.shape for param in layer.parameters()]
    assert block_structure.block_labels(shapes, "tensor").tolist() == [0] * 6 + [1] * 2
    assert block_structure.block_labels(shapes, "neuron").tolist() == [0] * 3 + [1] * 3 + [2, 3]


@pytest.mark.parametrize("name", RULES)
def test_weights_start_as_named(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 200)
    initialize_weights(layer, name)
    variance = 2 / (400 + 200) if name.startswith("xavier") else 2 / 400
    # n = 80,000 draws: the relative deviation of a sample's variance is sqrt((kurtosis - 1) / n), 0.005 for normal
    assert float(layer.weight.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / 80_000))
    assert float(layer.weight.abs().max() / math.sqrt(variance)) == pytest.approx(
        math.sqrt(3) if name.endswith("uniform") else 4.5, rel=0.001 if name.endswith("uniform") else 0.15
    )
    assert not layer.bias.any()


def test_the_dense_prior_is_dense_and_positive_definite() -> None:
    torch.manual_seed(0)
    P = dense_prior(torch.full((200,), 0.1, dtype=torch.float64))
    assert torch.allclose(P.diagonal(), torch.full((200,), 0.1, dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(P).min()) >= 0.05 * (1 - 1e-12)
    # half the cosine of two random directions in 8 dimensions, of variance 1/8; 200 rows are far more than 8
    assert block_structure.measures(P, {})["rms_correlation"] == pytest.approx(0.5 / math.sqrt(8), rel=0.05)


DIGITS = {"data.max_samples": 12, "data.batch_size": 1}
MEASUREMENTS = "filtune.experiments.measurements"


def measured(name: str, folder: Path, parts: list[str], **options: Any) -> dict[str, list[float]]:
    """Make a measurement on twelve digits in this process; the values of its scalars by name, from its folder."""
    given = {f"measurement.{key}": value for key, value in options.items()}
    config = compose(["task/digits", *parts], {**DIGITS, "measurement.class_path": f"{MEASUREMENTS}.{name}"}, given)
    folder.mkdir()
    base.run_measurement(config, 3, folder)
    found = read_run(folder)
    assert found.summary["finished"]
    assert found.summary["data_fingerprint"]
    assert found.config["seed_everything"] == 3
    return {tag.removeprefix(MEASURED): values for tag, (_, values) in found.curves.items()}


def test_the_bounds_of_the_theorem_are_measured(tmp_path: Path) -> None:
    options = {"width": 32, "steps": 3, "draws": 2, "climbs": 2, "rhos": [0.0, 0.01]}
    found = measured("TheoremBounds", tmp_path / "a", [], **options)
    for rho in ("0", "0.01"):
        assert len(found[f"error_rho_{rho}"]) == len(found[f"paper_rho_{rho}"]) + 1
        assert all(
            e <= b * (1 + 1e-6) for e, b in zip(found[f"error_rho_{rho}"][1:], found[f"known_rho_{rho}"], strict=True)
        )
    assert found["held_known"] == [100.0]
    assert found["C_drawn"] <= found["C_certain"]
    assert measured("TheoremBounds", tmp_path / "b", [], **options) == found


def test_the_network_of_the_theorem_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, setup = [], DigitsDataModule.setup
    monkeypatch.setattr(DigitsDataModule, "setup", lambda self, stage: built.append(stage) or setup(self, stage))
    (error,) = measured("TwoLayerFit", tmp_path / "a", ["optimizer/adamw_1e-3"], width=16, steps=4).values()
    assert len(error) == 5
    assert error[-1] < error[0]
    assert built == ["fit"]  # its data is read once


def test_the_bounds_of_the_initial_variance_are_measured(tmp_path: Path) -> None:
    parts = ["backbone/lenet5", "optimizer/loko"]
    found = measured("VarianceBounds", tmp_path / "a", parts, grid=[0.1, 1.0], decades=1, threshold=0.1, ratio=9.0)
    assert found["tries"][0] >= 2
    assert set(found) <= {"p0_min", "p0_max", "tries"}
    # of none correct nothing is known of a bound
    assert set(measured("VarianceBounds", tmp_path / "b", parts, grid=[1e-9], threshold=1.0)) == {"tries"}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("VarianceBounds", {"grid": []}, "VarianceBounds needs a grid of positive values"),
        ("VarianceBounds", {"ratio": 1.0}, "ratio > 1"),
        ("TheoremBounds", {"width": 0}, "width, steps, draws and climbs must be at least 1"),
        ("TwoLayerFit", {"widht": 3}, "measurement: .*widht.*; correct its options"),
        ("Theorem", {}, "measurement.class_path: filtune.experiments.measurements.Theorem is not a class"),
        ("GradientNorm", {}, "GradientNorm is not a class of filtune.experiments.measurements"),
    ],
)
def test_a_wrong_option_of_a_measurement_is_reported(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        base.build({"measurement": {"class_path": f"{MEASUREMENTS}.{name}", "init_args": options}})


def test_the_key_of_a_measurement_has_its_options_but_no_defaults() -> None:
    path = {"measurement.class_path": f"{MEASUREMENTS}.TheoremBounds"}
    plain, written = compose([], path), compose([], path, {"measurement.width": 4096})
    assert canonical_form(plain) == {"measurement": {"class_path": "filtune.TheoremBounds"}}
    assert run_key(plain, 0) == run_key(written, 0)
    assert run_key(plain, 0) != run_key(compose([], path, {"measurement.width": 64}), 0)


def test_a_map_is_the_mean_of_patches() -> None:
    assert coarse(torch.tensor([[1.0, -3, 5], [1, 3, 5], [7, 7, 9]]), 2) == [[2.0, 5.0], [7.0, 9.0]]


class Model:
    """A linear model with the face of the Lightning module, of which :class:`GradientNorm` needs little."""

    device = torch.device("cpu")

    def __init__(self, optimal: float) -> None:
        self.backbone = nn.Linear(1, 1, bias=False)
        self.backbone.weight.data.fill_(optimal)
        self.backbone.preprocess = lambda batch: batch["image"]

    def observe(self, inputs: torch.Tensor, label: torch.Tensor) -> Any:
        return SimpleNamespace(nll=lambda: 0.5 * (self.backbone(inputs)[:, 0] - label).square().mean())


def test_the_gradient_is_that_of_the_mean_of_all_probed_samples_and_its_average_survives_a_resume() -> None:
    samples = [{"image": torch.tensor([float(x)]), "label": torch.tensor(2.0 * x)} for x in (1, 2, 3, 9)]
    part, logged = SimpleNamespace(samples=samples, rows=[0, 1, 2, 3]), []
    logger = SimpleNamespace(log_metrics=lambda found, step: logged.append((step, found)))
    data = SimpleNamespace(part=part, validation=None)
    trainer: Any = SimpleNamespace(datamodule=data, loggers=[logger], global_step=0, estimated_stepping_batches=5)
    probe = GradientNorm(points=2, samples=3, chunk=2)
    model: Any = Model(0.0)
    probe.on_train_start(trainer, model)
    mean_square = (1 + 4 + 9) / 3
    assert logged[0][1]["measured/gradient_norm"] == pytest.approx(2 * mean_square)  # (w - 2) E x^2
    assert model.backbone.weight.grad is None
    resumed = GradientNorm(points=2, samples=3, chunk=3)
    resumed.load_state_dict(probe.state_dict())
    model.backbone.weight.data.fill_(1.0)
    for step in range(1, 6):
        trainer.global_step = step
        resumed.on_train_batch_end(trainer, model)
    assert [step for step, _ in logged] == [0, 2, 4, 5]
    assert logged[-1][1]["measured/gradient_norm"] == pytest.approx(mean_square)
    assert logged[-1][1]["measured/average_gradient_norm"] == pytest.approx((2 + 3 * 1) / 4 * mean_square)
    with pytest.raises(ValueError, match="GradientNorm: points must be at least 1"):
        GradientNorm(points=0)
