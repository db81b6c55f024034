"""Counts, several labels, and prices of 300,000 from a CSV file: fit, validate, predict, export, and all agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from filtune.exports import commands
from filtune.exports.restore import restore
from transformers import pipeline

from tests.cli.harness import as_earlier, only_run, run, run_ranks
from tests.conftest import WORDS

FIT = ["fit", "--config", "trainer/cpu", "--config", "task/own_text", "--config", "backbone/minilm"]
FIT += ["--model.backbone.rank=2", "--model.backbone.max_length=16", "--data.max_samples=16"]


def label(kind: str, words: list[str]) -> Any:
    good = sum(len(word) for word in words)
    if kind == "multilabel":
        return "|".join(name for name in ("long", "even") if (good > 8 if name == "long" else good % 2 == 0))
    return 3 * good if kind == "count" else 3e5 + 2e4 * good


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """60 texts with a label of each kind."""
    folder, found = tmp_path_factory.mktemp("data"), {}
    texts = [[WORDS[i % 19], WORDS[(7 * i + 3) % 19]] for i in range(60)]
    for kind in ("count", "multilabel", "regression"):
        found[kind] = folder / f"{kind}.csv"
        rows = [{"text": " ".join(words), "label": label(kind, words)} for words in texts]
        pd.DataFrame(rows).to_csv(found[kind], index=False)
    return found


def fit(kind: str, optimizer: str, tables: dict[str, Path], encoder: Path, folder: Path, *more: str) -> Path:
    args = [*FIT, f"--data.source={tables[kind]}", f"--data.task={kind}", f"--model.backbone.name={encoder}"]
    code, said = run([*args, "--config", f"optimizer/{optimizer}", *more], folder)
    assert code == 0, said
    return only_run(folder) / "checkpoints" / "last.ckpt"


def predicted(ckpt: Path, source: Path, output: Path) -> pd.DataFrame:
    commands.run_predict(["--ckpt_path", str(ckpt), "--input", str(source), "--output", str(output)])
    return pd.read_csv(output, keep_default_na=False)


def exported_scores(ckpt: Path, folder: Path, texts: list[str]) -> list[dict[str, float]]:
    """What the merged model's pipeline says."""
    commands.run_export(["--ckpt_path", str(ckpt), "--to", str(folder), "--merge"])
    said = pipeline("text-classification", model=str(folder))(texts, top_k=None)
    return [{entry["label"]: entry["score"] for entry in each} for each in said]


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ("count", "filtune"),
        ("multilabel", "filtune"),
        pytest.param("multilabel", "adamw_1e-3", marks=pytest.mark.slow),
        pytest.param("regression", "filtune", marks=pytest.mark.slow),
    ],
)
def test_fit_validate_predict_export(
    kind: str, optimizer: str, tables: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:
    ckpt = fit(kind, optimizer, tables, encoder, tmp_path)
    summary = json.loads((ckpt.parents[1] / "summary.json").read_text())
    code, said = run(["validate", "--config", str(ckpt.parents[1] / "config.yaml"), "--ckpt_path", str(ckpt)], tmp_path)
    assert code == 0, said
    score = {"count": "mae", "multilabel": "f1", "regression": "pearson"}[kind]
    assert summary["val"][score] == pytest.approx(summary["val"][score])  # a number
    printed = re.search(rf"val {score} ([^,\s]+)", said)
    assert printed, said
    assert float(printed[1]) == pytest.approx(summary["val"][score], rel=5e-5)  # five digits
    table = predicted(ckpt, tables[kind], tmp_path / "out.csv")
    scores = exported_scores(ckpt, tmp_path / "model", list(table["text"]))
    filtered, card = optimizer == "filtune", (tmp_path / "model" / "README.md").read_text()
    if kind == "multilabel":
        assert [f"probability_bayes_{name}" in table for name in ("even", "long")] == [filtered] * 2
        for row, found in zip(table.to_dict("records"), scores, strict=True):
            assert found["even"] == pytest.approx(row["probability_even"], abs=1e-5)
            assert row["prediction"] == "|".join(name for name in ("even", "long") if row[f"probability_{name}"] > 0.5)
        return
    values = torch.tensor([next(iter(found.values())) for found in scores], dtype=torch.float64)
    assert ("the prediction is its exponential" in card) == (kind == "count")
    expected = torch.tensor(table["prediction"].to_numpy(), dtype=torch.float64)
    # float32 rounding of outputs of the size of their shift
    torch.testing.assert_close(values.exp() if kind == "count" else values, expected, rtol=1e-5, atol=0)
    assert {"count": "log_rate_std", "regression": "std"}[kind] in table or not filtered
    if kind == "regression":
        assert 3e5 < expected.mean() < 6e5
        assert bool((table["predictive_std"] > 1e3).all())


def test_the_units_of_the_targets_are_resumed_bit_for_bit(
    tables: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:
    """An epoch, and another one from its checkpoint, against two epochs."""
    states = []
    for part, more in (("whole", ["--trainer.max_epochs=2"]), ("first", []), ("second", ["--trainer.max_epochs=2"])):
        if part == "second":
            more = [*more, f"--ckpt_path={only_run(tmp_path / 'first') / 'checkpoints' / 'last.ckpt'}"]
        (tmp_path / part).mkdir()
        ckpt = fit("regression", "filtune", tables, encoder, tmp_path / part, "--data.max_samples=6", *more)
        states.append(torch.load(ckpt, weights_only=True)["state_dict"])
    assert int(states[2]["target_state.count"]) == 12
    assert all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_units_of_the_targets_are_those_of_all_processes(
    tables: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:
    """Two processes of one sample each, against one of two."""
    args = [*FIT[3:], f"--data.source={tables['regression']}", f"--model.backbone.name={encoder}"]
    args += ["--data.max_samples=12", "--config", "optimizer/adamw_1e-3"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    code, said = run(["fit", "--config", "trainer/cpu", *args, "--data.batch_size=2"], tmp_path / "one")
    assert code == 0, said
    for code, said in run_ranks(["fit", "--config", "trainer/ddp_cpu", *args], tmp_path / "two", 2):
        assert code == 0, said
    states = [
        torch.load(only_run(tmp_path / name) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    ]
    for name in [name for name in states[0] if name.startswith("target_state.")]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-5, atol=0)


def test_a_run_of_an_earlier_release_is_restored(tables: dict[str, Path], encoder: Path, tmp_path: Path) -> None:
    """Old names of classes, options and tensors; no units, for targets were learnt as they are."""
    ckpt = fit("regression", "loko", tables, encoder, tmp_path, "--data.max_samples=8")
    file = ckpt.parents[1] / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["optimizer"]["class_path"] = "optimizers.LoKO"
    config["data"]["class_path"] = "datamodules.TextDataModule"
    options = config["optimizer"]["init_args"]
    for name in ("chunk_size", "vectorize"):
        options.pop(name, None)
    options |= {"max_rows": 64, "jacobian": "loop"}
    file.write_text(yaml.safe_dump(config))
    checkpoint = torch.load(ckpt, weights_only=True)
    checkpoint["filtune"]["task"].pop("label_options")
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if "target_state" not in k}
    torch.save(as_earlier(checkpoint), ckpt)
    old = restore(ckpt)
    assert (old.optimizer_class.__name__, type(old.data()).__name__) == ("LoKO", "TextDataModule")
    assert old.target_state is None
    assert old.coding.options == {}
    table = predicted(ckpt, tables["regression"], tmp_path / "out.csv")
    assert list(table) == ["text", "label", "prediction", "std"]
    assert table["prediction"].abs().max() < 100  # in the units of the outputs


def test_a_configuration_names_nothing_but_optimizers(tables: dict[str, Path], encoder: Path, tmp_path: Path) -> None:
    ckpt = fit("count", "adamw_1e-3", tables, encoder, tmp_path, "--data.max_samples=4")
    file = ckpt.parents[1] / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for path, said in (
        ("os.system", "os.system is not a class of filtune"),
        ("filtune.Nope", "filtune.Nope: no such class"),
    ):
        config["optimizer"]["class_path"] = path
        file.write_text(yaml.safe_dump(config))
        with pytest.raises(ValueError, match=said):
            commands.run_predict(["--ckpt_path", str(ckpt), "--input", str(tables["count"])])


def test_online_scores_of_an_earlier_release_are_read(tables: dict[str, Path], encoder: Path, tmp_path: Path) -> None:
    """Its checkpoints call the posterior predictive scores moderated."""
    ckpt = fit("multilabel", "adamw_1e-3", tables, encoder, tmp_path, "--data.max_samples=4")
    checkpoint = torch.load(ckpt, weights_only=True)
    state = checkpoint["state_dict"]
    names = [name for name in state if name.startswith("online.predictive.")]
    assert names
    for name in names:
        state[name.replace("predictive", "moderated")] = state.pop(name)
    torch.save(as_earlier(checkpoint), ckpt)
    code, said = run(["validate", "--config", str(ckpt.parents[1] / "config.yaml"), "--ckpt_path", str(ckpt)], tmp_path)
    assert code == 0, said
