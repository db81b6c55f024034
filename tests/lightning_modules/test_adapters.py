"""Adapters: which of PEFT's methods work, and that the others are refused in one line before anything is learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from filtune.lightning_modules import BackboneConfig, build_backbone
from filtune.lightning_modules.backbones.adapters import adapt, resolve_targets, try_adapter
from filtune.lightning_modules.backbones.base import Backbone
from filtune.optimizers import Categorical, LoKO
from torch import Tensor, nn

from tests.conftest import Task
from tests.lightning_modules.methods import ARGUMENTS, CONVOLUTIONS, KNOWN, REFUSED, TARGETS, WORK

IMAGES = Task(modality="image", image_shape=(1, 8, 8), outputs=3)


class Images(Backbone):
    """Takes images as they are."""

    def preprocess(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["image"]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)


def text_config(folder: Path, method: str) -> BackboneConfig:
    """A method on query and value, or where it goes."""
    targets = TARGETS.get(method, ["query", "value"])
    return BackboneConfig(
        str(folder), adapter=method, targets=targets, adapter_args=ARGUMENTS.get(method, {}), rank=4, head="mean"
    )


def trained(backbone: nn.Module) -> list[nn.Parameter]:
    return [p for p in backbone.parameters() if p.requires_grad]


def learns(backbone: Backbone, inputs: object, target: Tensor) -> bool:
    """Whether each of four steps on the same sample lowers the loss, and moves the adapter."""
    before = [p.clone() for p in trained(backbone)]
    optimizer = LoKO(trained(backbone)).attach(backbone)
    losses = [
        float(optimizer.step(lambda: Categorical(backbone(inputs)).observe(target)).nll().detach()) for _ in range(4)
    ]
    moved = sum(not torch.equal(a, b) for a, b in zip(before, trained(backbone), strict=True))
    return losses == sorted(losses, reverse=True) and moved > 2


def refused(build: Callable[[], object], culprit: str) -> None:
    """Assert that building fails with one line that names the adapter."""
    with pytest.raises(ValueError, match="model.backbone.adapter: ") as caught:
        build()
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not peft.__version__.startswith("0.21."), reason="the table is that of PEFT 0.21")
def test_the_table_is_complete() -> None:
    assert {*WORK, *REFUSED} == KNOWN


@pytest.mark.parametrize("method", sorted(KNOWN.intersection(WORK)))
@pytest.mark.filterwarnings("ignore:the batched Jacobian does not work for this model")  # sparse ones
def test_methods_that_work(method: str, tiny_bert: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(text_config(tiny_bert, method), Task())
    head = [name for name, p in backbone.named_parameters() if p.requires_grad and ".head." in name]
    assert len(head) == 2
    assert learns(backbone, backbone.preprocess({"text": ["good film"]}), torch.tensor([1]))


@pytest.mark.parametrize("method", sorted(KNOWN.intersection(REFUSED)))
def test_methods_that_do_not_say_why(method: str, tiny_bert: Path) -> None:
    refused(lambda: build_backbone(text_config(tiny_bert, method), Task()), REFUSED[method])


def on_convolution(method: str) -> BackboneConfig:
    return BackboneConfig(adapter=method, targets=["conv2"], rank=4, adapter_args=ARGUMENTS.get(method, {}))


def test_other_methods_are_refused_on_convolutions() -> None:
    """That those of CONVOLUTIONS learn is seen by optimizers/test_jacobian_adapters."""
    for method in sorted(KNOWN.intersection([*WORK, *REFUSED]).difference(CONVOLUTIONS)):
        refused(lambda method=method: build_backbone(on_convolution(method), IMAGES), method)


@pytest.mark.parametrize("groups", [3, 6])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_grouped_convolutions_want_a_rank_that_divides(method: str, groups: int) -> None:
    def build() -> None:
        net = nn.Sequential(nn.Conv2d(6, 6, 3, groups=groups), nn.Flatten(), nn.LazyLinear(2))
        net(torch.zeros(1, 6, 4, 4))
        adapt(Images(net, ("2",)), BackboneConfig("net", adapter=method, targets=["conv"], rank=3))

    if groups == 3:
        build()
    else:
        with pytest.raises(ValueError, match=r"model.backbone.targets: 0 is a convolution of 6 groups.*leave it out"):
            build()


@pytest.mark.parametrize("layer", [nn.Conv1d(4, 4, 3), nn.Conv3d(4, 4, 1), nn.Bilinear(4, 4, 4), nn.LSTM(4, 4)])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_layer_that_the_method_does_not_know_is_named(method: str, layer: nn.Module) -> None:
    backbone = Images(nn.ModuleDict({"layer": layer, "head": nn.Linear(4, 2)}), ("head",))
    config = BackboneConfig("net", adapter=method, targets=["layer"])
    if isinstance(layer, (nn.Conv1d, nn.Conv3d)):
        adapt(backbone, config)
    else:
        refused(lambda: adapt(backbone, config), type(layer).__name__)


def spoiled(kind: str, param: nn.Parameter) -> nn.Parameter:
    """A parameter that is not an ordinary tensor."""
    if kind == "hooked":
        param.register_hook(lambda grad: 2 * grad)
        return param
    if kind == "subclass":
        return nn.UninitializedParameter()
    made = {"complex": torch.Tensor.cfloat, "sparse": torch.Tensor.to_sparse, "meta": lambda t: t.to("meta")}[kind]
    return nn.Parameter(made(param.detach()))


@pytest.mark.parametrize(
    ("kind", "culprit"),
    [
        ("complex", "of torch.complex64"),
        ("sparse", "torch.sparse_coo"),
        ("meta", "on meta"),
        ("subclass", "UninitializedParameter"),
        ("hooked", "whose gradient a hook replaces"),
    ],
)
def test_tensors_that_are_not_ordinary_are_refused(kind: str, culprit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: nn.Module, config: peft.PeftConfig) -> nn.Module:
        adapted = original(model, config)
        layer = adapted.get_base_model().fc1.lora_A["default"]
        layer.weight = spoiled(kind, layer.weight)
        return adapted

    original = peft.get_peft_model
    monkeypatch.setattr(peft, "get_peft_model", spoil)
    refused(lambda: build_backbone(BackboneConfig(adapter="lora", targets=["fc1"]), IMAGES), culprit)


def test_an_adapter_that_the_outputs_do_not_depend_on_is_refused() -> None:
    """Attention in one piece reads the weight of its projection, and passes by what has been put on it."""

    class Attention(Images):
        def forward(self, inputs: Tensor) -> Tensor:
            model = self.model.get_base_model()
            return model["head"](model["attention"](inputs, inputs, inputs)[0].mean(1))

    net = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2, batch_first=True), "head": nn.Linear(4, 2)})
    backbone, config = Attention(net, ("head",)), BackboneConfig("net", adapter="lora", targets=["out_proj"])
    adapt(backbone, config)
    refused(lambda: try_adapter(backbone, config, {"image": torch.ones(1, 3, 4)}), "nothing that the outputs depend on")


def test_a_model_that_does_not_run_is_named() -> None:
    config = BackboneConfig("test_vit", pretrained=False, adapter="lora", image_size=8)
    with pytest.raises(
        ValueError, match=r"model.backbone.name: 'test_vit' .*does not run .*--model.backbone.image_size"
    ):
        build_backbone(config, IMAGES)


@pytest.mark.parametrize(("method", "scale"), [("lora", "lora_alpha"), ("dora", "lora_alpha"), ("loha", "alpha")])
def test_rank_and_alpha_are_those_asked_for(method: str, scale: str, tiny_bert: Path) -> None:
    for alpha, expected in ((None, 3), (6.0, 6.0)):
        backbone = build_backbone(BackboneConfig(str(tiny_bert), adapter=method, rank=3, alpha=alpha), Task())
        chosen = backbone.model.peft_config["default"]
        assert (chosen.r, getattr(chosen, scale)) == (3, expected)


def test_arguments_of_the_method_have_the_last_word(tiny_bert: Path) -> None:
    config = BackboneConfig(str(tiny_bert), adapter="lora", rank=3, adapter_args={"r": 5, "use_rslora": True})
    chosen = build_backbone(config, Task()).model.peft_config["default"]
    assert (chosen.r, chosen.use_rslora) == (5, True)


@pytest.mark.skipif("adamss" not in KNOWN, reason="this PEFT has no AdaMSS")
def test_adamss_works_as_long_as_it_keeps_its_size(tiny_bert: Path) -> None:
    config = BackboneConfig(str(tiny_bert), adapter="adamss", adapter_args={"r": 8, "use_asa": True})
    refused(lambda: build_backbone(config, Task()), "adamss gives up ranks")


def test_query_key_and_value_in_one_of_any_class() -> None:
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=10, n_embd=8, n_layer=2, n_head=2))
    assert resolve_targets(model, ["query"], ()) == ["h.0.attn.c_attn", "h.1.attn.c_attn"]
