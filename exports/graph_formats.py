"""The formats of graphs: ONNX, for the runtimes that read it, and PyTorch's own exported program."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from .graphs import GraphFormat, Inputs, Traced

MOST_BYTES = 1 << 30
"""Bytes of the weights from which ONNX keeps them in a file of their own; a single file may have 2 GiB."""

ONNX_TEXT = """\
import onnxruntime
from transformers import AutoTokenizer

folder = {folder!r}
session = onnxruntime.InferenceSession(f"{{folder}}/model.onnx")
tokenizer = AutoTokenizer.from_pretrained(folder)
tokens = tokenizer([{text}], padding=True, truncation=True, return_tensors="np")
(logits,) = session.run(["logits"], {{put.name: tokens[put.name] for put in session.get_inputs()}})
print(logits)
"""

ONNX_IMAGE = """\
import numpy as np
import onnxruntime

folder = {folder!r}
session = onnxruntime.InferenceSession(f"{{folder}}/model.onnx")
images = np.random.rand(1, {channels}, {size}, {size}).astype("float32")  # in 0..1, resized to {size} x {size}
mean, std = (np.array(each, "float32").reshape(-1, 1, 1) for each in ({mean}, {std}))
(logits,) = session.run(["logits"], {{"pixel_values": (images - mean) / std}})
print(logits)
"""

TORCH_EXPORT_TEXT = """\
import torch
from transformers import AutoTokenizer

folder = {folder!r}
model = torch.export.load(f"{{folder}}/model.pt2").module()
tokenizer = AutoTokenizer.from_pretrained(folder)
tokens = tokenizer([{text}], padding=True, truncation=True, return_tensors="pt")
print(model(**tokens))
"""

TORCH_EXPORT_IMAGE = """\
import torch

folder = {folder!r}
model = torch.export.load(f"{{folder}}/model.pt2").module()
images = torch.rand(1, {channels}, {size}, {size})  # in 0..1, resized to {size} x {size}
mean, std = torch.tensor({mean}).view(-1, 1, 1), torch.tensor({std}).view(-1, 1, 1)
print(model(pixel_values=(images - mean) / std))
"""


class Onnx(GraphFormat):
    """The Open Neural Network Exchange, read by ONNX Runtime, OpenVINO, TensorRT and others."""

    name, title, file, library = "onnx", "ONNX", "model.onnx", "onnx"
    packages: ClassVar = ("onnx", "onnxruntime", "onnxscript")
    load_code: ClassVar = {"text": ONNX_TEXT, "image": ONNX_IMAGE}

    def write(self, traced: Traced, path: Path) -> None:
        """Write a graph with its weights; those of more than a GiB go to a second file beside it."""
        size = sum(tensor.nbytes for tensor in traced.program.state_dict.values())
        names = list(traced.batches[0])
        with _quiet():  # the graph has its sizes; here they get their names
            torch.onnx.export(
                traced.program,
                (),
                str(path),
                kwargs=traced.batches[0],
                input_names=names,
                output_names=["logits"],
                dynamic_shapes={key: dict(enumerate(traced.sizes)) for key in names},
                external_data=size > MOST_BYTES,
                dynamo=True,
                verbose=False,
            )

    def read(self, path: Path) -> Callable[[Inputs], Tensor]:
        """Return the function of a file, computed by ONNX Runtime on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(**inputs: Tensor) -> Tensor:
            (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
            return torch.from_numpy(logits)

        return run


class TorchExport(GraphFormat):
    """PyTorch's exported program, which ``torch.export.load`` reads, and AOTInductor and ExecuTorch compile."""

    name, title, file, library = "torch_export", "torch.export", "model.pt2", "pytorch"
    load_code: ClassVar = {"text": TORCH_EXPORT_TEXT, "image": TORCH_EXPORT_IMAGE}

    def write(self, traced: Traced, path: Path) -> None:
        """Write a graph with its weights."""
        with _quiet():
            torch.export.save(traced.program, path)

    def read(self, path: Path) -> Callable[[Inputs], Tensor]:
        """Return the function of a file."""
        return torch.export.load(path).module()


GRAPHS: dict[str, type[GraphFormat]] = {cls.name: cls for cls in (Onnx, TorchExport)}
"""The formats by name."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notices of what it leaves out from the terminal."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
