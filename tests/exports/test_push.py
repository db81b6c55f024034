"""``filtune export --push`` writes to the hub, here a server on this machine, and refuses before it exports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from filtune.exports import export
from filtune.exports.commands import run_export
from filtune.exports.restore import Restored
from filtune.lightning_modules.backbones import BackboneConfig
from huggingface_hub import ModelCard, constants

from tests.exports.hub_stub import TOKEN, Hub, running
from tests.exports.runs import image_task, logits_of, run_card, run_of, text_task


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub of a user with a token."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with running(Hub()) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        template = f"{found.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restored:
    """A run that commands find, whatever the checkpoint."""
    found = run_of(BackboneConfig("lenet5", pretrained=False), image_task((1, 8, 8)), tmp_path)
    monkeypatch.setattr(export, "restore", lambda *_: found)
    return found


def push(*args: str) -> None:
    run_export(["--ckpt_path", "last.ckpt", *args])


def refused(*args: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 what it says is what is tested
        push(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["me/digits", "digits", "lab/digits"])
def test_a_new_repository(
    name: str, hub: Hub, run: Restored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds the folder, and its card loads the model from there."""
    push("--push", name, "--private", "--license", "mit", "--to", str(tmp_path / "out"))
    repo = name if "/" in name else f"me/{name}"
    assert hub.private == {repo}
    files = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name: content for name, content in hub.repos[repo].items() if name != ".gitattributes"} == files
    assert f"{hub.address}/{repo}: pushed as a private repository" in capsys.readouterr().out
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "image-classification")
    assert str(tmp_path) not in str(card)


@pytest.mark.parametrize("name", ["merged", "torch_export"])
def test_the_card_loads_the_model_from_the_hub(name: str, hub: Hub, run: Restored, tmp_path: Path) -> None:
    """Without ``--to``, nothing else is left on this machine."""
    push("--push", "Me/digits", "--format", name)
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_bytes(hub.repos["me/digits"]["README.md"])
    model = run_card(tmp_path / "card")["model"]
    pixels = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        normalised = (pixels - run.backbone.mean) / run.backbone.std
        found = model(normalised) if name == "merged" else model(pixel_values=normalised)
    assert torch.equal(found, logits_of(run, {"image": pixels}))


def test_an_earlier_export_is_replaced_when_asked(hub: Hub, run: Restored) -> None:
    hub.repos["me/digits"] = {
        "README.md": b"",
        "adapter_model.safetensors": b"",
        "adapter_config.json": b"",
        "LICENSE": b"",
    }
    assert "me/digits is not empty" in refused("--push", "me/digits")
    push("--push", "me/digits", "--overwrite")
    assert set(hub.repos["me/digits"]) == {"README.md", "LICENSE", "model.safetensors", "task.json"}
    hub.repos["me/thesis"] = {"thesis.tex": b""}
    assert "me/thesis holds no earlier export" in refused("--push", "me/thesis", "--overwrite")
    hub.repos["me/card"] = {"README.md": b"# mine"}
    assert "me/card is not empty" in refused("--push", "me/card")
    push("--push", "me/card", "--overwrite")


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, run: Restored) -> None:
    hub.repos["me/digits"] = {}
    assert "--private: me/digits exists and is public" in refused("--push", "me/digits", "--private")
    assert "--private: goes with --push" in refused("--to", "out", "--private")
    assert "--format adapter: the run has no adapter" in refused("--to", "out", "--format", "adapter")


@pytest.mark.parametrize("name", ["a b", "me/", "/x", "me/a/b", "me/--", "x" * 97, "me/x.git", "", "me\nx/y"])
def test_an_invalid_name(name: str, hub: Hub, run: Restored) -> None:
    assert "is no name of a repository; name it as USER/MODEL" in refused("--push", name)
    assert hub.asked == []


def test_a_repository_of_someone_else(hub: Hub, run: Restored) -> None:
    said = refused("--push", "someone/digits")
    assert said == "--push: someone/digits is not yours: the token is of me; name one of me/digits, lab/digits"
    assert hub.asked == ["GET /api/whoami-v2"]


def test_no_token(hub: Hub, run: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token" in refused("--push", "me/digits")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.role = "read"
    assert "may not write there" in refused("--push", "me/digits")
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token of the hub; log in with `hf auth login`, or set HF_TOKEN" in refused(
        "--push", "me/digits"
    )


def test_no_network(hub: Hub, run: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers
    assert "the hub cannot be reached" in refused("--push", "me/digits")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set" in refused("--push", "me/digits")


@pytest.mark.parametrize(
    ("part", "status", "said"), [("create", 403, "may not write there"), ("/commit/", 403, "may not")]
)
def test_what_the_hub_refuses_later(part: str, status: int, said: str, hub: Hub, run: Restored, tmp_path: Path) -> None:
    """The folder stays."""
    hub.refuse[part] = status
    assert said in refused("--push", "me/digits", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "README.md").exists()


def test_an_adapter_names_a_base_model_that_others_have(
    hub: Hub, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's is a folder of this machine, whose path is not published."""
    run = run_of(BackboneConfig(name=str(encoder), adapter="lora", rank=2), text_task(), tmp_path)
    monkeypatch.setattr(export, "restore", lambda *_: run)
    assert "name its hub id by --base_model, or push the whole model with --merge" in refused("--push", "me/reviews")
    assert hub.repos == {}
    push("--push", "me/reviews", "--base_model", "org/encoder")
    files = hub.repos["me/reviews"]
    assert ModelCard(files["README.md"].decode()).data.base_model == "org/encoder"
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/encoder"
    push("--push", "me/merged", "--merge")
    for name, content in {**files, **hub.repos["me/merged"]}.items():
        assert str(encoder).encode() not in content, name


def test_no_adapter_on_random_weights(hub: Hub, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"adapter": "lora", "rank": 2, "pretrained": False}
    run = run_of(BackboneConfig(name=str(encoder), **options), text_task(), tmp_path)
    monkeypatch.setattr(export, "restore", lambda *_: run)
    assert "nowhere else; push the whole model with --merge" in refused("--push", "me/reviews")
    assert "--base_model: the run started from random weights" in refused("--to", "x", "--base_model", "org/encoder")


def test_the_metadata_is_taken_by_the_validation_of_the_hub(hub: Hub, run: Restored, tmp_path: Path) -> None:
    push("--to", str(tmp_path / "out"))
    ModelCard.load(tmp_path / "out" / "README.md").validate()
    assert huggingface_hub.metadata_load(tmp_path / "out" / "README.md")["tags"] == ["filtune"]
