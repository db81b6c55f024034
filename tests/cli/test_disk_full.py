"""On a file system of two megabytes every command says that it is full, in one line, and leaves what was complete."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.harness import only_run, run

COMMON = [
    "fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/adamw_1e-3",
    "--data.max_samples=30", "--data.max_val_samples=20", "--run.save_interval=5", "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip
"""Its checkpoint has 790 kB."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def leave(small: Path) -> Callable[[int], None]:
    """Leaves so many bytes free."""

    def fill(free: int) -> None:
        (small / "filler").unlink(missing_ok=True)
        found = os.statvfs(small)
        (small / "filler").write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - free)))

    return fill


def is_told(found: tuple[int, str], name: str) -> None:
    code, text = found
    assert code == 2, text
    last = text.strip().splitlines()[-1]
    assert last.startswith("filtune: error: "), text
    assert "No space left on device" in last
    assert name in last
    assert "make room" in last
    assert "Traceback" not in text


def test_every_command_says_so_and_goes_on_when_there_is_room(
    small: Path, leave: Callable[[int], None], tmp_path: Path
) -> None:
    fit = [*COMMON, f"--run.root={small}/runs"]
    leave(900_000)  # for one checkpoint, and not for a second beside it
    is_told(run(fit, tmp_path), "last.ckpt")
    checkpoint = only_run(small) / "checkpoints" / "last.ckpt"
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]
    leave(1_500_000)
    code, text = run([*fit, "--ckpt_path=last"], tmp_path)
    assert code == 0, text

    leave(50_000)
    is_told(run(["export", f"--ckpt_path={checkpoint}", f"--to={small}/out"], tmp_path), "out")
    for k in range(30):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / f"{k}.png")
    leave(1000)
    for name in ("out.csv", "out.parquet"):
        ask = ["predict", f"--ckpt_path={checkpoint}", f"--input={tmp_path}/images", f"--output={small}/{name}"]
        is_told(run(ask, tmp_path), name)
    leave(0)
    is_told(run(["compare", f"{small}/runs", f"--output={small}/compare.png"], tmp_path), "compare.png")
    assert sorted(os.listdir(small)) == ["filler", "runs"]
