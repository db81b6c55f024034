"""A folder of a backbone with odd values in its files: it loads, or one line names it, its fault and the remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from filtune.lightning_modules import BackboneConfig, build_backbone
from filtune.lightning_modules.backbones.errors import BackboneError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from tests.conftest import SIZES, VOCABULARY, Task

ODD: list[Any] = [None, [], {}, [1], {"a": 1}, "x", "", "12", -1, 0, 1, 0.5, 3, 100, True, False, "os.system", ["x"]]
TEXT, IMAGE = Task(outputs=3), Task(modality="image", image_shape=(3, 32, 32), outputs=3)


@pytest.fixture(scope="module")
def text(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a small BERT that may be changed."""
    return Path(shutil.copytree(tiny_bert, tmp_path_factory.mktemp("odd") / "text"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's smallest EfficientNet, as timm saves it."""
    path = tmp_path_factory.mktemp("odd") / "image"
    timm.models.save_for_hf(timm.create_model("test_efficientnet", num_classes=3), str(path), safe_serialization=True)
    return path


def outcome(folder: Path, task: Task, **options: Any) -> str:
    """Return the refusal, checked to be one line of ours that names the folder; an empty one where it loads."""
    said = ""
    try:
        build_backbone(BackboneConfig(str(folder), image_size=32 if task is IMAGE else None, **options), task)
    except BackboneError as error:
        said = str(error)
    assert not said or (said.startswith("model.backbone.name: ") and str(folder) in said and "; " in said)
    assert "\n" not in said
    return said


def changed(folder: Path, file: str, value: Any, *keys: str) -> Callable[[], None]:
    """Set an entry of a JSON file, or the whole content where no keys are given; return what undoes it."""
    path = folder / file
    before = path.read_text()
    content = value
    if keys:
        content = json.loads(before)
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
    path.write_text(json.dumps(content))
    return lambda: path.write_text(before) and None


def entries(folder: Path, file: str, *more: str) -> list[tuple[str, tuple[str, ...]]]:
    content = json.loads((folder / file).read_text())
    inner = [(file, (key, name)) for key, value in content.items() if isinstance(value, dict) for name in value]
    return [(file, ()), *((file, (key,)) for key in [*content, *more]), *inner]


def check(folder: Path, task: Task, data: st.DataObject, places: list[tuple[str, tuple[str, ...]]]) -> None:
    file, keys = data.draw(st.sampled_from(places))
    undo = changed(folder, file, data.draw(st.sampled_from(ODD)), *keys)
    try:
        outcome(folder, task, pretrained=data.draw(st.booleans()))
    finally:
        undo()


quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.filterwarnings("ignore")
@quick
@given(data=st.data())
def test_any_value_in_a_text_model_s_files(text: Path, data: st.DataObject) -> None:
    more = "quantization_config", "torch_dtype", "auto_map", "id2label", "rope_scaling"
    check(text, TEXT, data, entries(text, "config.json", *more) + entries(text, "tokenizer_config.json"))


@pytest.mark.filterwarnings("ignore")
@quick
@given(data=st.data())
def test_any_value_in_an_image_model_s_files(image: Path, data: st.DataObject) -> None:
    check(image, IMAGE, data, entries(image, "config.json", "model_args", "global_pool"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "keys", "value", "said"),
    [
        ("config.json", (), [], "config.json is damaged: it must hold an object, not a list"),
        ("config.json", ("quantization_config",), "x", "config.json: "),
        ("config.json", ("dtype",), "os.system", "AttributeError"),
        ("config.json", ("vocab_size",), 10, "other sizes than its config.json says"),
        ("config.json", ("num_hidden_layers",), "2", "config.json: .*'num_hidden_layers'"),
        ("config.json", ("model_type",), "nonet", "config.json: .*nonet"),
        ("tokenizer_config.json", ("model_max_length",), "x", "'<' not supported"),
        ("tokenizer_config.json", ("pad_token",), 3, "its tokenizer: .*pad_token"),
        ("tokenizer.json", (), {}, "its tokenizer: "),
    ],
)
def test_the_file_and_the_cause_are_named(text: Path, file: str, keys: tuple, value: Any, said: str) -> None:
    undo = changed(text, file, value, *keys)
    try:
        assert re.search(said, outcome(text, TEXT))
    finally:
        undo()


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("pretrained_cfg",), [1], "pretrained_cfg of its config.json must be an object, not a list"),
        (("model_args",), {"checkpoint_path": "/etc/passwd"}, "checkpoint_path in model_args"),
        (("pretrained_cfg", "mean"), "x", "mean must be a number in 0..1 for each of 3 channels, got 'x'"),
        (("pretrained_cfg", "std"), [0.0, 0.0, 0.0], "std must be a number"),
        (("pretrained_cfg", "mean"), [123.7, 116.3, 103.5], "mean must be a number in 0..1"),
        (("pretrained_cfg", "input_size"), 3, "input_size must be three positive integers"),
        (("architecture",), ["test_resnet"], "architecture"),
        (("architecture",), "test_resnet", "does not fit the architecture test_resnet"),
    ],
)
def test_the_entry_of_an_image_model_is_named(image: Path, keys: tuple, value: Any, said: str) -> None:
    undo = changed(image, "config.json", value, *keys)
    try:
        assert said in outcome(image, IMAGE)
    finally:
        undo()


