"""How a command starts: without what it does not need, and without what happens to lie in the current folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from filtune import cli
from tests.cli import harness

ROOT = Path(__file__).resolve().parents[2]
RAISES = "raise SystemExit(f'executed: {__file__}')\n"
DIGITS = ["--config", "trainer/cpu", "--config", "task/digits", "--config", "backbone/lenet5", "--data.max_samples=4"]
DIGITS += ["--data.max_val_samples=4"]
PATIENCE = 300
"""Seconds that a process may take on a loaded machine."""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with files of the user that have the names of filtune's, and raise where they are imported."""
    folders = ("optimizers", "datamodules", "lightning_modules", "experiments", "exports", "reports", "live", "configs")
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(RAISES)
    (tmp_path / "cli.py").write_text(RAISES)
    return tmp_path


def run(folder: Path, *command: str, **environment: str) -> str:
    """What a process printed that ended well."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_help_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    """Of all commands but the trainer's."""
    code = """
import contextlib, sys
from filtune import cli
others = [name for name in cli.COMMANDS if name not in ("fit", "validate")]
for args in [[], ["--help"], ["--version"], *([name, "--help"] for name in others)]:
    with contextlib.suppress(SystemExit):
        cli.main(args)
heavy = {"torch", "lightning", "transformers", "pandas", "matplotlib", "scipy", "sklearn", "datasets"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    text = run(tmp_path, "-c", code, PYTHONPATH=str(ROOT))
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.about)}$", text, flags=re.MULTILINE)
        assert name in ("fit", "validate") or f"usage: filtune {name}" in text


def test_contest_is_a_part_of_report() -> None:
    args = ["a.yaml", "b.yaml", "--root", "runs", "--title=A title"]
    expected = ["--root", "runs", "--title=A title", "--output", "contest.md", "--study", "a.yaml", "b.yaml"]
    assert cli.study_options(args) == expected


def test_files_of_the_user_are_not_executed(foreign: Path) -> None:
    """The run is forked, with the folder first on its path; another command is a process of its own."""
    script = foreign / "run.py"
    line = ["fit", *DIGITS, "--optimizer=loko"]
    script.write_text(f"import sys\nfrom filtune.cli import main\nsys.path.insert(0, '')\nmain({line})\n")
    code, text = harness.run([str(script)], foreign)
    assert code == 0, text
    text = run(foreign, "-m", "filtune", "compare", "runs", PYTHONPATH=str(ROOT))
    assert "LoKO" in text


@pytest.mark.slow  # what is imported before the run is not seen above
def test_nor_by_a_run_and_its_processes(foreign: Path) -> None:
    run(foreign, "-m", "filtune", "fit", *DIGITS, "--optimizer=loko", "--data.num_workers=1", PYTHONPATH=str(ROOT))
    assert list(foreign.rglob("summary.json"))


@pytest.mark.slow  # workers of an installed filtune are in test_installed
def test_workers_of_a_clone_that_is_not_installed(foreign: Path) -> None:
    grid = ["--grid", "optimizer.lr=1e-3"]
    run(foreign, str(ROOT / "cli.py"), "sweep", *DIGITS, "--config", "adamw", *grid)
    (summary,) = foreign.rglob("summary.json")
    assert '"optimizer": "AdamW"' in summary.read_text()


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the completions of bash and zsh."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh"):
        with open(folder / f"filtune.{shell}", "w") as file, contextlib.redirect_stdout(file):
            cli.main(["completion", shell])
    return folder


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["re"], {"report", "reproduce"}),
        (["fit", "--config", "task/ss"], {"task/sst2"}),
        (["fit", "--optimizer", "Lo"], {"LoKO"}),
        (["fit", "--optimizer", "=", "loko"], {"loko", "loko_logits"}),
        (["fit", "--optimizer.p0_"], {"--optimizer.p0_init"}),
        (["validate", "--model.backbone.na"], {"--model.backbone.name"}),
        (["compare", "--o"], {"--output"}),
        (["completion", "z"], {"zsh"}),
    ],
)
def test_completion_of_bash(words: list[str], expected: set[str], scripts: Path) -> None:
    code = (
        f"source {scripts / 'filtune.bash'}; COMP_WORDS=(filtune {' '.join(words)}); COMP_CWORD={len(words)}; "
        '_filtune; printf "%s\\n" "${COMPREPLY[@]}"; complete -p filtune'
    )
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    *found, registered = done.stdout.split("\n")[:-1]
    assert set(found) == expected, done.stderr
    assert "-F _filtune filtune" in registered


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_completion_of_zsh_is_understood(scripts: Path) -> None:
    subprocess.run(["zsh", "-n", str(scripts / "filtune.zsh")], check=True, timeout=PATIENCE)
