"""Backbones: built by name for a task, adapted by role, with the head among what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from filtune.lightning_modules import BackboneConfig, build_backbone
from filtune.lightning_modules.backbones.adapters import resolve_targets
from filtune.lightning_modules.backbones.image import ImageBackbone
from filtune.lightning_modules.backbones.lenet import LeNet5
from torch import nn
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

from tests.conftest import Task


def trained(module: nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in module.named_parameters() if p.requires_grad}


def test_lenet5_has_61706_parameters() -> None:
    assert sum(p.numel() for p in LeNet5().parameters()) == 61_706


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 40, 20)])
def test_lenet5_takes_images_of_any_size(shape: tuple[int, int, int]) -> None:
    backbone = build_backbone(BackboneConfig(), Task(modality="image", image_shape=shape, outputs=7))
    images = torch.randint(0, 255, (2, *shape), dtype=torch.uint8)
    assert backbone(backbone.preprocess({"image": images})).shape == (2, 7)
    mixed = [images[0], torch.rand(shape[0], 31, 17)]
    assert backbone(backbone.preprocess({"image": mixed})).shape == (2, 7)


def test_uint8_and_float_images_mean_the_same() -> None:
    backbone = build_backbone(BackboneConfig(), Task(modality="image", image_shape=(1, 28, 28), outputs=10))
    image = torch.randint(0, 255, (1, 1, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(
        backbone.preprocess({"image": image}), backbone.preprocess({"image": image.float() / 255})
    )


@pytest.mark.parametrize("head", ["own", "mean"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_adapter_and_head_are_trained_and_nothing_else(tiny_bert: Path, head: str, adapter: str) -> None:
    config = BackboneConfig(str(tiny_bert), adapter=adapter, rank=3, targets=["query", "value"], head=head)  # type: ignore[arg-type]
    backbone = build_backbone(config, Task())
    names = trained(backbone)
    expected_lora = 2 * 2 * 2 * 3 * 16  # layers, modules, A and B, rank x width
    assert sum(n for name, n in names.items() if "lora_A" in name or "lora_B" in name) == expected_lora
    assert sum(n for name, n in names.items() if "modules_to_save" in name) == 2 * 16 + 2
    rest = [name for name in names if not any(key in name for key in ("lora_", "modules_to_save"))]
    assert not rest
    assert not any(module.training for module in backbone.modules())


def test_without_an_adapter_everything_is_trained(tiny_bert: Path) -> None:
    backbone = build_backbone(BackboneConfig(str(tiny_bert), adapter=None), Task())
    assert len(trained(backbone)) == len(list(backbone.named_parameters()))


def test_texts_and_pairs_are_tokenised(tiny_bert: Path) -> None:
    backbone = build_backbone(BackboneConfig(str(tiny_bert), adapter="lora", head="mean", max_length=12), Task())
    single = backbone.preprocess({"text": ["good film", "a very dull plot and a poor story"]})
    pairs = backbone.preprocess({"text": [("good film", "great film")]})
    assert single["input_ids"].shape[0] == 2
    assert pairs["token_type_ids"].max() == 1
    assert backbone(single).shape == (2, 2)
    long = backbone.preprocess({"text": ["good " * 50]})
    assert long["input_ids"].shape[1] == 12


def test_a_head_at_zero_favours_no_class(tiny_bert: Path) -> None:
    config = BackboneConfig(str(tiny_bert), adapter="lora", head="mean", head_init="zero")
    backbone = build_backbone(config, Task(outputs=3))
    assert not backbone(backbone.preprocess({"text": ["good film"]})).any()


def test_with_as_many_classes_as_features_the_last_layer_starts_at_zero(tiny_bert: Path, tmp_path: Path) -> None:
    """DistilBERT's head has another layer of that size before it, behind which nothing would be learnt."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    shape = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 32}
    DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = build_backbone(BackboneConfig(str(tmp_path)), Task(outputs=16))
    assert not backbone.model.classifier.weight.any()
    assert backbone.model.pre_classifier.weight.any()
    assert not backbone(backbone.preprocess({"text": ["good film"]})).any()


def test_mean_pooling_ignores_padding(tiny_bert: Path) -> None:
    backbone = build_backbone(BackboneConfig(str(tiny_bert), adapter="lora", head="mean"), Task())
    alone = backbone(backbone.preprocess({"text": ["good film"]}))
    padded = backbone(backbone.preprocess({"text": ["good film", "a very dull plot and a poor story"]}))[:1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "role", "layers"),
    [("resnet18", "conv", 20), ("vit_tiny_patch16_224", "query", 12), ("vit_tiny_patch16_224", "fc1", 12)],
)
def test_roles_resolve_by_architecture(name: str, role: str, layers: int) -> None:
    import timm

    model = timm.create_model(name, num_classes=3)
    assert len(resolve_targets(model, [role], ("head", "fc"))) == layers


