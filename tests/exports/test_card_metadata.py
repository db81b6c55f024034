"""The metadata of a model card: what is known, in the hub's form, and nothing that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from filtune.datamodules import Task
from filtune.exports import metadata
from filtune.exports.card import write_card
from filtune.exports.metadata import HubOptions
from filtune.exports.restore import Restored
from filtune.lightning_modules.backbones import BackboneConfig
from huggingface_hub import ModelCard, ModelCardData, constants

from tests.exports.hub_stub import card_errors
from tests.exports.runs import image_task, run_of, text_task

SUMMARY = {
    "steps": 60,
    "samples": 60,
    "online_accuracy": 50.0,
    "online_nll": 0.68,
    "val": {"accuracy": 62.0, "loss": 0.67},
    "val_rows": 100,
}


def finished(run: Restored, **summary: Any) -> Restored:
    """The run with a summary, of data from the hub or from a folder."""
    run.__dict__["summary"] = {**SUMMARY, **summary}
    options = {"source": "nyu-mll/glue", "name": "sst2", "val_split": "validation"}
    run.config["data"] = {"class_path": "filtune.TextDataModule", "init_args": options}
    run.checkpoint["global_step"] = 60
    return run


def lenet(folder: Path, task: Task | None = None) -> Restored:
    return run_of(BackboneConfig("lenet5", pretrained=False), task or image_task(), folder)


def card_of(run: Restored, folder: Path, **options: Any) -> ModelCardData:
    """The metadata of a written card, which the hub's validation takes, as far as it is known without a network."""
    write_card(run, folder, folder / "my model", whole=True, base=None, difference=0.0, hub=HubOptions(**options))
    text = (folder / "README.md").read_text()
    assert card_errors(text) == []
    card = ModelCard.load(folder / "README.md")
    assert str(card) == text
    return card.data


def test_metrics_are_in_the_form_of_the_model_index(tmp_path: Path) -> None:
    """Those in percent as fractions, the validation's apart from those of the stream."""
    data = card_of(finished(lenet(tmp_path)), tmp_path)
    validation, online = data.eval_results
    assert data.model_name == "my model"
    assert (validation.metric_type, validation.metric_value, validation.dataset_split) == (
        "accuracy",
        0.62,
        "validation",
    )
    assert (online.metric_type, online.metric_value, online.dataset_split) == ("accuracy", 0.5, "train")
    assert "before each update" in online.metric_name
    assert (validation.dataset_args, online.dataset_args) == ({"samples": 100}, {"samples": 60})
    assert (validation.dataset_config, validation.dataset_name, validation.task_type) == (
        "sst2", "pictures", "image-classification",
    )  # fmt: skip
    assert data.metrics == ["accuracy"]


@pytest.mark.parametrize(
    ("kind", "val", "expected", "tag"),
    [
        ("regression", {"pearson": 90.0, "rmse": 3.0}, {"pearsonr": 0.9, "rmse": 3.0}, None),
        ("count", {"deviance": 1.5, "mae": 2}, {"deviance": 1.5, "mae": 2.0}, None),
        ("multilabel", {"f1": 80.0, "exact_match": 40.0}, {"f1": 0.8, "exact_match": 0.4}, "image-classification"),
    ],
)
def test_kinds(kind: str, val: dict[str, float], expected: dict[str, float], tag: str | None, tmp_path: Path) -> None:
    classes = ("a", "b") if kind == "multilabel" else ()
    run = lenet(tmp_path, Task("pictures", kind, len(classes) or 1, classes, "image", (1, 8, 8), ()))
    data = card_of(finished(run, val=val), tmp_path)
    found = {each.metric_type: each.metric_value for each in data.eval_results if each.dataset_split == "validation"}
    assert (found, data.pipeline_tag) == (expected, tag)


@pytest.mark.parametrize("value", ["62", None, float("nan"), True, [62]])
def test_what_is_no_number_is_no_metric(value: object, tmp_path: Path) -> None:
    run = finished(lenet(tmp_path), val={"accuracy": value, "<script>": 1.0}, online_accuracy=value)
    assert card_of(run, tmp_path).eval_results is None


def test_a_summary_of_a_stranger_breaks_no_card(tmp_path: Path) -> None:
    run = finished(lenet(tmp_path), val=["a"], val_rows="many", samples=[], steps=None)
    assert [each.dataset_args for each in card_of(run, tmp_path).eval_results] == [None]


