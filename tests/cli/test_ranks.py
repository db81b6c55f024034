"""Several processes on the command line: the figures are those of one process, and mistakes are reported once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filtune.lightning_modules.locks import FolderLock

from tests.cli.harness import PATIENCE, identical, only_run, result, run, run_ranks
from tests.conftest import WORDS

ROOT = Path(__file__).resolve().parents[2]
COMMON = [
    "fit",
    "--config", "task/digits",
    "--config", "backbone/lenet5",
    "--config", "optimizer/loko",
    "--data.max_samples=24",
    "--data.max_val_samples=37",
    "--trainer.max_epochs=2",
    "--trainer.log_every_n_steps=5",
    "--trainer.enable_progress_bar=false",
    "--run.save_interval=3",
    "--seed_everything=3",
]  # fmt: skip
ONE, MANY = ["--config", "trainer/cpu"], ["--config", "trainer/ddp_cpu"]


def harness(name: str, **arguments: Any) -> str:
    """The option that adds a callback of the harness."""
    given = ", ".join(f"{key}: {value}" for key, value in arguments.items())
    return f"--trainer.callbacks=[{{class_path: tests.cli.harness.{name}, init_args: {{{given}}}}}]"


def summary_of(folder: Path) -> dict[str, Any]:
    return result(only_run(folder))[0]


def assert_same_figures(many: dict[str, Any], one: dict[str, Any]) -> None:
    """Assert that two summaries are equal, but for the last digits of figures.

    Sums of float32 in another order: a relative difference of 2^-24 for each of 61,706 products, which are random, in
    each of 24 steps is far below 1e-3; counts of right predictions are the same.
    """
    assert many.keys() == one.keys()
    for name, value in one.items():
        figures, expected = (many[name], value) if isinstance(value, dict) else ({"": many[name]}, {"": value})
        for key in expected:
            if isinstance(expected[key], float):
                assert figures[key] == pytest.approx(expected[key], rel=1e-3), (name, key)
            else:
                assert figures[key] == expected[key], (name, key)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a single process that learns from two samples at a time."""
    folder = tmp_path_factory.mktemp("one")
    code, text = run([*COMMON, *ONE, "--data.batch_size=2"], folder)
    assert code == 0, text
    return summary_of(folder)


LAUNCHERS = {
    "Lightning": [sys.executable, "-m", "filtune"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "filtune"],
}