def test_a_folder_s_weights_are_its_own(image: Path) -> None:
    """An address in config.json is not looked up."""
    expected = outputs_of(image)
    card = json.loads((image / "config.json").read_text())["pretrained_cfg"]
    elsewhere = {"source": "hf-hub", "hf_hub_id": "a/b", "url": "http://localhost:9", "file": "/x", "custom_load": True}
    undo = changed(image, "config.json", {**card, **elsewhere}, "pretrained_cfg")
    try:
        torch.testing.assert_close(outputs_of(image), expected, rtol=0, atol=0)
    finally:
        undo()


def outputs_of(folder: Path) -> torch.Tensor:
    return build_backbone(BackboneConfig(str(folder), image_size=32), IMAGE).plain_model.classifier.weight


@pytest.mark.parametrize("cut", [0, 9, 4000])
def test_weights_cut_short(text: Path, cut: int) -> None:
    file = text / "model.safetensors"
    before = file.read_bytes()
    file.write_bytes(before[:cut])
    try:
        assert f"{file} is damaged or cut short" in outcome(text, TEXT)
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_tokenizer_of_another_model(tiny_bert: Path, tmp_path: Path, pretrained: bool) -> None:
    """Its tokens would be beyond the embeddings, at a sample of which nobody knows when it comes."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    config = BertConfig(vocab_size=20, max_position_embeddings=64, **SIZES)
    BertForSequenceClassification(config).save_pretrained(folder)
    said = outcome(folder, TEXT, pretrained=pretrained)
    assert f"the tokenizer has {len(VOCABULARY)} tokens, and the model embeddings of 20 alone" in said


def test_layers_that_are_not_loaded_are_reported(text: Path) -> None:
    undo = changed(text, "config.json", 1, "num_hidden_layers")
    try:
        with pytest.warns(UserWarning, match=r"has weights of 16 tensors that .* lacks, such as .*layer\.1\."):
            assert not outcome(text, TEXT)
    finally:
        undo()


def test_weights_that_are_not_finite(text: Path) -> None:
    file = text / "model.safetensors"
    before, weights = file.read_bytes(), load_file(file)
    save_file({**weights, "bert.pooler.dense.bias": torch.full((16,), torch.nan)}, file, {"format": "pt"})
    try:
        assert "its outputs are not finite" in outcome(text, TEXT)
    finally:
        file.write_bytes(before)


def test_an_adapter_without_its_model(text: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(text, tmp_path / "adapter", ignore=shutil.ignore_patterns("config.json")))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "is an adapter of PEFT without its model" in outcome(folder, TEXT)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody_of_this_name/x", "/dev/null", "X." * 2000 + "X"])
@pytest.mark.parametrize("task", [TEXT, IMAGE])
def test_a_name_that_cannot_be_a_folder(name: str, task: Task) -> None:
    with pytest.raises(ValueError, match=r"^model.backbone.name: "):
        build_backbone(BackboneConfig(name), task)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no name here")
@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_pipe_is_not_read(tmp_path: Path, kind: str) -> None:
    """Whoever opens it waits until somebody writes."""
    os.mkfifo(tmp_path / "config.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    task = Task() if kind == "text" else Task(modality="image", image_shape=(3, 8, 8), outputs=2)
    with pytest.raises(BackboneError, match=r"config\.json is no regular file; remove it"):
        build_backbone(BackboneConfig(str(tmp_path)), task)
