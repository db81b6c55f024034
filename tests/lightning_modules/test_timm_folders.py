"""timm's models from a local folder or a file of weights, fresh heads at zero, and a head trained alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from filtune.lightning_modules.backbones import BackboneConfig, build_backbone
from safetensors.torch import load_file

from tests.conftest import Task

PIXELS = {"image": torch.arange(2 * 3 * 32 * 32).remainder(251).view(2, 3, 32, 32).byte()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's smallest EfficientNet with random weights and seven classes, as timm saves it."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("timm") / "model"
    timm.models.save_for_hf(timm.create_model("test_efficientnet", num_classes=7), str(path), safe_serialization=True)
    return path


def build(name: Path | str, outputs: int = 10, **options: object):
    task = Task(modality="image", image_shape=(3, 32, 32), outputs=outputs)
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(str(name), image_size=32, **options), task)  # type: ignore[arg-type]


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_folder_and_a_file_in_it_are_what_timm_reads(folder: Path, file: str) -> None:
    backbone = build(folder / file if file else folder)
    reference = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=10).state_dict()
    own = backbone.model.state_dict()
    assert own.keys() == reference.keys()
    for name in own:
        if not name.startswith("classifier"):
            torch.testing.assert_close(own[name], reference[name], rtol=0, atol=0)
    assert backbone.has_fresh_head


def test_a_pickle_of_tensors_is_read_and_any_other_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    torch.testing.assert_close(
        build(tmp_path).model.conv_stem.weight, build(folder).model.conv_stem.weight, rtol=0, atol=0
    )
    torch.save({"state_dict": weights, "run": Path("/")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin' is damaged, or not a file of weights"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text('{"architecture": "nonet"}'), "architecture 'nonet'"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "damaged"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, change, culprit: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(ValueError, match=culprit) as refusal:
        build(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_not_there_is_not_looked_up_by_timm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there"):
        build(tmp_path / "none")


@pytest.mark.parametrize("adapter", [None, "head"])
def test_a_fresh_head_starts_at_zero_on_pre_trained_weights(folder: Path, adapter: str | None) -> None:
    backbone = build(folder, adapter=adapter)
    assert not backbone(backbone.preprocess(PIXELS)).any()
    assert build(folder, adapter=adapter, head_init="random")(backbone.preprocess(PIXELS)).any()
    assert build(folder, adapter=adapter, pretrained=False)(backbone.preprocess(PIXELS)).any()


@pytest.mark.parametrize("card", [False, True])
def test_both_heads_of_a_distilled_network_start_at_zero(tmp_path: Path, card: bool) -> None:
    """Their mean is predicted; which layers they are is known of the architecture, if config.json does not say it."""
    torch.manual_seed(0)
    name = "deit_tiny_distilled_patch16_224"
    timm.models.save_for_hf(timm.create_model(name, num_classes=7), str(tmp_path), safe_serialization=True)
    if not card:
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 7}))
    backbone = build(tmp_path, outputs=5)
    assert backbone.head == ("head", "head_dist")
    assert not backbone(backbone.preprocess(PIXELS)).any()


def test_a_head_that_comes_with_the_weights_is_kept(folder: Path) -> None:
    backbone = build(folder, outputs=7)
    assert not backbone.has_fresh_head
    stored = load_file(folder / "model.safetensors")["classifier.weight"]
    torch.testing.assert_close(backbone.model.classifier.weight, stored, rtol=0, atol=0)


def test_random_weights_of_a_folder_have_a_fresh_head(folder: Path) -> None:
    backbone = build(folder, outputs=7, pretrained=False, head_init="zero")
    assert backbone.has_fresh_head
    assert not backbone.model.classifier.weight.any()


def test_the_adapter_head_trains_the_head_alone(folder: Path) -> None:
    backbone = build(folder, adapter="head")
    trained = {name for name, param in backbone.named_parameters() if param.requires_grad}
    assert trained == {"model.classifier.weight", "model.classifier.bias"}


def test_normalisation_stays_as_it_was_pre_trained(folder: Path) -> None:
    backbone = build(folder, adapter="lora", rank=2, targets=["pointwise"])
    before = {name: value.clone() for name, value in backbone.state_dict().items() if ".bn" in name}
    backbone(backbone.preprocess(PIXELS)).sum().backward()
    assert before
    for name, value in before.items():
        torch.testing.assert_close(backbone.state_dict()[name], value, rtol=0, atol=0)
    assert not any(param.requires_grad for name, param in backbone.named_parameters() if ".bn" in name)


def test_pointwise_leaves_out_what_lora_cannot_split(folder: Path) -> None:
    adapted = build(folder, adapter="lora", rank=2, targets=["pointwise"])
    names = {name for name, param in adapted.named_parameters() if "lora_A" in name}
    assert names
    assert not any("conv_dw" in name or "conv_stem" in name for name in names)
    for method in ("lora", "loha"):
        with pytest.raises(ValueError, match=r"conv_dw is a convolution of \d+ groups.*leave it out"):
            build(folder, adapter=method, rank=2, targets=["conv_dw"])


def test_the_settings_are_not_kept_with_the_weights_in_them(folder: Path) -> None:
    model = build(folder).model
    assert "state_dict" not in model.pretrained_cfg
    json.dumps(model.pretrained_cfg)
