"""Hints of the command line: similar options, completion of values, what ``report`` reads without arguments."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from filtune import completion
from filtune.cli import main

FIT = ["fit", "--config", "task/digits", "--optimizer", "loko"]


@pytest.fixture(scope="module")
def bash() -> str:
    return completion.script("bash")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--optimiser.p0", "--optimizer.p0"),
        ("--optimizr.betta", "--optimizer.beta"),
        ("--dta.max_samples", "--data.max_samples"),
        ("--Data.batch_size", "--data.batch_size"),
        ("--modle.backbone.name", "--model.backbone.name"),
        ("--trainr.max_step", "--trainer.max_steps"),
        ("--runs.root", "--run.root"),
        ("--optimiser", "--optimizer"),
    ],
)
def test_a_misspelt_section_suggests_the_option_itself(
    given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*FIT, given, "1"])
    assert f"{given}: no such option; did you mean {meant}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.task", "multi"], {"multilabel"}),
        (["--data.task", "=", "cou"], {"count"}),
        (["--data.on_bad_row", ""], {"error", "skip"}),
        (["--optimizer.covariance", "block_per_n"], {"block_per_neuron"}),
        (["--model.on_divergence", "re"], {"rewind"}),
        (["--data.shuffle", "f"], {"false"}),
    ],
)
def test_values_of_an_option_are_completed(words: list[str], expected: set[str], bash: str, tmp_path: Path) -> None:
    script = tmp_path / "filtune.bash"
    script.write_text(bash)
    given = " ".join(word or "''" for word in words)
    code = f"source {script}; COMP_WORDS=(filtune fit {given}); "
    code += f'COMP_CWORD={len(words) + 1}; _filtune; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert set(done.stdout.split()) == expected, done.stderr


def test_one_class_is_named_as_the_fault_of_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "x.csv"
    table.write_text("text,label\na,good\nb,bad\nc,good\n")
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", "task/own_text", "--optimizer", "SGD", "--data.source", str(table),
              "--data.classes", "[good]", "--run.root", str(tmp_path / "runs")])  # fmt: skip
    said = capsys.readouterr().err
    assert "--data.classes: a classification needs two different classes at least; got good" in said