def test_figures_of_a_later_step_are_not_claimed(tmp_path: Path) -> None:
    run = finished(lenet(tmp_path))
    run.checkpoint["global_step"] = 20
    assert card_of(run, tmp_path).eval_results is None
    assert "this checkpoint is of step 20" in (tmp_path / "README.md").read_text()


def test_data_of_the_hub_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path can look like a hub id: only what the hub's cache has is named."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    run = finished(lenet(tmp_path))
    assert card_of(run, tmp_path).datasets is None
    (tmp_path / "cache" / "datasets--nyu-mll--glue").mkdir(parents=True)
    data = card_of(run, tmp_path)
    assert data.datasets == ["nyu-mll/glue"]
    assert data.eval_results[0].dataset_type == "nyu-mll/glue"


CARDS = [
    ("---\nlicense: Apache-2.0\n---\n", {}, {"license": "apache-2.0"}),
    ("---\nlicense: other\nlicense_name: own\nlicense_link: https://x.org/l\n---\n", {},
     {"license": "other", "license_name": "own", "license_link": "https://x.org/l"}),
    ("---\nlicense: other\nlicense_link: javascript:x\n---\n", {}, {"license": "other"}),
    ("# no metadata\n", {"license": "mit"}, {"license": "mit"}),
    ("---\nlicense: [a, b]\n---\n", {"pretrained_cfg": {"license": "mit"}}, {"license": "mit"}),
    ("---\nlicense: 'a\\n---\\n# x'\n---\n", {}, {}),
    ("---\nlicense: !!python/object/apply:os.system ['x']\n---\n", {}, {}),
    ("---\n- a\n---\n", {"license": 3}, {}),
    ("---\n: :\n", {"pretrained_cfg": "x"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("readme", "config", "expected"), CARDS)
def test_the_licence_is_what_the_base_model_states(
    readme: str, config: dict[str, Any], expected: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "README.md").write_text(readme)
    (folder / "config.json").write_text(json.dumps(config))
    run = lenet(tmp_path)
    object.__setattr__(run, "architecture", BackboneConfig(str(folder)))
    assert metadata.base_license(run, None) == expected
    assert metadata.base_model_id(run) is None  # a folder
    assert card_of(run, tmp_path, license="mit").license == "mit"


def test_a_model_of_the_hub_is_named(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights have no base model and no licence, whatever their name."""
    run = run_of(BackboneConfig("test_vit", pretrained=False), image_task(), tmp_path)
    assert (metadata.base_model_id(run), metadata.base_license(run, None)) == (None, {})
    weights = timm.get_pretrained_cfg("test_vit")
    object.__setattr__(run, "architecture", BackboneConfig("test_vit"))
    assert metadata.base_model_id(run) == weights.hf_hub_id
    data = card_of(run, tmp_path)
    assert (data.base_model, data.base_model_relation) == (weights.hf_hub_id, "finetune")
    assert (data.license, data.library_name) == (weights.license, "timm")
    text = run_of(BackboneConfig(str(encoder)), text_task(), tmp_path)
    object.__setattr__(text, "architecture", BackboneConfig("org/encoder"))
    cached = tmp_path / "README.cached.md"
    cached.write_text("---\nlicense: cc-by-4.0\n---\n")
    monkeypatch.setattr(metadata, "try_to_load_from_cache", lambda *_: str(cached))
    data = card_of(text, tmp_path)
    assert (data.base_model, data.license, data.pipeline_tag) == ("org/encoder", "cc-by-4.0", "text-classification")


ODD = ["a\n---\n# b", "x: y", "- [a", "&a *b", "!!python/none", "\x1b[0m\u2028", "'\"", "{{ 7 }}", "null", "\ud800"]


@pytest.mark.parametrize("name", ODD)
def test_names_of_the_data_stay_within_their_field(name: str, tmp_path: Path) -> None:
    task = Task(name, "classification", 2, (name, "other"), "image", (1, 8, 8), ("accuracy",))
    run = finished(lenet(tmp_path, task))
    run.config["data"]["init_args"] = {"source": name, "name": name, "val_split": name, "train_split": name}
    data = card_of(run, tmp_path)
    assert set(data.to_dict()) == {"library_name", "pipeline_tag", "metrics", "tags", "model-index"}
    for result in data.eval_results:
        assert result.dataset_name == result.dataset_split == result.dataset_config == metadata.plain(name)
    front = (tmp_path / "README.md").read_text().split("\n---\n")[0]
    assert yaml.safe_load(front)["model-index"][0]["name"] == "my model"
