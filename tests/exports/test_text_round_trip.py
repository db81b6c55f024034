"""Exported text models give the run's logits, loaded as their README.md says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.exports.export import export
from filtune.exports.restore import Restored
from filtune.lightning_modules.backbones import BackboneConfig
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from tests.exports.runs import TEXTS, logits_of, run_card, run_of, text_task

CASES = [(adapter, head) for adapter in ("lora", "dora") for head in ("own", "mean")]


def text_run(encoder: Path, folder: Path, **options: object) -> Restored:
    options = {"adapter": "lora", "rank": 2, "targets": ["query", "value"], "alpha": 5.0, **options}
    task = text_task(options.pop("classes", ("bad", "fair", "good")))
    return run_of(BackboneConfig(name=str(encoder), max_length=16, **options), task, folder)


def logits(model: torch.nn.Module, folder: Path) -> Tensor:
    """What a loaded model says, with the tokenizer of the folder."""
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**tokens).logits


@pytest.mark.parametrize(("adapter", "head"), CASES)
def test_adapter(adapter: str, head: str, encoder: Path, tmp_path: Path) -> None:
    """The operations are the same ones on the same numbers: equal bit for bit."""
    run = text_run(encoder, tmp_path, adapter=adapter, head=head)
    export(run, tmp_path / "out")
    loaded = run_card(tmp_path / "out")
    expected = logits_of(run, {"text": TEXTS})
    assert torch.equal(logits(loaded["model"], tmp_path / "out"), expected)
    assert not (tmp_path / "out" / "base" / "model.safetensors").exists()  # the encoder's folder has them
    assert loaded["tokenizer"].model_max_length == 16  # cuts where the run did
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(encoder)
    scores = pipeline("text-classification", model=loaded["model"], tokenizer=loaded["tokenizer"])(TEXTS, top_k=None)
    for found, row in zip(scores, expected.softmax(-1).tolist(), strict=True):
        assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(
            dict(zip(run.task.classes, row, strict=True)),
            abs=4e-7,  # padding: a few roundings of a number below 1
        )


def test_adapter_on_a_base_loaded_by_its_name(encoder: Path, tmp_path: Path) -> None:
    """With no more than ``num_labels``, as other PEFT adapters are loaded."""
    run = text_run(encoder, tmp_path)
    export(run, tmp_path / "out")
    base = AutoModelForSequenceClassification.from_pretrained(str(encoder), num_labels=3)
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert torch.equal(logits(model, tmp_path / "out"), logits_of(run, {"text": TEXTS}))


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("head", ["own", "mean"])
def test_weights_stored_in_half_precision(head: str, merge: bool, half_encoder: Path, tmp_path: Path) -> None:
    """Training reads them into float32, and so must whoever loads the export."""
    run = text_run(half_encoder, tmp_path, head=head)
    export(run, tmp_path / "out", merge)
    loaded = run_card(tmp_path / "out")
    model = loaded["classify"].model if merge else loaded["model"]
    assert {param.dtype for param in model.parameters()} == {torch.float32}
    # merged: float32 rounding, bounded below; a base in half precision would be off by 1e-3
    torch.testing.assert_close(logits(model, tmp_path / "out"), logits_of(run, {"text": TEXTS}), rtol=0, atol=1e-5)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("head", ["own", "mean"])
def test_frozen_weights_in_bfloat16(head: str, merge: bool, encoder: Path, tmp_path: Path) -> None:
    """Loaded in float32: what differs is the run's rounding of weights and activations, 2^-8 relative each.

    Two layers of six such roundings of either sign, and the embeddings': sqrt(13) 2^-8 of the largest logit, times 3.
    """
    run = text_run(encoder, tmp_path, head=head, frozen="bfloat16")
    export(run, tmp_path / "out", merge)
    loaded = run_card(tmp_path / "out")
    model = loaded["classify"].model if merge else loaded["model"]
    assert {param.dtype for param in model.parameters()} == {torch.float32}
    expected = logits_of(run, {"text": TEXTS})
    difference = (logits(model, tmp_path / "out") - expected).abs().max()
    assert difference < 3 * 13**0.5 * 2**-8 * expected.abs().max()


def test_base_with_a_head_of_another_size(tiny_bert: Path, tmp_path: Path) -> None:
    run = text_run(tiny_bert, tmp_path)  # it has a head of two outputs, the task has three
    export(run, tmp_path / "out")
    model = run_card(tmp_path / "out")["model"]
    assert torch.equal(logits(model, tmp_path / "out"), logits_of(run, {"text": TEXTS}))


def rounding_of(layer: Any) -> Tensor:
    """Bound of the error of a merged weight in float32, (out, in), to first order in the unit roundoff u.

    V = fl(W + fl(s fl(BA))) is off by at most e = u |V| + (r + 2) u s |B||A|. DoRA makes W' = m V / ||V|| of it, by
    rows of n: the norm is off by (n + 2) u and ||e|| / ||V||, the quotient and the product by 2 u more.
    """
    u = torch.finfo(torch.float32).eps / 2
    W, A, B = layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    s, (r, n) = layer.scaling["default"], A.shape
    V = W + s * B @ A
    e = u * V.abs() + (r + 2) * u * s * B.abs() @ A.abs()
    if not layer.lora_magnitude_vector:
        return e
    norm = V.norm(dim=1, keepdim=True)
    scale = layer.lora_magnitude_vector["default"].weight.unsqueeze(1).abs() / norm
    return scale * (e + V.abs() * ((n + 4) * u + e.norm(dim=1, keepdim=True) / norm))


def merging_error(run: Restored) -> Tensor:
    """Bound of what rounding the merged weights does to the logits, (B, m): twice sum |dz/dW'| e, e as above.

    The factor covers the second order, which is smaller by u.
    """
    layers = [module for module in run.backbone.modules() if isinstance(module, LoraLayer)]
    errors = [rounding_of(layer).detach() for layer in layers]
    weights = [layer.base_layer.weight for layer in layers]
    run.backbone.model.merge_and_unload()
    for weight in weights:
        weight.requires_grad_(True)
    outputs = run.backbone(run.backbone.preprocess({"text": TEXTS}))
    bounds = [
        2 * sum((g.abs() * e).sum() for g, e in zip(grads, errors, strict=True))
        for z in outputs.flatten()
        for grads in [torch.autograd.grad(z, weights, retain_graph=True)]
    ]
    return torch.stack(bounds).view_as(outputs)


@pytest.mark.parametrize(("adapter", "head"), CASES)
def test_merged(adapter: str, head: str, encoder: Path, tmp_path: Path) -> None:
    """Run in float64, the merged weights differ from the run's by how they were rounded, and by nothing else."""
    run = text_run(encoder, tmp_path, adapter=adapter, head=head)
    export(run, tmp_path / "out", merge=True)
    model = run_card(tmp_path / "out")["classify"].model
    assert type(model) is type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "out"))
    run.backbone.double()
    exact = logits_of(run, {"text": TEXTS})
    difference = (logits(model.double(), tmp_path / "out") - exact).abs()
    bound = merging_error(run)
    assert (difference <= bound).all()
    assert bound.max() < 1e-3 * exact.abs().max()  # a bound that says something


