"""Large backbones in little memory: what is kept in fewer bits or worked out again changes nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.lightning_modules import BackboneConfig, build_backbone
from filtune.lightning_modules.backbones import memory, text
from filtune.lightning_modules.backbones.base import Backbone
from filtune.optimizers import AdamW, Categorical, LoKO
from transformers import AutoConfig, AutoModelForSequenceClassification, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.conftest import SIZES, VOCABULARY, Task, write_tokenizer

TEXTS = {"text": ["good film", "a very bad plot", "the story was bright"]}
TARGET = torch.tensor([0, 1, 0])
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "max_position_embeddings": 64},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "deberta-v2": SIZES,
    "llama": {**SIZES, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "num_key_value_heads": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny random classifiers of three classes; decoders' tokenizers have no padding token."""
    found = {}
    for kind, sizes in ARCHITECTURES.items():
        folder = tmp_path_factory.mktemp(kind)
        tokenizer = write_tokenizer(folder)
        if kind in ("llama", "qwen2", "gpt2"):
            tokenizer.pad_token = None
            tokenizer.eos_token = "[SEP]"
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=len(VOCABULARY), num_labels=3, **sizes)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        found[kind] = folder
    return found


def build(folder: Path, **options: Any) -> Backbone:
    torch.manual_seed(1)
    config = BackboneConfig(str(folder), adapter="lora", rank=2, targets=["query"], **options)
    return build_backbone(config, Task(outputs=options.pop("outputs", 3)))


def step(backbone: Backbone, kind: str) -> torch.Tensor:
    """The trained parameters after a step, one vector."""
    params = [p for p in backbone.parameters() if p.requires_grad]
    torch.manual_seed(2)
    optimizer = LoKO(params) if kind == "LoKO" else AdamW(params, lr=1e-2)
    optimizer.attach(backbone)
    inputs = backbone.preprocess(TEXTS)
    for _ in range(2):  # at the first, lora_B is zero
        optimizer.step(lambda: Categorical(backbone(inputs)).observe(TARGET))
    return torch.cat([p.detach().flatten() for p in params])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_any_sequence_classifier_learns(kind: str, architectures: dict[str, Path]) -> None:
    backbone = build(architectures[kind])
    before = torch.cat([p.detach().flatten() for p in backbone.parameters() if p.requires_grad])
    after = step(backbone, "LoKO")
    assert after.isfinite().all()
    assert not torch.equal(before, after)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_of_a_decoder_changes_nothing(kind: str, architectures: dict[str, Path]) -> None:
    backbone = build(architectures[kind])
    together = backbone(backbone.preprocess(TEXTS))
    alone = torch.cat([backbone(backbone.preprocess({"text": [text]})) for text in TEXTS["text"]])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["LoKO", "AdamW"])
@pytest.mark.parametrize("kind", ["roberta", "llama"])
def test_layers_worked_out_again_give_the_same_update(
    kind: str, optimizer: str, architectures: dict[str, Path]
) -> None:
    plain, again = (build(architectures[kind], gradient_checkpointing=flag) for flag in (False, True))
    assert not any(module.training for module in again.modules())
    # the same operations on the same numbers
    assert torch.equal(step(plain, optimizer), step(again, optimizer))


def kept(backbone: Backbone) -> int:
    """Elements of the activations that are kept for the backward pass."""
    weights = {p.data_ptr() for p in backbone.parameters()}
    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone(backbone.preprocess(TEXTS))
    return sum(sizes)


def test_less_is_kept_for_the_backward_pass(architectures: dict[str, Path]) -> None:
    plain, again = (build(architectures["roberta"], gradient_checkpointing=flag) for flag in (False, True))
    assert kept(again) < 0.5 * kept(plain)


def test_timms_own_switch_is_used() -> None:
    task = Task(modality="image", image_shape=(3, 32, 32), outputs=4)
    options: dict[str, Any] = {"library": "timm", "pretrained": False, "adapter": "lora", "targets": ["query"]}
    images = {"image": torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)}
    outputs = []
    for flag in (False, True):
        torch.manual_seed(0)
        backbone = build_backbone(BackboneConfig("test_vit", gradient_checkpointing=flag, **options), task)
        outputs.append(backbone(backbone.preprocess(images)))
    assert torch.equal(*outputs)
    assert backbone.model.get_base_model().grad_checkpointing


