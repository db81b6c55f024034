"""``--optimizer TorchOptimizer`` on the command line: its configurations, their options, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.experiments.classes import optimizer_label
from filtune.experiments.run_folder import find_runs, read_run
from filtune.reports.compare import run_labels

from filtune.cli import main
from tests.cli.test_configs import parsed

FIT = [
    "fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--data.max_samples=6",
    "--data.max_val_samples=6", "--trainer.enable_progress_bar=false",
]  # fmt: skip
NAMED = ["--optimizer=TorchOptimizer", "--optimizer.name=torch.optim.RAdam"]


def test_a_class_is_named_with_its_arguments() -> None:
    found = parsed(*NAMED, "--optimizer.arguments={lr: 1e-3, betas: [0.8, 0.9]}", optimizer="")["optimizer"]
    assert found["class_path"] == "filtune.TorchOptimizer"
    assert found["init_args"]["arguments"] == {"lr": 1e-3, "betas": [0.8, 0.9]}
    assert optimizer_label(found) == "RAdam"


def test_an_argument_of_a_configuration_is_set_alone() -> None:
    arguments = parsed("--optimizer.arguments.lr=1e-2", optimizer="optimizer/nadamw")["optimizer"]["init_args"][
        "arguments"
    ]
    assert arguments == {"lr": 1e-2, "weight_decay": 1e-4, "decoupled_weight_decay": True}


def test_a_run_is_named_after_the_class(tmp_path: Path) -> None:
    """Two classes have two folders and two rows."""
    for name in ("RAdam", "NAdam"):
        main([*FIT, *NAMED, f"--optimizer.name=torch.optim.{name}", f"--run.root={tmp_path}"])
    runs = [read_run(folder) for folder in find_runs(tmp_path)]
    assert [run.summary["optimizer"] for run in runs] == ["NAdam", "RAdam"]
    assert run_labels(runs) == ["NAdam", "RAdam"]


REFUSED = {
    "an unknown argument": ("--optimizer.arguments={rate: 1}", "torch.optim.RAdam has no argument 'rate'; it has lr"),
    "a wrong value": ("--optimizer.arguments={lr: fast}", "optimizer.arguments.lr: must be a number; got 'fast'"),
    "a value that the class refuses": (
        "--optimizer.arguments.lr=-1",
        "--optimizer.arguments.lr: -1: torch.optim.RAdam: Invalid",
    ),
    "no mapping": ("--optimizer.arguments=3", "--optimizer.arguments: must be a mapping such as '{name: value}'"),
    "no such class": (
        "--optimizer.name=torch.optim.RAdm",
        "--optimizer.name: torch.optim.RAdm: torch.optim has no class RAdm; did you mean torch.optim.RAdam",
    ),
    "not an optimizer": ("--optimizer.name=os.path.join", "os.path.join: is not a subclass of torch.optim.Optimizer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option, said = REFUSED[case]
    with pytest.raises(SystemExit, match="2"):
        main([*FIT, *NAMED, option, f"--run.root={tmp_path}"])
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("filtune: error: ")]
    assert said in line
