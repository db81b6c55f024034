"""``filtune compare``: tables and curves from run folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from filtune.experiments.records import write_json
from filtune.experiments.run_folder import read_run
from filtune.reports import compare
from PIL import Image
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter


def make_run(folder: Path, optimizer: str = "AdamW", finished: bool = True, seed: int = 0, **arguments: float) -> Path:
    folder.mkdir(parents=True)
    config = {"seed_everything": seed, "optimizer": {"class_path": f"filtune.{optimizer}", "init_args": arguments}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with SummaryWriter(str(folder)) as writer:
        for step in (10, 20, 30):
            writer.add_scalar("online/accuracy", step + seed, step)
            writer.add_scalar("online/loss", 1 / step, step)
    summary = {
        "optimizer": optimizer, "task": "toy", "backbone": "net", "samples": 30, "online_accuracy": 61.234,
        "online_loss": 0.5, "val": {"accuracy": 70.0, "loss": 0.4, "accuracy_0": 68.5, "forgetting": 3.25},
        "seconds_per_step": 0.0123,
    }  # fmt: skip
    if finished:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def printed(runs: list[Path]) -> str:
    console = Console(width=200, record=True)
    console.print(compare.results_table([read_run(run) for run in runs]))
    return console.export_text()


def test_table_shows_each_run_and_the_unfinished(tmp_path: Path) -> None:
    text = printed([make_run(tmp_path / "a", lr=0.1), make_run(tmp_path / "b", "LoKO", finished=False)])
    for figure in ("AdamW", "61.23", "0.5000", "70.00", "3.25", "12.30", "LoKO", "not finished", "toy / net"):
        assert figure in text
    assert "68.5" not in text  # a column for each segment of a stream would leave no place


def test_labels_tell_apart_what_differs(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", lr=0.1, eps=1e-8),
        make_run(tmp_path / "b", lr=0.2, eps=1e-8),
        make_run(tmp_path / "c", "LoKO", p0=0.2),
    ]
    assert compare.labelled([read_run(run) for run in runs]) == ["AdamW lr=0.1", "AdamW lr=0.2", "LoKO p0=0.2"]
    seeds = [make_run(tmp_path / "d"), make_run(tmp_path / "e", seed=1)]
    assert compare.labelled([read_run(run) for run in seeds]) == ["AdamW seed 0", "AdamW seed 1"]


def test_a_continued_curve_has_each_step_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with SummaryWriter(str(run), filename_suffix=".again") as writer:
        for step in (20, 30, 40):
            writer.add_scalar("online/accuracy", 2 * step, step)
    assert read_run(run).curves["online/accuracy"] == ([10, 20, 30, 40], [10, 40, 60, 80])


def test_command_writes_the_plot(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", "LoKO")
    target = tmp_path / "out" / "curves.png"
    compare.main([str(tmp_path / "runs"), "--output", str(target)])
    assert "LoKO" in capsys.readouterr().out
    with Image.open(target) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(10**7)) > 10


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run under"):
        compare.main([str(tmp_path)])


def test_command_names_the_folders_and_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Seeds are counted together; a damaged file is named, and costs its run alone."""
    for seed in (0, 1):
        run = make_run(tmp_path / "runs" / f"a{seed}", seed=seed, lr=0.1)
        counts = {"classes": ["no", "yes"], "samples": 10, "confusion": [[4, 1], [2, 3]], "worst": []}
        write_json(run / "predictions.json", counts)
    (make_run(tmp_path / "runs" / "b", "LoKO", p0=0.2) / "predictions.json").write_text("{")
    compare.main([str(tmp_path / "runs"), "--output", str(tmp_path / "c.png")])
    out, warned = capsys.readouterr()
    assert f"run  AdamW lr=0.1 seed 0: {tmp_path / 'runs' / 'a0'}" in out
    assert re.search(r"│ no +│ +72.7 │", out)
    assert "b/predictions.json: damaged or cut short" in warned


def test_classes_that_are_not_common_are_not_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in "ab"]
    assert compare.class_table([read_run(run) for run in runs]) is None
    for run, classes in zip(runs, ("xy", "xz"), strict=True):
        counts = {"classes": list(classes), "samples": 2, "confusion": [[1, 0], [0, 1]], "worst": []}
        write_json(run / "predictions.json", counts)
    assert compare.class_table([read_run(runs[0])]) is not None
    runs[1].joinpath("config.yaml").write_text("optimizer: {class_path: filtune.LoKO}")
    assert compare.class_table([read_run(run) for run in runs]) is None