@pytest.mark.parametrize("kind", ["roberta", "llama"])
@pytest.mark.parametrize("head", ["own", "mean"])
def test_frozen_weights_in_bfloat16(kind: str, head: str, architectures: dict[str, Path]) -> None:
    whole, halved = (build(architectures[kind], frozen=frozen, head=head) for frozen in ("float32", "bfloat16"))
    for param in halved.parameters():
        assert param.dtype == (torch.float32 if param.requires_grad else torch.bfloat16)
    inputs = halved.preprocess(TEXTS)
    exact, rounded = whole(inputs), halved(inputs)
    assert rounded.dtype == torch.float32
    # bfloat16 rounds by 2^-9, a few dozen times one after the other
    torch.testing.assert_close(rounded, exact, rtol=0, atol=40 * 2**-9 * float(exact.abs().max()))
    assert step(halved, "LoKO").isfinite().all()


def test_positions_are_not_rounded(architectures: dict[str, Path]) -> None:
    """At token 100, frequencies in bfloat16 would be off by up to 100 * 2^-9 radians."""
    backbone = build(architectures["llama"], frozen="bfloat16")
    (rotary,) = (module for module in backbone.modules() if isinstance(module, LlamaRotaryEmbedding))
    expected = LlamaRotaryEmbedding(LlamaConfig(**ARCHITECTURES["llama"])).inv_freq
    assert torch.equal(rotary.inv_freq, expected)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("roberta", ("classifier",)), ("distilbert", ("pre_classifier", "classifier")), ("llama", ("score",))],
)
@pytest.mark.parametrize("head", ["own", "mean"])
def test_the_head_keeps_its_bits_in_four_bits(
    kind: str, names: tuple[str, ...], head: str, architectures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, of a checkpoint in bfloat16 too; the encoder is loaded as it is, there being no CUDA."""
    folder = architectures[kind].parent / f"{kind}-half-{head}"
    shutil.copytree(architectures[kind], folder)
    AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    kept: list[tuple[str, ...]] = []

    def remember(config: BackboneConfig, head: tuple[str, ...]) -> dict[str, Any]:
        kept.append(head)
        return {"dtype": torch.bfloat16}

    monkeypatch.setattr(text, "quantisation", remember)
    monkeypatch.setattr("filtune.lightning_modules.backbones.build.check_memory_options", lambda *_: None)
    backbone = build(folder, frozen="4bit", head=head)
    assert kept == [names if head == "own" else ("pooler",)]
    assert {param.dtype for param in backbone.parameters() if param.requires_grad} == {torch.float32}
    assert torch.bfloat16 in {param.dtype for param in backbone.parameters()}
    assert step(backbone, "LoKO").isfinite().all()


def test_a_convolutional_backbone_in_bfloat16() -> None:
    task = Task(modality="image", image_shape=(3, 32, 32), outputs=4)
    config = BackboneConfig(
        "resnet18", pretrained=False, adapter="lora", rank=2, targets=["conv"], frozen="bfloat16", image_size=32
    )
    backbone = build_backbone(config, task)
    outputs = backbone(backbone.preprocess({"image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}))
    assert outputs.dtype == torch.float32
    assert outputs.isfinite().all()


def test_a_head_of_another_task_is_made_anew(architectures: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="the head of .* is of another task; a fresh one is trained"):
        backbone = build_backbone(BackboneConfig(str(architectures["roberta"]), adapter="lora"), Task(outputs=5))
    assert backbone(backbone.preprocess(TEXTS)).shape == (3, 5)


def test_weights_of_another_size_below_the_head_are_refused(architectures: dict[str, Path], tmp_path: Path) -> None:
    """Else they would be random, and frozen."""
    folder = tmp_path / "widened"
    shutil.copytree(architectures["roberta"], folder)
    config = AutoConfig.from_pretrained(folder)
    config.intermediate_size *= 2
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"\(the model: its weights are of other sizes .*intermediate") as caught:
        build(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frozen": "4bit", "adapter": "lora"}, "4bit needs a CUDA device"),
        ({"frozen": "4bit", "adapter": "lora", "pretrained": False}, "for pre-trained models of transformers"),
        ({"frozen": "bfloat16", "adapter": None}, "without an adapter all are"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(
    options: dict[str, Any], said: str, architectures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said):
        build_backbone(BackboneConfig(str(architectures["roberta"]), **options), Task())


def test_four_bits_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'filtune\[4bit\]'"):
        build_backbone(BackboneConfig("somewhere", frozen="4bit", adapter="lora"), Task())


def test_a_model_without_such_layers_is_named() -> None:
    with pytest.raises(ValueError, match="LeNet5 has no layers made for it"):
        build_backbone(BackboneConfig(gradient_checkpointing=True), Task(modality="image", image_shape=(1, 8, 8)))
