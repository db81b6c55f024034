"""The mean of the trained parameters: what it is, and that nothing but validation and what comes after sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from filtune.datamodules import DigitsDataModule
from filtune.exports.restore import restore
from filtune.lightning_modules import BackboneConfig, CheckpointError, OnlineModule
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO
from filtune.lightning_modules.optimization import WeightAverage
from filtune.optimizers import SGD, Filtune
from filtune.optimizers.likelihoods.gaussian import TargetScaling
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.cli.harness import only_run, run
from tests.lightning_modules.test_online import trainer


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in model.parameters() if param.requires_grad])


@settings(max_examples=40)
@given(K=st.integers(1, 8), steps=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_it_is_a_mean_whose_weights_fade(K: int, steps: int, seed: int) -> None:
    """Against the closed form: step k has the weight k (k + 1) (k + 2) up to 4 K - 3 steps, 1 - 1/K a step after."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(3, 2).double()
    model.bias.requires_grad_(False)
    average, path = WeightAverage(model, K), []
    for _ in range(steps):
        nn.init.normal_(model.weight, generator=generator)
        path.append(flat(model).clone())
        average.update()
    first = min(max(4 * K - 3, 1), steps)
    rising = [k * (k + 1) * (k + 2) for k in range(1, first + 1)]
    weights = [weight / sum(rising) for weight in rising]
    for _ in range(steps - first):
        weights = [weight * (1 - 1 / K) for weight in weights] + [1 / K]
    assert sum(weights) == pytest.approx(1)
    expected = sum(weight * theta for weight, theta in zip(weights, path, strict=True))
    with average.applied():
        # each of the steps rounds once, and none makes an earlier error larger
        assert float((flat(model) - expected).abs().max()) <= 4 * steps * 2**-53 * float(torch.stack(path).abs().max())
    assert torch.equal(flat(model), path[-1])
    assert list(average.mean) == ["weight"]


def test_the_parameters_come_back_from_an_error() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 3)
    average.update()
    nn.init.ones_(model.weight)
    seen = []

    def interrupted() -> None:
        with average.applied():
            seen.append(model.weight.detach().clone())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not torch.equal(seen[0], torch.ones(2, 2))
    assert torch.equal(model.weight, torch.ones(2, 2))


def test_there_is_none_before_the_first_step_and_where_none_is_asked_for() -> None:
    model = nn.Linear(2, 2)
    for steps in (0, 3):
        average, theta = WeightAverage(model, steps), flat(model)
        if not steps:
            average.update()
        with average.applied():
            assert torch.equal(flat(model), theta)
        assert average.state_dict() == {"count": 0, "mean": {}}


def test_a_checkpoint_of_another_model_is_refused() -> None:
    average = WeightAverage(nn.Linear(2, 2), 3)
    average.update()
    with pytest.raises(CheckpointError, match="another shape of weight"):
        WeightAverage(nn.Linear(3, 2), 3).load_state_dict(average.state_dict())


def fitted(folder: Path, average: int) -> OnlineModule:
    torch.manual_seed(0)
    module = OnlineModule(BackboneConfig(), Filtune, weight_averaging=average)
    data = DigitsDataModule(max_samples=40, max_val_samples=100, batch_size=4)
    trainer(folder).fit(module, datamodule=data)
    return module


def test_training_is_as_without_it_and_validation_is_by_the_mean(tmp_path: Path) -> None:
    plain, averaged = fitted(tmp_path, 0), fitted(tmp_path, 5)
    assert torch.equal(flat(plain.backbone), flat(averaged.backbone))
    assert plain.online.compute() == averaged.online.compute()
    assert plain.last_validation != averaged.last_validation
    seen = averaged.last_validation
    with averaged.average.applied():
        mean = {name: param.detach().clone() for name, param in averaged.backbone.named_parameters()}
    plain.backbone.load_state_dict(mean, strict=False)
    scores = trainer(tmp_path).validate(plain, datamodule=plain.trainer.datamodule, verbose=False)
    assert scores[0] == pytest.approx(seen)


def test_it_starts_anew_where_the_parameters_are_taken_back_with_the_estimates_of_the_targets() -> None:
    """What diverged must stay in neither."""
    module = OnlineModule(BackboneConfig(), SGD, weight_averaging=4, on_divergence="rewind")
    model, module.target_state = nn.Linear(2, 2), TargetScaling(1)
    module.average = WeightAverage(model, 4)
    module.average.update()

    class Diverged(SGD):
        def check_divergence(self) -> str | None:
            return "it diverged"

    optimizer = Diverged(model.parameters())
    module.watch.keep(optimizer, 0, module.target_state)
    module.target_state.see_targets(torch.tensor([1e6]))
    with pytest.warns(UserWarning, match="restored to those of step 0"):
        module.restore_if_diverged(optimizer)
    assert module.average.state_dict() == {"count": 0, "mean": {}}
    assert (int(module.target_state.count), float(module.target_state.location)) == (0, 0)


def test_what_is_exported_is_the_mean(tmp_path: Path) -> None:
    arguments = ["--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/sgd"]
    sizes = ["--data.max_samples=30", "--data.max_val_samples=50", "--trainer.enable_progress_bar=false"]
    code, text = run(["fit", *arguments, *sizes, "--model.weight_averaging=10"], tmp_path)
    assert code == 0, text
    path = only_run(tmp_path) / "checkpoints" / "last.ckpt"
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    mean, restored = checkpoint["filtune"]["weight_averaging"]["mean"], restore(path).backbone
    for name, param in restored.named_parameters():
        assert torch.equal(param, mean[name])
        assert not torch.equal(param, checkpoint["state_dict"][f"backbone.{name}"])


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="model.weight_averaging: must be a number of steps"):
        OnlineModule(BackboneConfig(), SGD, weight_averaging=-1)
