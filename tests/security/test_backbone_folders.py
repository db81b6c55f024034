"""No code of a backbone's folder is executed: configurations that name some are refused, and so are pickled weights."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.datamodules import Task
from filtune.lightning_modules import BackboneConfig, build_backbone
from filtune.lightning_modules.backbones.folders import refuse_code

from tests.security.conftest import Refused

CODE = {
    "AutoConfig": "evil_module.Plain",
    "AutoModel": "evil_module.Plain",
    "AutoTokenizer": ["evil_module.Plain", None],
}


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path, evil: str) -> Path:
    """A copy of a small model, with the evil module beside its weights."""
    target = tmp_path / "backbone"
    shutil.copytree(tiny_bert, target)
    shutil.copy(tmp_path / "evil" / "evil_module.py", target)
    return target


@pytest.fixture
def fit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that trains on it; whoever is asked a question fails the test."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    (tmp_path / "x.csv").write_text("text,label\n" + "a good film,1\na bad plot,0\n" * 6)
    return ["fit", "--config=trainer/cpu", "--config=task/own_text", f"--data.source={tmp_path / 'x.csv'}",
            f"--model.backbone.name={folder}", "--model.backbone.library=transformers", "--optimizer=SGD",
            f"--run.root={tmp_path / 'runs'}", "--trainer.enable_progress_bar=false"]  # fmt: skip


def change(file: Path, entries: dict[str, Any]) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **entries}))


@pytest.mark.parametrize(
    ("file", "entries", "named"),
    [
        ("config.json", {"auto_map": CODE}, "auto_map"),
        ("config.json", {"auto_map": CODE, "model_type": "evil"}, "auto_map"),
        ("config.json", {"auto_map": {"AutoModel": "other/repository--evil_module.Plain"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": CODE}}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": CODE}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": CODE, "tokenizer_class": "EvilTokenizer"}, "auto_map"),
        ("config.json", {"attn_implementation": "evil/kernel"}, "attn_implementation"),
        ("adapter_config.json", {"megatron_config": {"a": 1}, "megatron_core": "evil_module"}, "megatron_config"),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "evil_module"}}, "auto_mapping"),
    ],
)
def test_code_that_a_configuration_names_is_refused(
    file: str, entries: dict[str, Any], named: str, folder: Path
) -> None:
    change(folder / file, entries)
    task = Task("reviews", "classification", 2, ("a", "b"), "text", None, ("accuracy",))
    for pretrained in (True, False):
        with pytest.raises(ValueError, match=f"{file} names .*remove the entry {named}"):
            build_backbone(BackboneConfig(str(folder), library="transformers", pretrained=pretrained), task)


def test_fit_refuses_it_without_a_question(folder: Path, fit: list[str], refused: Refused) -> None:
    change(folder / "config.json", {"auto_map": CODE, "model_type": "evil"})
    assert "remove the entry auto_map" in refused(*fit)


def test_what_names_no_code_is_let_through(tiny_bert: Path, tmp_path: Path) -> None:
    refuse_code(str(tiny_bert))
    refuse_code("hub/id")
    folder = tmp_path / "plain"
    folder.mkdir()
    change(
        folder / "adapter_config.json",
        {"auto_mapping": None, "megatron_config": None, "megatron_core": "megatron.core"},
    )
    change(folder / "config.json", {"attn_implementation": "sdpa", "auto_map": {}})
    (folder / "broken_config.json").write_text("{")
    refuse_code(str(folder))


class Act:
    """Calls a function when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_weights_are_not_unpickled(
    legacy: bool, folder: Path, fit: list[str], mark: Path, refused: Refused
) -> None:
    (folder / "model.safetensors").unlink()
    if legacy:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Act(str(mark))))
    else:
        torch.save({"weight": Act(str(mark))}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refused(*fit)
    assert not mark.exists()
