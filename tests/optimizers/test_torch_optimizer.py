"""TorchOptimizer drives classes of torch and other packages as these prescribe, and refuses the others in one line."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filtune.optimizers import AdamW, Categorical, TorchOptimizer
from filtune.optimizers.distributed import Ranks
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from tests.optimizers.processes import together

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "optimizer"
M = 3


def options(stem: str) -> dict[str, Any]:
    """The arguments of a configuration."""
    return yaml.safe_load((FOLDER / f"{stem}.yaml").read_text())["optimizer"]["init_args"]


CONFIGS = [path.stem for path in sorted(FOLDER.glob("*.yaml")) if "filtune.TorchOptimizer" in path.read_text()]
"""The configurations that name a class."""


class Net(nn.Module):
    """A convolution, a pair of LoRA matrices A (2, 12) and B (12, 2), and a head; float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 3, 2), nn.Linear(12, M)
        self.a, self.b = nn.Parameter(0.3 * torch.randn(2, 12)), nn.Parameter(torch.zeros(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, 3) of images (B, 1, 3, 3)."""
        x = torch.tanh(self.conv(x)).flatten(1)
        return self.head(x + x @ self.a.T @ self.b.T)


def samples(steps: range, B: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """Random images with random labels, with all else that is drawn in a step from its number."""
    for k in steps:
        generator = torch.Generator().manual_seed(k)
        batch = torch.randn(B, 1, 3, 3, generator=generator), torch.randint(M, (B,), generator=generator)
        torch.manual_seed(k)
        yield batch


def learn(optimizer: Any, model: nn.Module, steps: range, own: slice = slice(None), B: int = 2) -> list[Tensor]:
    """Take steps and return the outputs of the predictions."""
    found = []
    for x, y in samples(steps, B):
        x = x.to(next(model.parameters()))
        seen = optimizer.step(lambda x=x[own], y=y[own]: Categorical(model(x)).observe(y))
        found.append(seen.outputs.detach())
    return found


def built(stem: str) -> tuple[nn.Module, TorchOptimizer]:
    """A model, and the optimizer of a configuration over it."""
    given = options(stem)
    pytest.importorskip(given["name"].partition(".")[0])
    model = Net()
    return model, TorchOptimizer(model.parameters(), **given)


def through_a_file(tree: Any) -> Any:
    """What is read of a checkpoint."""
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stem", CONFIGS)
def test_a_resumed_run_and_a_copy_go_on_to_the_bit(stem: str) -> None:
    """Past the steps at which SOAP rotates its basis; parameters have moved in every tensor."""
    model, optimizer = built(stem)
    start = copy.deepcopy(model)
    learn(optimizer, model, range(12))
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), start.parameters(), strict=True))
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    resumed, second = built(stem)
    resumed.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    twin, third = copy.deepcopy((model, optimizer))
    ends = [
        (learn(rule, net, range(12, 26)), parameters_to_vector(net.parameters()), rule.recent())
        for net, rule in ((model, optimizer), (resumed, second), (twin, third))
    ]
    for outputs, theta, recent in ends[1:]:
        assert torch.equal(theta, ends[0][1])
        assert all(torch.equal(a, b) for a, b in zip(outputs, ends[0][0], strict=True))
        assert recent == ends[0][2] is not None
    assert optimizer.state_bytes() > 0


def test_a_class_that_draws_from_another_generator_resumes_too() -> None:
    """Kron draws from NumPy's, which then goes on as if nothing had been drawn."""
    pytest.importorskip("pytorch_optimizer")
    arguments = {"lr": 0.01, "balance_prob": 0.5}
    model = Net()
    optimizer = TorchOptimizer(model.parameters(), "pytorch_optimizer.Kron", arguments)
    before = np.random.get_state()[1].copy()
    learn(optimizer, model, range(10))
    assert (np.random.get_state()[1] == before).all()
    twin, second = copy.deepcopy((model, optimizer))
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    other = Net()
    other.load_state_dict(saved["model"])
    third = TorchOptimizer(other.parameters(), "pytorch_optimizer.Kron", arguments)
    third.load_state_dict(saved["optimizer"])
    for rule, net in ((optimizer, model), (second, twin), (third, other)):
        np.random.seed(id(net) % 2**32)
        learn(rule, net, range(10, 60))
    assert torch.equal(parameters_to_vector(model.parameters()), parameters_to_vector(twin.parameters()))
    assert torch.equal(parameters_to_vector(model.parameters()), parameters_to_vector(other.parameters()))


@pytest.mark.parametrize("stem", CONFIGS)
def test_a_gradient_that_is_not_finite_is_counted_and_leaves_the_parameters_finite(stem: str) -> None:
    model, optimizer = built(stem)
    learn(optimizer, model, range(3))
    optimizer.step(lambda: Categorical(model(torch.full((1, 1, 3, 3), torch.nan))).observe(torch.tensor([0])))
    learn(optimizer, model, range(3, 12))
    assert int(optimizer.stats["nonfinite_steps"]) == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert "1 non-finite gradients" in (optimizer.check_divergence() or "")


def test_a_class_of_torch_is_the_rule_that_filtune_has_of_it() -> None:
    """AdamW, to the bit, with a group that has options of its own and a schedule of the learning rate."""
    ends = []
    for build in (
        lambda groups: AdamW(groups, lr=0.01, weight_decay=0.1),
        lambda groups: TorchOptimizer(groups, "torch.optim.AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ):
        model = Net()
        optimizer = build([{"params": [model.a, model.b], "lr": 0.05}, {"params": model.head.parameters()}])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for k in range(6):
            learn(optimizer, model, range(k, k + 1))
            schedule.step()
        ends.append(parameters_to_vector(model.parameters()))
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["SOAP", "Prodigy"])
def test_a_class_of_the_package_moves_as_in_a_loop_of_its_own(name: str) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    model, other = Net(), Net()
    rule = getattr(package, name)(other.parameters(), lr=0.01)
    learn(TorchOptimizer(model.parameters(), f"pytorch_optimizer.{name}", {"lr": 0.01}), model, range(15))
    for x, y in samples(range(15)):
        rule.zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        rule.step()
    # the likelihood forms the same mean in another order: a rounding of the gradient a step, which Adam's division
    # by its root magnifies where a coordinate has hardly any
    torch.testing.assert_close(
        parameters_to_vector(model.parameters()), parameters_to_vector(other.parameters()), rtol=1e-3, atol=1e-4
    )


def test_schedule_free_predicts_at_the_average_and_learns_from_the_gradient_at_y() -> None:
    """Against the package's own protocol: eval() before a prediction, train() before a gradient; and x is the mean of
    all z, as its equation 5 has it for a constant learning rate."""
    package = pytest.importorskip("pytorch_optimizer")
    arguments = {"lr": 0.02, "betas": [0.9, 0.99]}
    model, other = Net().double(), Net().double()
    optimizer = TorchOptimizer(model.parameters(), "pytorch_optimizer.ScheduleFreeAdamW", arguments)
    rule = package.ScheduleFreeAdamW(other.parameters(), lr=0.02, betas=(0.9, 0.99))
    rounding = {"rtol": 0.0, "atol": 1e-12}  # some 10^3 roundings of 2^-53 on values about 1
    zs = []
    for k, (x, y) in enumerate(samples(range(8))):
        x = x.double()
        seen = optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        if k:
            rule.eval()
        torch.testing.assert_close(seen.outputs, other(x).detach(), **rounding)
        rule.train()
        rule.zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        rule.step()
        rule.eval()
        theta = parameters_to_vector(model.parameters()).detach()
        torch.testing.assert_close(theta, parameters_to_vector(other.parameters()).detach(), **rounding)
        zs.append(torch.cat([optimizer.state[p]["z"].flatten() for p in model.parameters()]))
        torch.testing.assert_close(theta, torch.stack(zs).mean(0), **rounding)
        rule.train()
    assert not optimizer.param_groups[0]["train_mode"]


def test_ivon_predicts_with_the_mean_and_learns_from_a_sample() -> None:
    ivon = pytest.importorskip("ivon")
    arguments = {"lr": 0.1, "ess": 50.0, "hess_init": 0.5}
    model, other = Net(), Net()
    optimizer = TorchOptimizer(model.parameters(), "ivon.IVON", arguments)
    rule = ivon.IVON(other.parameters(), **arguments)
    for x, y in samples(range(6)):
        state = torch.get_rng_state()
        seen = optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        torch.set_rng_state(state)
        assert torch.equal(seen.outputs, other(x))
        with rule.sampled_params(train=True):
            rule.zero_grad()
            Categorical(other(x)).observe(y).nll().backward()
        rule.step()
        assert torch.equal(parameters_to_vector(model.parameters()), parameters_to_vector(other.parameters()))


@pytest.mark.parametrize("stem", ["schedule_free", "ivon", "lbfgs"])
def test_autocast_keeps_no_weights_of_the_point_before(stem: str) -> None:
    """Its cache holds weights in half precision, those of the prediction while the gradient is taken elsewhere."""
    ends = []
    for cached in (False, True):
        model, optimizer = built(stem) if stem != "lbfgs" else (Net(), None)
        optimizer = optimizer or TorchOptimizer(model.parameters(), "torch.optim.LBFGS", {"lr": 0.1, "max_iter": 3})
        for k in range(5):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
                learn(optimizer, model, range(k, k + 1))
        ends.append(parameters_to_vector(model.parameters()))
    assert torch.equal(*ends)


@pytest.mark.parametrize("stem", ["schedule_free", "ivon", "nadamw"])
def test_an_error_in_the_closure_leaves_the_point_of_the_predictions(stem: str) -> None:
    model, optimizer = built(stem)
    learn(optimizer, model, range(4))
    before = parameters_to_vector(model.parameters()).clone()
    calls = []

    def closure() -> Any:
        calls.append(1)
        if len(calls) == (1 if stem == "nadamw" else 2):
            raise KeyError("a sample")
        return Categorical(model(torch.zeros(1, 1, 3, 3))).observe(torch.tensor([0]))

    with pytest.raises(KeyError, match="a sample"):
        optimizer.step(closure)
    # Schedule-Free goes to y and back: a rounding each, of values below 1, magnified by 1 / beta
    torch.testing.assert_close(parameters_to_vector(model.parameters()), before, rtol=0, atol=4 * 2**-23)


def test_muon_takes_matrices_and_its_adamw_the_rest() -> None:
    model, optimizer = built("muon")
    assert [group["use_muon"] for group in optimizer.param_groups] == [True, False]
    assert all(p.ndim >= 2 for p in optimizer.param_groups[0]["params"])
    assert [group["lr"] for group in optimizer.param_groups] == [5e-3, 1e-3]
    chosen = [{"params": model.head.parameters(), "use_muon": False}, {"params": [model.a, model.b]}]
    found = TorchOptimizer(chosen, **options("muon")).param_groups
    assert [(group["use_muon"], len(group["params"])) for group in found] == [(False, 2), (True, 2)]


def test_what_a_class_does_not_take_goes_to_adamw() -> None:
    """Pairs of LoRA matrices, also of convolutions; matrices alone; with the learning rate of a group of its own."""
    pytest.importorskip("pytorch_optimizer")
    a, b, c, d = (nn.Parameter(torch.ones(shape)) for shape in ((2, 8, 3, 3), (5, 2, 1, 1), (2, 6), (6, 2)))
    bias, head = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(3, 6))
    rule = TorchOptimizer([a, b, bias, c, d, head], "pytorch_optimizer.LoRARite", fallback_lr=0.3)
    pairs, rest = rule.param_groups
    assert [id(p) for p in pairs["params"]] == [id(p) for p in (a, b, c, d)]
    assert [id(p) for p in rest["params"]] == [id(p) for p in (bias, head)]
    assert rest["lr"] == 0.3
    if hasattr(torch.optim, "Muon"):
        groups = [{"params": [c, d, bias], "lr": 0.2}, {"params": [a]}]
        found = TorchOptimizer(groups, "torch.optim.Muon").param_groups
        assert [(len(group["params"]), group["lr"]) for group in found] == [(2, 0.2), (1, 0.2), (1, 1e-3)]
    with pytest.raises(ValueError, match="LoRARite finds no parameters of its kind: it takes pairs of LoRA matrices"):
        TorchOptimizer([a, c, head], "pytorch_optimizer.LoRARite")


def test_a_class_that_evaluates_its_closure_several_times() -> None:
    """L-BFGS, of which the first is the prediction."""
    model = Net()
    optimizer = TorchOptimizer(model.parameters(), "torch.optim.LBFGS", {"lr": 0.1, "max_iter": 4})
    ((x, y),) = samples(range(1))
    before, calls = model(x).detach(), []

    def closure() -> Any:
        calls.append(1)
        return Categorical(model(x)).observe(y)

    seen = optimizer.step(closure)
    assert torch.equal(seen.outputs, before)
    assert len(calls) == 4
    assert bool(Categorical(model(x)).observe(y).nll() < seen.nll())


def test_a_state_of_another_class_is_refused() -> None:
    saved = TorchOptimizer(Net().parameters(), "torch.optim.Adam").state_dict()
    with pytest.raises(ValueError, match=r"saved with name torch\.optim\.Adam, this optimizer has torch\.optim\.NAdam"):
        TorchOptimizer(Net().parameters()).load_state_dict(saved)


ON_RANKS = ["schedule_free", "muon", "ivon", "lora_rite", "nadamw"]


def on_a_rank(stems: list[str]) -> list[tuple[Tensor, list[Tensor]]]:
    """Parameters and predictions of each configuration, with this rank's part of batches of four."""
    ranks, found = Ranks.current(), []
    for stem in stems:
        model = Net().double()
        optimizer = TorchOptimizer(model.parameters(), **options(stem))
        own = ranks.own([3, 1]) if ranks.world > 1 else slice(None)
        seen = learn(optimizer, model, range(5), own, B=4)
        optimizer.check_ranks()
        found.append((parameters_to_vector(model.parameters()).detach(), seen))
    return found


def test_ranks_learn_as_one_process_does_with_the_samples_of_all() -> None:
    pytest.importorskip("pytorch_optimizer")
    pytest.importorskip("ivon")
    first, second = together(2, on_a_rank, ON_RANKS)
    for (theta, outputs), (other, _), (alone, expected) in zip(first, second, on_a_rank(ON_RANKS), strict=True):
        assert torch.equal(theta, other)
        # sums in another order in float64, which an inverse root magnifies by less than 10^4
        torch.testing.assert_close(theta, alone, rtol=0, atol=1e-10)
        for ours, single in zip(outputs, expected, strict=True):
            torch.testing.assert_close(ours, single, rtol=0, atol=1e-10)
