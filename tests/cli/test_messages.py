"""Whatever is wrong with a command line or a configuration is reported in one line, with the key and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from filtune import cli
from filtune.lightning_cli import FiltuneCLI

QUICK = ["fit", "--config", "quickstart", "--config", "optimizer/loko_logits"]
SEGMENTS = ["fit", "--config", "task/changing_labels", "--optimizer=loko"]

LINES = {
    "no such command": (["fitt"], "fitt: no such command; did you mean fit?"),
    "an option before the command": (["--config", "quickstart", "fit"], "the command comes first"),
    "an optimizer's option": (
        [*QUICK, "--optimizer=AdamW", "--optimizer.lerning_rate=1"],
        "did you mean --optimizer.lr?",
    ),
    "another optimizer's option": (
        [*QUICK, "--optimizer=AdamW", "--optimizer.p0=1"],
        "--optimizer.p0: no such option; there",
    ),
    "an option of the data": ([*QUICK, "--data.max_sample", "3"], "did you mean --data.max_samples"),
    "an option of the trainer": ([*QUICK, "--trainer.max_epoch", "1"], "did you mean --trainer.max_epochs?"),
    "an option of the backbone": ([*QUICK, "--model.adapter=lora"], "did you mean --model.backbone.adapter?"),
    "an option of a dataclass": ([*QUICK, "--model.schedule.dcay=linear"], "did you mean --model.schedule.decay?"),
    "an option of nothing": ([*QUICK, "--ckpt_pth=x"], "did you mean --ckpt_path?"),
    "below a number": ([*QUICK, "--optimizer.p0.x=1"], "--optimizer.p0.x: no such option"),
    "a configuration": (["fit", "--config", "task/sst3"], "did you mean task/sst2"),
    "a file that is not there": (["fit", "--config", "nothing.yaml"], "nothing.yaml: no such file"),
    "no configuration": (["fit", "--config"], "--config: needs a value"),
    "a folder": (["fit", "--config", "folder"], "folder: is a folder"),
    "a run's folder": (["fit", "--config", "run"], "use run/config.yaml"),
    "a class": ([*QUICK, "--optimizer=AdmW"], "did you mean AdamW"),
    "a class of another kind": (
        [*QUICK, "--optimizer=torch.optim.Adam"],
        "not a subclass of filtune.OnlineOptimizer",
    ),
    "a module that is not there": ([*QUICK, "--optimizer=nowhere.Rule"], "cannot be imported"),
    "a data module": ([*QUICK, "--data=DigitDataModule"], "did you mean DigitsDataModule"),
    "a file for a data module": ([*QUICK, "--data=run/config.yaml.csv"], "--data.source run/config.yaml.csv"),
    "a baseline": ([*QUICK, "--run.baselines=[nowhere]"], "--run.baselines nowhere: no such class or configuration"),
    "a mapping that is no YAML": ([*QUICK, "--optimizer={a: ["], "is not YAML; write {class_path: NAME}"),
    "no value": ([*QUICK, "--optimizer.p0"], "--optimizer.p0: needs a value"),
    "an empty value": ([*QUICK, "--optimizer.p0="], "--optimizer.p0: must be a number, got ''"),
    "text for a number": ([*QUICK, "--optimizer.p0=abc"], "--optimizer.p0: must be a number, got 'abc'"),
    "half a sample": ([*QUICK, "--data.batch_size=0.5"], "--data.batch_size: must be a whole number, got '0.5'"),
    "neither true nor false": ([*QUICK, "--data.shuffle=maybe"], "--data.shuffle: must be true or false"),
    "none of the choices": ([*QUICK, "--model.on_divergence=x"], "must be one of stop, rewind, warn"),
    "a choice of a dataclass": (
        [*QUICK, "--model.schedule.decay=x"],
        "--model.schedule.decay: must be one of none, linear",
    ),
    "no list": ([*QUICK, "--model.backbone.targets=conv"], "must be a list such as"),
    "a list of other entries": (
        [*QUICK, "--run.baselines=[3]"],
        "--run.baselines: must be a list such as '[a, b]', each entry text, got '[3]'",
    ),
    "a list of another length": (
        [*QUICK, "--optimizer=AdamW", "--optimizer.betas=[0.9]"],
        "--optimizer.betas: must be a list such as '[a, b]' of 2 entries, each entry a number, got '[0.9]'",
    ),
    "a mapping of other values": (
        [*QUICK, "--model.param_groups={fc: 3}"],
        "must be a mapping such as '{name: value}', each value a mapping such as '{name: value}' or null, got",
    ),
    "a baseline that is there twice": (
        [*QUICK, "--run.baselines=[adamw, sgd, adamw]"],
        "--run.baselines: adamw is there twice; leave one out",
    ),
    "no mapping": ([*QUICK, "--model.param_groups=3"], "must be a mapping such as"),
    "a group with a value": ([*QUICK, "--model=lenet5"], "--model: is a group of options"),
    "no option": ([*QUICK, "quickstart"], "quickstart: not an option; for a configuration write --config"),
    "deep inside a list": (
        ["fit", "--config", "task/changing_labels", "--optimizer=loko", "--data.segments=[{samples: x}]"],
        "--data.segments: samples must be a whole number, got 'x'",
    ),
    "one of several kinds inside a list": (
        [*SEGMENTS, "--data.segments=[{samples: 5, classes: 1}]"],
        "--data.segments: classes must be a list such as '[a, b]', each entry a whole number or text or null, got '1'",
    ),
    "an entry of a list inside a list": (
        [*SEGMENTS, "--data.segments=[{samples: 5, classes: [1.5]}]"],
        "--data.segments: classes must be a list such as '[a, b]', each entry a whole number or text or null, got",
    ),
    "too many numbers inside a list": (
        [*SEGMENTS, "--data.segments=[{samples: 5, rotate: [0, 90, 180]}]"],
        "--data.segments: rotate must be a number or a list such as '[a, b]' of 2 entries, each entry a number, got",
    ),
    "nothing inside a list": ([*SEGMENTS, "--data.segments=[{}]"], "--data.segments: samples is required, got '[{}]'"),
    "no optimizer": (["fit", "--data=digits"], "--optimizer: none given"),
    "no data": (["fit", "--optimizer=loko"], "--data: none given"),
    "no source": (["fit", "--config", "task/own_text", "--optimizer=loko"], "--data.source: required"),
    "out of range, in torch's words": (
        [*QUICK, "--optimizer=AdamW", "--optimizer.lr=-1"],
        "error: --optimizer.lr: must be zero or positive, and at most 1e+30; got -1.0",
    ),
    "out of range, of a part": ([*QUICK, "--optimizer=RING", "--optimizer.phi=3"], "--optimizer.phi: must lie in"),
    "no number": ([*QUICK, "--optimizer.p0=.nan"], "--optimizer.p0: must be positive and finite, from 1e-30"),
    "options that contradict": (
        [*QUICK, "--optimizer=Filtune", "--optimizer.forgetting_factor=0.5", "--optimizer.nis_window=0"],
        "--optimizer.forgetting_factor: below 1 needs a positive nis_window",
    ),
    "an option of another noise": (
        [*QUICK, "--optimizer.noise=identity", "--optimizer.beta=0.5"],
        "--optimizer.beta: is an option of noise ema-1",
    ),
    "of a group": (
        [*QUICK, "--model.param_groups={weight: {p0: -1}}"],
        "--model.param_groups: weight: p0: must be positive",
    ),
    "no number for a group": (
        [*QUICK, "--model.param_groups={weight: {p0: abc}}"],
        "--model.param_groups: weight: p0: must be positive and finite, from 1e-30 to 1e+30; got 'abc'",
    ),
    "no option of a group": (
        [*QUICK, "--model.param_groups={weight: {lr: 1}}"],
        "--model.param_groups: weight: LoKO has no lr for a group; it has p0, p0_init",
    ),
    "no pattern": ([*QUICK, "--model.param_groups={'[': {p0: 1}}"], "'[' is no regular expression: unterminated"),
    "no number for a noise": (
        [*QUICK, "--optimizer.noise={name: ema-2, beta: abc}"],
        "--optimizer.noise: beta must lie in [0, 1); got 'abc'",
    ),
    "no file for a baseline": ([*QUICK, "--run.baselines=[no.yaml]"], "--run.baselines no.yaml: no such file"),
    "of a baseline": (
        [*QUICK, "--run.baselines=[bad.yaml]"],
        "--run.baselines bad.yaml: optimizer.lr: must be zero or positive",
    ),
    "a type in a baseline": ([*QUICK, "--run.baselines=[odd.yaml]"], "--run.baselines odd.yaml: optimizer.lr"),
    "a negative warm-up": (
        [*QUICK, "--optimizer=AdamW", "--model.schedule.warmup=-1"],
        "--model.schedule.warmup: must be zero or positive, got -1",
    ),
    "a rate that is not there": ([*QUICK, "--model.schedule.decay=linear"], "LoKO has no learning rate"),
    "a negative seed": (
        [*QUICK, "--seed_everything=-1"],
        "--seed_everything: must be a whole number from 0 to 4294967295",
    ),
    "a seed too large": ([*QUICK, "--seed_everything=1099511627776"], "--seed_everything: must be a whole number"),
    "any seed": ([*QUICK, "--seed_everything=true"], "--seed_everything: must be a whole number"),
    "no seed": ([*QUICK, "--seed_everything=null"], "--seed_everything: must be a whole number, got 'null'"),
    "a file for the folder": (
        [*QUICK, "--run.root=run/config.yaml"],
        "--run.root 'run/config.yaml': cannot be written (not a directory)",
    ),
    "an option of another command": (["compare", "--outptu", "x"], "did you mean --output?"),
    "a wrong value of another command": (
        ["sweep", "--config=quickstart", "--seeds=x"],
        "--seeds: must be a whole number",
    ),
    "a choice of another command": (["report", "--formats=pdf"], "--formats: must be one of html, md, tex"),
    "what another command needs": (["export", "--merge"], "--ckpt_path, --to"),
}

FILES = {
    "a list": ("- a\n", "is a list, not a mapping"),
    "nothing": ("", "is empty, not a mapping"),
    "a number": ("3\n", "is a single value, not a mapping"),
    "syntax": ("a: [1\nb: 2\n", "is not YAML; line 2, column 2"),
    "a tab": ("a:\n\tb: 1\n", "is not YAML; line 2, column 1"),
    "another encoding": (b"a: \xe9\n", "is not text in UTF-8"),
    "a key": (
        "trainer: {max_epoch: 3}\n",
        "trainer.max_epoch: no such option (in own.yaml); did you mean trainer.max_epochs?",
    ),
    "a section": ("modle: {}\n", "modle: no such option (in own.yaml); did you mean model?"),
    "a key of the class": ("optimizer: {init_args: {pp0: 3}}\n", "optimizer.pp0: no such option (in own.yaml)"),
    "a value": (
        "data: {init_args: {batch_size: many}}\n",
        "data.batch_size: must be a whole number, got 'many' (in own.yaml)",
    ),
    "a value out of range": (
        "optimizer: {class_path: AdamW, init_args: {lr: -1}}\n",
        "optimizer.lr (in own.yaml): must be zero or positive",
    ),
    "a seed": ("seed_everything: -1\n", "seed_everything (in own.yaml): must be a whole number"),
    "a folder of runs": ("run: {root: folder/../run/config.yaml}\n", "run.root (in own.yaml) 'folder/../run/config.y"),
    "no options": ("trainer: 3\n", "trainer: is a group of options (in own.yaml)"),
    "a class": (
        "optimizer: {class_path: AdmW}\n",
        "optimizer.class_path AdmW: no such class; did you mean AdamW?",
    ),
    "a class in a list": (
        "data: {class_path: ChangingDataModule, init_args: "
        "{streams: [{class_path: filtune.DigitsDataModul}], segments: []}}\n",
        "did you mean DigitsDataModule?",
    ),
}


class Parsed(Exception):
    """There was nothing wrong."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a run and an empty folder; the command line ends where it is parsed."""

    def stop(_: Any) -> None:
        raise Parsed

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FiltuneCLI, "instantiate_classes", stop)
    for name in ("folder", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run/config.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "bad.yaml").write_text("optimizer: {class_path: AdamW, init_args: {lr: -1}}\n")
    (tmp_path / "odd.yaml").write_text("optimizer: {class_path: AdamW, init_args: {lr: [a]}}\n")
    (tmp_path / "run/config.yaml.csv").write_text("text,label\n")


