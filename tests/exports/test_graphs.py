"""Models as graphs: loaded as their card says, they give the merged model's outputs for any batch and length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from filtune.datamodules import Task
from filtune.exports import export as module
from filtune.exports import graph_formats, graphs
from filtune.exports.commands import run_export
from filtune.exports.export import export
from filtune.exports.formats import EXPORTS
from filtune.exports.graph_formats import GRAPHS, Onnx
from filtune.exports.restore import Restored
from filtune.exports.target import WEIGHTS
from filtune.lightning_modules.backbones import BackboneConfig
from filtune.optimizers.likelihoods import likelihood_of
from torch import Tensor

from tests.conftest import SIZES, VOCABULARY, write_tokenizer
from tests.exports.runs import image_task, logits_of, run_card, run_of, text_task

FORMATS = [pytest.param(name, id=name) for name in GRAPHS]
TEXTS = [["good film"], ["a bad plot and a dull actor", "the story"], ["the story"] * 3 + ["good " * 40]]
KINDS = {"classification": 3, "multilabel": 3, "regression": 1, "count": 1}


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    """The packages of ONNX are an extra."""
    if "onnx" in request.node.name:
        for package in Onnx.packages:
            pytest.importorskip(package)


def text_run(encoder: Path, folder: Path, **options: Any) -> Restored:
    options = {"adapter": "lora", "rank": 2, "targets": ["query", "value"], "max_length": 16, **options}
    return run_of(BackboneConfig(name=str(encoder), **options), text_task(), folder)


def image_run(name: str, folder: Path, kind: str = "classification", **options: Any) -> Restored:
    outputs = KINDS[kind]
    classes = image_task().classes if likelihood_of(kind).has_classes else ()
    task = Task("pictures", kind, outputs, classes, "image", (3, 8, 8), ())
    return run_of(BackboneConfig(name=name, pretrained=False, **options), task, folder)


def outputs_of(names: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    """What the model says that the code of a card has loaded."""
    if "session" in names:
        given = {put.name: inputs[put.name].numpy() for put in names["session"].get_inputs()}
        return torch.from_numpy(names["session"].run(["logits"], given)[0])
    with torch.no_grad():
        return names["model"](**inputs)


def check_texts(run: Restored, folder: Path) -> None:
    """The code of the card on batches of other sizes than those that the export has compared."""
    names = run_card(folder)
    written = (folder / "README.md").read_text()
    assert "rounding in float32 explains up to" in written
    assert "`input_ids` (batch, sequence)" in written
    for texts in TEXTS:
        tokens = names["tokenizer"](texts, padding=True, truncation=True, return_tensors="pt")
        expected = logits_of(run, {"text": texts})
        # the merged weights: a few float32 roundings of logits below 10, as of the merged model of transformers
        torch.testing.assert_close(outputs_of(names, dict(tokens)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param("onnx", marks=pytest.mark.slow), "torch_export"])
def test_texts(name: str, encoder: Path, tmp_path: Path) -> None:
    run = text_run(encoder, tmp_path, head="mean")
    assert f"as a graph ({GRAPHS[name].title})" in export(run, tmp_path / "out", graph=GRAPHS[name]())
    check_texts(run, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {GRAPHS[name].file, "config.json", "tokenizer_config.json", "README.md", "task.json"} <= files
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.id2label) == ("bert", {0: "bad", 1: "fair", 2: "good"})


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.slow
def test_a_decoder_and_an_encoder_with_their_own_heads(name: str, encoder: Path, tmp_path: Path) -> None:
    """A decoder reads the last token that is no padding; texts of a single token are among its own."""
    run = text_run(encoder, tmp_path)
    export(run, tmp_path / "bert", graph=GRAPHS[name]())
    check_texts(run, tmp_path / "bert")
    folder = tmp_path / "gpt2"
    folder.mkdir()
    write_tokenizer(folder)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": SIZES["hidden_size"], "n_positions": 64}
    transformers.GPT2Model(transformers.GPT2Config(vocab_size=len(VOCABULARY), **sizes)).save_pretrained(folder)
    run = text_run(folder, tmp_path, targets=["c_attn"])
    export(run, tmp_path / "out", graph=GRAPHS[name]())
    check_texts(run, tmp_path / "out")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("lenet5", {"adapter": None}),
        pytest.param("test_vit", {"adapter": "lora", "rank": 2, "targets": ["query"]}, marks=pytest.mark.slow),
        pytest.param(
            "test_efficientnet", {"adapter": "lora", "rank": 2, "targets": ["pointwise"]}, marks=pytest.mark.slow
        ),
    ],
)
def test_images(model: str, options: dict[str, Any], name: str, tmp_path: Path) -> None:
    run = image_run(model, tmp_path, **options)
    export(run, tmp_path / "out", graph=GRAPHS[name]())
    names = run_card(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "task.json").read_text())["image"]["size"] == run.backbone.size
    for size in (1, 4):
        pixels = torch.rand(size, 3, run.backbone.size, run.backbone.size)
        expected = logits_of(run, {"image": pixels})
        found = outputs_of(names, {"pixel_values": run.backbone.preprocess({"image": pixels})})
        # L < 40 layers that each add about sqrt(9 * 96) u to sums of either sign, as of merged models
        torch.testing.assert_close(found, expected, rtol=0, atol=7e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classification"])
def test_kinds(kind: str, tmp_path: Path) -> None:
    run = image_run("lenet5", tmp_path, kind)
    export(run, tmp_path / "out", graph=GRAPHS["torch_export"]())
    names, pixels = run_card(tmp_path / "out"), torch.rand(3, 3, 28, 28)
    found = outputs_of(names, {"pixel_values": run.backbone.preprocess({"image": pixels})})
    assert found.shape == (3, KINDS[kind])
    torch.testing.assert_close(found, logits_of(run, {"image": pixels}), rtol=0, atol=1e-5)
    assert ("its exponential" in (tmp_path / "out" / "README.md").read_text()) == (kind == "count")


def test_the_bound_is_of_rounding(tmp_path: Path) -> None:
    """Differences of two errors of the estimated size stay below it, and the bound has a least value."""
    generator = torch.Generator().manual_seed(0)
    double = torch.randn(8, 10, generator=generator, dtype=torch.float64)
    error = 1e-6 * torch.randn(200, 8, 10, generator=generator, dtype=torch.float64)
    bounds = [graphs.rounding_bound((double + each).float(), double) for each in error]
    others = (error - error.roll(1, 0)).abs().amax((1, 2))
    assert all(float(other) < bound < 1e-4 for other, bound in zip(others, bounds, strict=True))
    assert graphs.rounding_bound(double.float(), double) >= torch.finfo(torch.float32).eps / 2


@pytest.mark.slow
def test_weights_of_onnx_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of more than a GiB are, which a single file could not hold; an earlier graph is replaced."""
    ask, run = ["--ckpt_path", "last.ckpt", "--to", str(tmp_path / "out")], image_run("lenet5", tmp_path)
    monkeypatch.setattr(module, "restore", lambda *_: run)
    run_export([*ask, "--format", "torch_export"])
    monkeypatch.setattr(graph_formats, "MOST_BYTES", 0)
    run_export([*ask, "--format", "onnx", "--overwrite"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.onnx", "model.onnx.data", "README.md", "task.json",
    }  # fmt: skip
    found = run_card(tmp_path / "out")["logits"]
    assert found.shape == (1, 3)


def test_a_graph_of_other_outputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(GRAPHS["torch_export"]):  # type: ignore[misc]
        def read(self, path: Path) -> Any:
            function = super().read(path)
            return lambda **inputs: function(**inputs) * (1 + 1e-3)

    with pytest.raises(ValueError, match="--format torch_export: the graph gives other outputs .* use --merge"):
        export(image_run("lenet5", tmp_path), tmp_path / "out", graph=Broken())
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_traced_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = image_run("lenet5", tmp_path)
    model = run.backbone.model
    monkeypatch.setattr(type(model), "forward", lambda self, x: self.head(x.new_zeros(int(x.sum() > 0) + 1, 84)))
    with pytest.raises(
        ValueError, match="--format torch_export: torch cannot trace this model .* use --merge"
    ) as error:
        export(run, tmp_path / "out", graph=GRAPHS["torch_export"]())
    assert "\n" not in str(error.value)


def test_every_format_of_a_graph_can_be_asked_for() -> None:
    assert set(EXPORTS) - {"adapter", "merged"} == set(GRAPHS)
    assert all(cls.file in WEIGHTS for cls in GRAPHS.values())


def test_packages_that_are_not_installed_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the checkpoint is read."""
    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == "onnxscript" else object())
    ask = ["--ckpt_path", "none", "--to", "out", "--format"]
    with pytest.raises(ImportError, match=r"^--format onnx: onnxscript not installed; pip install 'filtune\[onnx\]'$"):
        run_export([*ask, "onnx"])
    for more, said in (
        (["onnx", "--merge"], "--merge: is --format merged; leave it out beside --format onnx"),
        (["adapter", "--base_model", "a/b/c"], "--base_model: 'a/b/c' is no hub id"),
        (["adapter", "--license", "my licence"], "--license: 'my licence' is no licence of the hub"),
    ):
        with pytest.raises(ValueError, match=said):
            run_export([*ask, *more])