def pixels_of(backbone: ImageBackbone, images: torch.Tensor) -> torch.Tensor:
    """What the model sees, in 0..1."""
    return backbone.preprocess({"image": images}) * backbone.std + backbone.mean


@pytest.mark.parametrize("shape", [(3, 30, 60), (3, 60, 30), (3, 33, 47)])
def test_an_image_keeps_its_aspect_and_its_middle(shape: tuple[int, int, int]) -> None:
    """A disc stays a disc: the shorter side is resized, the longer one cut."""
    config = BackboneConfig("test_vit", library="timm", pretrained=False)
    backbone = build_backbone(config, Task(modality="image", image_shape=shape, outputs=2))
    assert isinstance(backbone, ImageBackbone)
    _, height, width = shape
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    disc = (x**2 + y**2 < (min(height, width) / 3) ** 2).to(torch.uint8).mul(255).expand(1, *shape)
    fitted = pixels_of(backbone, disc)[0, 0] > 0.5
    assert fitted.shape == (backbone.size, backbone.size)
    rows, columns = fitted.any(1).sum(), fitted.any(0).sum()
    # a pixel of the image is size / min(height, width) of the model's; an edge may be off by one
    assert abs(int(rows) - int(columns)) <= 2 * backbone.size / min(height, width)
    assert torch.equal(fitted, fitted.flip(0).flip(1)) or min(height, width) % 2


def test_the_backbones_own_interpolation_is_used() -> None:
    task = Task(modality="image", image_shape=(3, 8, 8), outputs=2)
    kinds = {}
    for name in ("resnet18", "vit_tiny_patch16_224", "test_vit"):
        backbone = build_backbone(BackboneConfig(name, library="timm", pretrained=False), task)
        assert isinstance(backbone, ImageBackbone)
        kinds[name] = backbone.interpolation
        pixels = pixels_of(backbone, torch.randint(0, 2, (1, 3, 8, 8), dtype=torch.uint8) * 255)
        # scaled by mean and standard deviation, and back
        assert pixels.min() >= -1e-6
        assert pixels.max() <= 1 + 1e-6
    assert kinds == {name: timm.get_pretrained_cfg(name).interpolation for name in kinds}


def test_a_transformer_is_built_for_the_size_asked_for() -> None:
    config = BackboneConfig("vit_tiny_patch16_224", library="timm", pretrained=False, image_size=64)
    backbone = build_backbone(config, Task(modality="image", image_shape=(3, 90, 70), outputs=2))
    images = torch.randint(0, 255, (2, 3, 90, 70), dtype=torch.uint8)
    assert backbone(backbone.preprocess({"image": images})).shape == (2, 2)


def test_grey_images_fit_a_colour_backbone() -> None:
    config = BackboneConfig("resnet18", pretrained=False, adapter="lora", targets=["conv"], image_size=32)
    backbone = build_backbone(config, Task(modality="image", image_shape=(1, 28, 28), outputs=10))
    assert backbone.preprocess({"image": torch.zeros(1, 1, 28, 28, dtype=torch.uint8)}).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"targets": ["nowhere"]}, "model.backbone.targets: 'nowhere' matches no layer"),
        ({"rank": 0}, "model.backbone.rank"),
        ({"adapter": "magic"}, "model.backbone.adapter: unknown adapter 'magic'"),
        ({"adapter": "prompt_tuning"}, "model.backbone.adapter: prompt_tuning cannot be put on layers"),
        ({"adapter": "ia3", "adapter_args": {"nonsense": 1}}, "model.backbone.adapter: ia3 cannot be put on layers"),
        ({"name": "/nowhere/at/all"}, "model.backbone.name: there is no folder '/nowhere/at/all'"),
        ({"name": "no-such-organisation/no-such-model"}, "model.backbone.name: "),
        ({"library": "timm", "name": "resnet18"}, "takes images, but the task toy has texts"),
    ],
)
def test_mistakes_are_named(tiny_bert: Path, changes: dict, culprit: str) -> None:
    config = BackboneConfig(**{"name": str(tiny_bert), "adapter": "lora", **changes})
    with pytest.raises(ValueError, match=culprit.replace("(", r"\(")) as caught:
        build_backbone(config, Task())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "culprit"), [("resnet1", "timm has no model 'resnet1'"), ("lenet", "timm has no model 'lenet'")]
)
def test_unknown_image_model_is_named(name: str, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        build_backbone(BackboneConfig(name), Task(modality="image", image_shape=(1, 8, 8)))
