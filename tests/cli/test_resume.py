"""A run that was killed and continued ends bit for bit like one that was not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from filtune.experiments.run_folder import read_run

from tests.cli.harness import identical, only_run, result, run
from tests.conftest import WORDS

SAMPLES, EPOCHS = 24, 2

OPTIMIZERS = {
    "loko": ["--config", "optimizer/loko"],
    "adamw": ["--config", "optimizer/adamw", "--model.weight_averaging=4"],
    "reng": ["--config", "optimizer/reng"],  # with labels drawn for the digits, and killed within its period of 8
}
COMMON = [
    "--config", "trainer/cpu",
    f"--data.max_samples={SAMPLES}",
    f"--trainer.max_epochs={EPOCHS}",
    "--trainer.log_every_n_steps=5",
    "--run.save_interval=6",
    "--trainer.enable_progress_bar=false",
    "--seed_everything=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    rows = [f"{WORDS[i % 7]} {WORDS[i % 5 + 7]} {WORDS[i % 3]},{'np'[(i // 2) % 2]}" for i in range(60)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def tasks(reviews: Path, tiny_bert: Path) -> dict[str, list[str]]:
    text = ["--config", "task/own_text", f"--data.source={reviews}", "--config", "backbone/minilm"]
    return {
        "text": [*text, f"--model.backbone.name={tiny_bert}"],
        "image": ["--config", "task/digits", "--config", "backbone/lenet5", "--data.max_val_samples=130"],
    }


MOMENTS = {
    "mid-epoch": ("batch", 9),
    "second epoch": ("batch", SAMPLES + 11),
    "last batch": ("batch", SAMPLES),
    "epoch boundary": ("epoch", SAMPLES),
    "in validation": ("validation", SAMPLES),
    "in the last validation": ("validation", EPOCHS * SAMPLES),
}


@pytest.fixture(scope="module")
def uninterrupted(tasks: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The run folder of a task and an optimizer, run without a break when it is first asked for."""

    @functools.cache
    def whole(task: str, optimizer: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        code, text = run(["fit", *COMMON, *tasks[task], *OPTIMIZERS[optimizer]], folder)
        assert code == 0, text
        return only_run(folder)

    return whole


CASES = {
    ("image", "loko"): ["mid-epoch", "epoch boundary", "in validation"],
    ("image", "adamw"): ["second epoch", "in the last validation"],
    ("image", "reng"): ["mid-epoch", "last batch"],
    ("text", "loko"): ["last batch", "in the last validation"],
    ("text", "adamw"): ["mid-epoch", "epoch boundary"],
    ("text", "reng"): ["second epoch", "in validation"],
}
"""Every moment on images and on texts, and every optimizer within an epoch and between two."""

USUAL = [
    ("image", "loko", "mid-epoch"),
    ("image", "loko", "in validation"),
    ("image", "reng", "mid-epoch"),
    ("text", "adamw", "mid-epoch"),
    ("text", "reng", "second epoch"),
]
"""Those that are not slow: every optimizer, both tasks, within both epochs, and in the validation between them."""


@pytest.mark.parametrize(
    ("task", "optimizer", "moment"),
    [
        pytest.param(*case, moment, marks=() if (*case, moment) in USUAL else pytest.mark.slow)
        for case, moments in CASES.items()
        for moment in moments
    ],
)
def test_killed_and_continued(
    task: str, optimizer: str, moment: str, tasks: dict, uninterrupted: Callable[[str, str], Path], tmp_path: Path
) -> None:
    command = ["fit", *COMMON, *tasks[task], *OPTIMIZERS[optimizer]]
    kind, step = MOMENTS[moment]
    killer = (
        f"--trainer.callbacks=[{{class_path: tests.cli.harness.KillAt, init_args: {{moment: {kind}, step: {step}}}}}]"
    )
    code, text = run([*command, killer], tmp_path)
    assert code == -9, text
    code, text = run([*command, "--ckpt_path=last"], tmp_path)
    assert code == 0, text

    whole, continued = result(uninterrupted(task, optimizer)), result(only_run(tmp_path))
    assert continued[0] == whole[0]
    assert continued[0]["samples"] == EPOCHS * SAMPLES
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert identical(continued[1][part], whole[1][part]), part
    assert identical(*(checkpoint["filtune"]["weight_averaging"] for _, checkpoint in (continued, whole)))


def test_killed_in_a_validation_within_the_epoch(tasks: dict, tmp_path: Path) -> None:
    """A checkpoint was due at the very step; it is made after the validation, which would else be lost."""
    command = ["fit", *COMMON, *tasks["image"], *OPTIMIZERS["loko"], "--trainer.val_check_interval=0.5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert run(command, whole)[0] == 0
    killer = "{class_path: tests.cli.harness.KillAt, init_args: {moment: validation, step: 12}}"
    assert run([*command, f"--trainer.callbacks=[{killer}]"], killed)[0] == -9
    assert run([*command, "--ckpt_path=last"], killed)[0] == 0
    runs = [read_run(only_run(folder)).curves for folder in (whole, killed)]
    assert len(runs[0]["val/accuracy"][0]) == 2 * EPOCHS
    for tag in runs[0]:
        if not tag.startswith("final/"):
            assert runs[1][tag] == runs[0][tag], tag
    assert result(only_run(killed))[0] == result(only_run(whole))[0]


def test_the_checkpoint_holds_what_is_trained_and_no_more(
    uninterrupted: Callable[[str, str], Path], tiny_bert: Path
) -> None:
    from transformers import AutoModel

    _, checkpoint = result(uninterrupted("text", "loko"))
    names = [name for name in checkpoint["state_dict"] if name.startswith("backbone.")]
    assert all("lora_" in name or "modules_to_save" in name for name in names)
    frozen = sum(p.numel() for p in AutoModel.from_pretrained(tiny_bert).parameters())
    assert sum(checkpoint["state_dict"][name].numel() for name in names) < frozen
    filter_state = checkpoint["optimizer_states"][0]["state"]["filter"]
    assert filter_state["p"].numel() == sum(checkpoint["state_dict"][name].numel() for name in names)


def test_another_configuration_is_refused_with_its_keys_and_changes_nothing(
    tasks: dict, uninterrupted: Callable[[str, str], Path]
) -> None:
    run_folder = uninterrupted("image", "loko")
    before = (run_folder / "config.yaml").read_bytes()
    command = ["fit", *COMMON, *tasks["image"], *OPTIMIZERS["loko"], "--ckpt_path=last"]
    code, text = run([*command, "--optimizer.p0=0.3", "--data.batch_size=2"], run_folder.parents[3])
    assert code == 2
    error = text.strip().splitlines()[-1]
    assert "optimizer.init_args.p0 (checkpoint 0.2, now 0.3)" in error
    assert "data.init_args.batch_size (checkpoint 1, now 2)" in error
    assert (run_folder / "config.yaml").read_bytes() == before


def test_a_finished_run_may_go_on_for_another_epoch(tasks: dict, tmp_path: Path) -> None:
    command = ["fit", *COMMON, *tasks["image"], *OPTIMIZERS["loko"]]
    assert run([*command, "--trainer.max_epochs=1"], tmp_path)[0] == 0
    code, text = run([*command, "--ckpt_path=last"], tmp_path)
    assert code == 0, text
    assert result(only_run(tmp_path))[0]["samples"] == EPOCHS * SAMPLES


def test_continuing_nothing_is_refused(tasks: dict, tmp_path: Path) -> None:
    code, text = run(["fit", *COMMON, *tasks["image"], *OPTIMIZERS["loko"], "--ckpt_path=last"], tmp_path)
    assert code == 2
    assert "there is no checkpoint to continue" in text.strip().splitlines()[-1]


def test_baselines_are_resumed_with_the_run(tasks: dict, tmp_path: Path) -> None:
    """Killed within the baseline, the same command goes on there; a third time nothing is left to do."""
    command = ["fit", *COMMON, *tasks["image"], "--optimizer=loko", "--run.baselines=[adamw]"]
    killer = f"{{class_path: tests.cli.harness.KillAt, init_args: {{moment: batch, step: {SAMPLES + 9}}}}}"
    kill = [f"--trainer.callbacks=[{killer}]"]
    first = ["fit", *COMMON, *tasks["image"], "--optimizer=loko"]
    assert run(first, tmp_path)[0] == 0
    assert run(["fit", *COMMON, *tasks["image"], "--optimizer=adamw", *kill], tmp_path)[0] == -9
    for _ in range(2):
        code, text = run([*command, "--ckpt_path=last"], tmp_path)
        assert code == 0, text
        folders = sorted(path.parent for path in tmp_path.rglob("config.yaml"))
        assert [folder.name for folder in folders] == ["version_0", "version_0"]
        assert all(result(folder)[0]["samples"] == EPOCHS * SAMPLES for folder in folders)