# torchrun's environment is that of run_ranks, by which the other tests run
@pytest.mark.slow  # a run that is killed and continued is launched by Lightning too
@pytest.mark.parametrize("launcher", ["Lightning", "torchrun"])
def test_launched(launcher: str, one_process: dict[str, Any], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED"):
        environment.pop(name, None)
    command = [*LAUNCHERS[launcher], *COMMON, *MANY]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("tensorboard --logdir") == 1  # one table, of one process
    assert [path.name for path in tmp_path.glob("runs/*/*/*")] == ["version_0"]
    assert_same_figures(summary_of(tmp_path), one_process)


def test_killed_and_continued(tmp_path: Path) -> None:
    command, whole, broken = [*COMMON, *MANY], tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert [code for code, _ in run_ranks(command, whole, 2)] == [0, 0]
    killed = run_ranks([*command, harness("KillAt", moment="batch", step=17)], broken, 2)
    assert [code for code, _ in killed] == [-9, -9]
    for code, text in run_ranks([*command, "--ckpt_path=last"], broken, 2):
        assert code == 0, text
    expected, continued = result(only_run(whole)), result(only_run(broken))
    assert continued[0] == expected[0]
    assert continued[0]["samples"] == 48
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert identical(continued[1][part], expected[1][part]), part


def test_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    command = [*COMMON, "--data.max_samples=25"]  # the last batch of the two is of three samples
    assert [code for code, _ in run_ranks([*command, *MANY, "--trainer.max_epochs=1"], tmp_path, 2)] == [0, 0]
    alone = [*command, *ONE, "--ckpt_path=last"]
    code, text = run(alone, tmp_path)
    assert code == 2
    assert "data.init_args.batch_size (checkpoint 2, now 1)" in text
    code, text = run([*alone, "--data.batch_size=2"], tmp_path)
    assert code == 0, text
    assert summary_of(tmp_path)["samples"] == 50


@pytest.mark.parametrize("kind", ["first order", pytest.param("own texts", marks=pytest.mark.slow)])
def test_three_processes_and_a_rival(kind: str, tmp_path: Path, tiny_bert: Path) -> None:
    command = [*COMMON, "--trainer.max_epochs=1", "--config", "optimizer/adamw_1e-3", "--run.baselines=[sgd]"]
    if kind == "own texts":
        # no two texts are alike: equal predictions are equal in one batch, but may differ by rounding in two
        rows = "\n".join(f"{WORDS[i % 5]} {WORDS[i % 6 + 5]},{i / 7}" for i in range(30))
        (tmp_path / "films.csv").write_text(f"text,label\n{rows}\n")
        task = ["--config", "task/own_text", f"--data.source={tmp_path / 'films.csv'}", "--data.val_fraction=0.2"]
        backbone = ["--config", "backbone/minilm", f"--model.backbone.name={tiny_bert}"]
        command = [*command, *task, *backbone, "--config", "optimizer/loko"]
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    code, text = run([*command, *ONE, "--data.batch_size=3"], one)
    assert code == 0, text
    for code, text in run_ranks([*command, *MANY, "--trainer.devices=3"], many, 3):
        assert code == 0, text
    found = sorted(path.relative_to(many) for path in many.rglob("config.yaml"))
    assert found == sorted(path.relative_to(one) for path in one.rglob("config.yaml"))
    assert len(found) == len(list(many.glob("runs/*/*/*"))) == 2
    for config in found:
        assert_same_figures(result((many / config).parent)[0], result((one / config).parent)[0])


def test_ranks_that_disagree_stop_with_the_checksum(tmp_path: Path) -> None:
    command = [*COMMON, *MANY, "--model.checksum_every=5", harness("ChangeAParameter", step=7, rank=1)]
    answers = run_ranks(command, tmp_path, 2)
    assert [code for code, _ in answers] == [2, 2]
    (error,) = [line for _, text in answers for line in text.splitlines() if line.startswith("filtune: error")]
    assert "step 10: the ranks disagree" in error
    assert "on rank 1 is not that on rank 0" in error
    assert not list(tmp_path.rglob("summary.json"))


MISTAKES = {
    "an argument": (["--optimizer.p0=0"], "--optimizer.p0: must be positive"),
    "one rank alone": ([harness("FailAt", step=2, rank=1)], "rank 1 alone cannot go on"),
    "fewer samples than processes": (["--data.max_samples=1"], "1 samples cannot be shared out over 2 processes"),
    "processes of another kind": (["--trainer.strategy=ddp_spawn"], "take ddp"),
    "a checksum never": (["--model.checksum_every=0"], "checksum_every"),
}


USUAL = ("an argument", "one rank alone", "fewer samples than processes")
"""Of one process, of one rank, and of the data; the others are refused as the first is."""


@pytest.mark.parametrize(
    "mistake", [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in MISTAKES]
)
def test_a_mistake_is_told_once(mistake: str, tmp_path: Path) -> None:
    arguments, culprit = MISTAKES[mistake]
    answers = run_ranks([*COMMON, *MANY, *arguments], tmp_path, 2)
    assert [code for code, _ in answers] == [2, 2]
    (error,) = [line for _, text in answers for line in text.splitlines() if line.startswith("filtune: error")]
    assert culprit in error
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize(("step", "rank"), [pytest.param(7, 1, marks=pytest.mark.slow), (23, 0)])
def test_a_signal_to_one_process_stops_all(tmp_path: Path, step: int, rank: int) -> None:
    """In the middle of an epoch, and in the last step of the run, after which a baseline would begin."""
    command = [*COMMON, *MANY, "--run.baselines=[sgd]"]
    answers = run_ranks([*command, harness("StopAt", step=step, rank=rank)], tmp_path, 2)
    assert [code for code, _ in answers] == [143, 143], answers
    assert not list(tmp_path.glob("runs/*/SGD*"))
    assert [code for code, _ in run_ranks([*command, "--ckpt_path=last"], tmp_path, 2)] == [0, 0]
    assert [result(path.parent)[0]["samples"] for path in tmp_path.rglob("config.yaml")] == [48, 48]


def test_a_folder_in_use_stops_all_processes(tmp_path: Path) -> None:
    """The first process alone opens the folder, before there is a group; the others would wait for it."""
    folder = tmp_path / "runs" / "digits-lenet5" / "LoKO-seed3" / "version_0"
    with FolderLock(folder):
        answers = run_ranks([*COMMON, *MANY, "--ckpt_path=last"], tmp_path, 2, patience=0.1)
    assert [code for code, _ in answers] == [2, 2]
    (line,) = [line for _, text in answers for line in text.splitlines() if line.startswith("filtune: error")]
    assert "writes into this folder" in line
    assert [path.name for path in folder.parent.rglob("*")] == ["version_0", ".lock"]
