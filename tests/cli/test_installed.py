"""filtune as it is installed: from the sdist and the wheel, in an environment of its own, beside the user's files."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.cli.test_start import DIGITS, RAISES, ROOT

pytestmark = pytest.mark.slow

PATIENCE = 600
"""Seconds that a process may take on a loaded machine."""

FOLDERS = {"configs", "datamodules", "experiments", "exports", "lightning_modules", "optimizers", "reports"}
SHORT = [*DIGITS, "--trainer.enable_progress_bar=false"]

SPAWNED = """\
import multiprocessing, sys

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1))
    from filtune.cli import main

    main()
"""


def call(*command: str | Path, folder: Path) -> str:
    """What a process printed that ended well; it inherits no path to the clone."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**inherited, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    pytest.importorskip("hatchling", reason="hatchling builds sdist and wheel")
    folder = tmp_path_factory.mktemp("built")
    call(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, folder=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=source)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def binaries(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    binaries = folder / "bin"
    call(sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--no-deps", built[1], folder=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # a .pth names the folder alone: the .pth files in it, such as that of an editable filtune, are not read
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return binaries


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with files of the user that have the names of filtune's, and raise where they are imported."""
    for name in [*FOLDERS, "benchmarks", "tests"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(RAISES)
    (tmp_path / "cli.py").write_text(RAISES)
    return tmp_path


def test_nothing_but_filtune_is_installed(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"filtune"}
    assert len(tops) == 2
    inside = {name.split("/")[1] for name in names if name.startswith("filtune/")}
    assert inside >= FOLDERS
    assert not inside & {"tests", "benchmarks", "docs"}
    assert {"filtune/configs/quickstart.yaml", "filtune/py.typed"} <= set(names)


def test_it_is_the_installed_one(binaries: Path, foreign: Path) -> None:
    assert call(binaries / "filtune", "--version", folder=foreign).startswith("filtune ")
    found = call(binaries / "python", "-c", "import filtune; print(filtune.__file__, filtune.LoKO)", folder=foreign)
    assert found.startswith(str(binaries.parent))


def test_a_run_its_report_and_its_export(binaries: Path, foreign: Path) -> None:
    filtune = binaries / "filtune"
    call(filtune, "fit", *SHORT, "--optimizer=loko", "--run.baselines=[adamw_1e-3]", folder=foreign)
    assert "LoKO" in call(filtune, "compare", "runs", folder=foreign)
    (checkpoint,) = foreign.glob("runs/*/LoKO*/*/checkpoints/last.ckpt")
    config = checkpoint.parents[1] / "config.yaml"
    assert "class_path: filtune.LoKO" in config.read_text()
    call(filtune, "validate", "--config", config, f"--ckpt_path={checkpoint}", folder=foreign)
    call(filtune, "export", "--ckpt_path", checkpoint, "--to", "model", folder=foreign)
    assert (foreign / "model" / "README.md").is_file()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_fetch_samples(method: str, binaries: Path, foreign: Path) -> None:
    (foreign / "train.py").write_text(SPAWNED)
    arguments = [*SHORT, "--optimizer=adamw_1e-3", "--data.num_workers=1"]
    call(binaries / "python", "train.py", method, "fit", *arguments, folder=foreign)


def test_sweep_and_reproduce(binaries: Path, foreign: Path) -> None:
    filtune = binaries / "filtune"
    call(filtune, "sweep", *SHORT[:-1], "--config", "adamw", "--grid", "optimizer.lr=1e-3,1e-2", folder=foreign)
    assert len(list(foreign.rglob("summary.json"))) == 2
    table = foreign / "own.yaml"
    table.write_text(
        "title: one cell\nmetric: online_accuracy\nseeds: [0]\nset: {data.max_samples: 4, data.max_val_samples: 4}\n"
        "columns: [{name: digits, title: digits, task: digits, backbone: lenet5}]\n"
        "rows: [{name: loko, title: LoKO, optimizer: loko}]\n"
    )
    call(filtune, "reproduce", table, folder=foreign)
    assert len(list(foreign.rglob("summary.json"))) == 3


def test_two_processes(binaries: Path, foreign: Path) -> None:
    ranks = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "filtune"]
    trainer = ["--config", "trainer/ddp_cpu"]
    call(binaries / "python", *ranks, "fit", *SHORT, *trainer, "--optimizer=adamw_1e-3", folder=foreign)
    (summary,) = foreign.rglob("summary.json")
    assert '"samples": 4' in summary.read_text()