def refusal(args: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    assert end.value.code == 2
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if not line.startswith("Seed set to")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("filtune: error: ")
    for dump in ("Parser key", "Does not validate", "usage:", "<class", "typing."):
        assert dump not in lines[0]
    return lines[0]


@pytest.mark.parametrize("mistake", LINES)
def test_on_the_line(mistake: str, capsys: pytest.CaptureFixture) -> None:
    args, words = LINES[mistake]
    assert words in refusal(args, capsys)


@pytest.mark.parametrize("mistake", FILES)
def test_in_a_file(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content, words = FILES[mistake]
    Path("own.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in refusal([*QUICK, "--config", "own.yaml"], capsys)


def test_help_of_classes(capsys: pytest.CaptureFixture) -> None:
    """By a name in any case or that of a configuration, with type, default and what the docstring says; or a list."""
    for name in ("LoKO", "loko", "LOKO", "loko_logits"):
        cli.main(["fit", f"--optimizer.help={name}"])
        text = capsys.readouterr().out
        assert "--optimizer.p0  a number (default: 0.2)" in text
        assert "Initial variance of the state" in text
    cli.main(["fit", "--optimizer.help"])
    assert {"LoKO", "AdamW", "RING", "loko_logits,"} <= set(capsys.readouterr().out.split())
    cli.main(["validate", "--data.help", "textdatamodule"])
    assert "--data.source  text (required)" in capsys.readouterr().out
    assert "did you mean AdamW" in refusal(["fit", "--optimizer.help", "AdmW"], capsys)