@pytest.mark.parametrize("head", ["own", "mean"])
@pytest.mark.parametrize("adapter", ["lora", None])
def test_random_base_goes_with_the_adapter(adapter: str | None, head: str, encoder: Path, tmp_path: Path) -> None:
    run = text_run(encoder, tmp_path, adapter=adapter, head=head, pretrained=False)
    export(run, tmp_path / "out")
    loaded = run_card(tmp_path / "out")
    model = loaded["model"] if adapter else loaded["classify"].model
    assert torch.equal(logits(model, tmp_path / "out"), logits_of(run, {"text": TEXTS}))


def test_regression_is_a_number(encoder: Path, tmp_path: Path) -> None:
    run = text_run(encoder, tmp_path, classes=(), head="mean")
    export(run, tmp_path / "out", merge=True)
    classify = run_card(tmp_path / "out")["classify"]
    values = [entry["score"] for entry in classify(TEXTS)]
    torch.testing.assert_close(torch.tensor(values), logits_of(run, {"text": TEXTS}).squeeze(1))


def test_merged_mean_head_by_its_own_code(encoder: Path, tmp_path: Path) -> None:
    """The code in the folder of the weights works without filtune."""
    run = text_run(encoder, tmp_path, head="mean")
    export(run, tmp_path / "out", merge=True)
    code = (tmp_path / "out" / "pooled.py").read_text()
    imported = {match.split(".")[0] for match in re.findall(r"^(?:from|import) ([\w.]+)", code, re.MULTILINE)}
    assert imported == {"__future__", "typing", "torch", "transformers"}
    shipped = get_class_from_dynamic_module("pooled.MeanPooledForSequenceClassification", str(tmp_path / "out"))
    assert shipped.__module__.startswith("transformers_modules")
    expected = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    model = shipped.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(model, tmp_path / "out"), logits(expected, tmp_path / "out"))
