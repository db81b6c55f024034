"""Exported image models give the run's outputs, loaded as their README.md says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from filtune.exports.export import export
from filtune.exports.restore import Restored
from filtune.lightning_modules.backbones import BackboneConfig, timm_models
from torch import Tensor

from tests.exports.runs import image_task, logits_of, run_card, run_of

MODELS = {"test_vit": ["query"], "test_resnet": ["conv"]}
PIXELS = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models whose pre-trained weights are available: always the same ones."""
    create: Callable[..., Any] = timm.create_model

    def with_weights(name: str, pretrained: bool = False, **options: Any) -> torch.nn.Module:
        with torch.random.fork_rng():
            if pretrained:
                torch.manual_seed(7)
            return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", with_weights)
    monkeypatch.setattr(timm_models, "check_weights_available", lambda *_: None)


def image_run(name: str, folder: Path, **options: Any) -> Restored:
    options = {"adapter": "lora", "rank": 2, "targets": MODELS.get(name, []), **options}
    return run_of(BackboneConfig(name=name, **options), image_task(), folder)


def loaded(folder: Path) -> Tensor:
    """What the model says that the README.md loads, with the constants that it has."""
    names = run_card(folder)
    with torch.no_grad():
        return names["model"]((PIXELS.float() / 255 - names["mean"]) / names["std"])


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("name", MODELS)
def test_adapter(name: str, adapter: str, tmp_path: Path) -> None:
    run = image_run(name, tmp_path, adapter=adapter)
    export(run, tmp_path / "out")
    assert not (tmp_path / "out" / "base").exists()
    assert torch.equal(loaded(tmp_path / "out"), logits_of(run, {"image": PIXELS}))


@pytest.mark.parametrize("name", MODELS)
def test_random_base_goes_with_the_adapter(name: str, tmp_path: Path) -> None:
    run = image_run(name, tmp_path, pretrained=False)
    export(run, tmp_path / "out")
    assert torch.equal(loaded(tmp_path / "out"), logits_of(run, {"image": PIXELS}))


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("name", MODELS)
def test_merged(name: str, adapter: str, tmp_path: Path) -> None:
    """As transformers' own are merged, which is tested in float64; here the rounding of two forward passes comes in.

    Along a pass each of the L layers adds relative errors of about sqrt(n) u to sums of n <= 9 * 96 numbers of either
    sign; L < 40 such errors in sequence make 40 * 30 * 6e-8 = 7e-5 of the largest number.
    """
    run = image_run(name, tmp_path, pretrained=False, adapter=adapter)
    expected = logits_of(run, {"image": PIXELS})
    export(run, tmp_path / "out", merge=True)
    found = loaded(tmp_path / "out")
    assert (found - expected).abs().max() < 7e-5 * expected.abs().max()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_classes"], config["label_names"]) == (3, ["cat", "dog", "bird"])


@pytest.mark.parametrize("name", ["test_resnet", "lenet5"])
def test_model_without_an_adapter_is_written_whole(name: str, tmp_path: Path) -> None:
    run = image_run(name, tmp_path, adapter=None, pretrained=False)
    said = export(run, tmp_path / "out")
    assert "which had no adapter" in said
    names = run_card(tmp_path / "out")
    size = run.backbone.size
    pixels = PIXELS[..., :size, :size]
    with torch.no_grad():
        found = names["model"]((pixels.float() / 255 - names["mean"]) / names["std"])
    assert torch.equal(found, logits_of(run, {"image": pixels}))
