r"""The merged model as a graph of tensor operations, which runs without the Python code of its architecture.

A graph is traced once, with a batch and a length of the texts that vary (``torch.export``), is written in a format, and
is read back and compared with the merged model. Both compute in float32, in another order of the operations, so that
their outputs z differ by rounding. With z' of the same model in float64, at N outputs of S samples, the size of one
rounding error is estimated, and the difference of two is bounded:

.. math::
    \sigma^2 = \operatorname{mean} (z - z')^2, \qquad |z_{graph} - z| \le \sqrt 2\, \sigma\, t_S(1 - \alpha / 2N)    (1)

where t_S is the quantile of Student's distribution with S degrees of freedom, for the outputs of one sample share their
errors, and alpha the probability that rounding alone exceeds the bound at any of the outputs.

Shapes: ``B`` batch, ``L`` tokens, ``m`` outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from filtune.lightning_modules.atomic import explained_if_full, reason_full
from filtune.lightning_modules.backbones.base import Backbone
from filtune.lightning_modules.backbones.errors import one_line
from filtune.lightning_modules.backbones.image import ImageBackbone
from filtune.lightning_modules.backbones.text import TextBackbone
from scipy import stats
from torch import Tensor, nn

from .restore import Restored
from .weights import library_model

RISK = 1e-6
"""Probability alpha of equation (1)."""

BATCHES = (2, 1, 5)
"""Sizes of the batches that are compared; the first is traced, and may not be 1, which would be taken as fixed."""

Inputs = dict[str, Tensor]


class TextLogits(nn.Module):
    """A text model with the outputs alone.

    Args:
        model: A sequence classifier of transformers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the outputs (B, m) of tokens (B, L)."""
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **more).logits


class ImageLogits(nn.Module):
    """An image model by the name that its input has in transformers and optimum.

    Args:
        model: Maps normalised pixels (B, C, H, W) to outputs (B, m).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the outputs (B, m) of normalised pixels (B, C, H, W)."""
        return self.model(pixel_values)


@dataclass(frozen=True)
class Traced:
    """A model as a graph.

    Attributes:
        program: The graph.
        batches: Inputs of several sizes, the first the one that was traced.
        sizes: Names of the first sizes of every input, which vary.
    """

    program: torch.export.ExportedProgram
    batches: list[Inputs]
    sizes: tuple[str, ...]


class GraphFormat(ABC):
    """A format of files for graphs.

    Attributes:
        name: Value of ``--format``.
        title: Name in messages and in the model card.
        file: The file that is written.
        library: ``library_name`` of the model card.
        packages: Packages by the names they are imported by, which the extra of the same name installs.
        load_code: Python that loads and runs the graph, for its model card, by modality, with fields for ``folder``
            and for texts ``text``, for images ``channels``, ``size``, ``mean`` and ``std``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    file: ClassVar[str]
    library: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    load_code: ClassVar[dict[str, str]]

    @classmethod
    def check_installed(cls) -> None:
        """Check that the packages are there.

        Raises:
            ImportError: Naming the extra that installs them.
        """
        if missing := [name for name in cls.packages if find_spec(name) is None]:
            raise ImportError(
                f"--format {cls.name}: {', '.join(missing)} not installed; pip install 'filtune[{cls.name}]'"
            )

    @abstractmethod
    def write(self, traced: Traced, path: Path) -> None:
        """Write a graph to a file."""

    @abstractmethod
    def read(self, path: Path) -> Callable[[Inputs], Tensor]:
        """Return the function of a file: inputs by name -> outputs (B, m)."""


def trace(model: nn.Module, batches: list[Inputs], length: int | None, said: str) -> Traced:
    """Return the graph of a model whose batch varies, and the length of its texts.

    Args:
        model: A :class:`TextLogits` or :class:`ImageLogits`.
        batches: See :class:`Traced`.
        length: Most tokens of a text; None for images.
        said: The option, for messages.

    Raises:
        ValueError: If torch cannot trace the model.
    """
    sizes = [torch.export.Dim("batch")] + ([] if length is None else [torch.export.Dim("sequence", max=length)])
    shapes = {key: dict(enumerate(sizes)) for key in batches[0]}
    try:
        with torch.no_grad():
            program = torch.export.export(model, (), batches[0], dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of many kinds, by what the architecture does
        raise ValueError(f"{said}: torch cannot trace this model ({one_line(error)[:200]}); use --merge") from error
    return Traced(program, batches, tuple(size.__name__ for size in sizes))


def example_batches(backbone: Backbone, run: Restored) -> tuple[list[Inputs], int | None]:
    """Return made-up inputs of several sizes, and the most tokens of a text, None for images.

    The last batch of texts has one that is cut, the second a single short one.
    """
    if isinstance(backbone, TextBackbone):
        long = "and a longer one, to be padded to; " * backbone.max_length
        texts = [["a text", "and a longer one, to be padded to"], ["a"], ["one", long, "a b", "to be cut", "the end."]]
        return [_tokens(backbone, each) for each in texts], backbone.max_length
    shape, generator = run.task.image_shape or (3, 32, 32), torch.Generator().manual_seed(0)
    pixels = (torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=generator) for size in BATCHES)
    return [{"pixel_values": backbone.preprocess({"image": each})} for each in pixels], None


def _tokens(backbone: TextBackbone, texts: Sequence[str]) -> Inputs:
    """Return the tokens of texts with their mask, which a graph always takes."""
    options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": backbone.max_length}
    tokens = backbone.tokenizer(list(texts), return_tensors="pt", return_attention_mask=True, **options)
    return dict(tokens)


def _double(inputs: Inputs) -> Inputs:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


@torch.no_grad()
def outputs_of(function: Callable[..., Tensor], batches: Sequence[Inputs]) -> Tensor:
    """Return the outputs of all batches, (N, m)."""
    return torch.cat([function(**each) for each in batches])


def rounding_bound(single: Tensor, double: Tensor) -> float:
    """Return the bound of equation (1).

    Args:
        single: Outputs computed in float32, (S, m).
        double: The same in float64, (S, m).
    """
    squared = (single.double() - double).square().mean()
    stored = double.square().mean() * (torch.finfo(torch.float32).eps / 2) ** 2  # no error is smaller than the type's
    quantile = stats.t.ppf(1 - RISK / (2 * double.numel()), df=len(double))
    return float(2**0.5 * torch.maximum(squared, stored).sqrt() * quantile)


@dataclass(frozen=True)
class Written:
    """A graph that was written, read back and compared.

    Attributes:
        format: Its format.
        inputs: Names and shapes of its inputs, sizes that vary by their names.
        length: Most tokens of a text; None for images.
        difference: Largest difference of its outputs from the merged model's.
        tolerance: Bound of equation (1).
    """

    format: type[GraphFormat]
    inputs: dict[str, tuple[int | str, ...]]
    length: int | None
    difference: float
    tolerance: float


def write_graph(run: Restored, merged: Backbone, graph: GraphFormat, folder: Path) -> Written:
    """Write the graph of a merged model, read it back, and compare its outputs.

    Args:
        run: The run.
        merged: Its backbone, in float32, the adapter merged into its weights; it is in float64 afterwards.
        graph: The format.
        folder: Where to write.

    Raises:
        ValueError: If the model cannot be traced or written, or the outputs differ by more than rounding explains.
    """
    said, path = f"--format {graph.name}", folder / graph.file
    if not isinstance(merged, (TextBackbone, ImageBackbone)):
        raise ValueError(f"{said}: {type(merged).__name__} is no model of transformers or of images; use --merge")
    text = isinstance(merged, TextBackbone)
    model = TextLogits(library_model(merged, run)) if text else ImageLogits(merged.model)
    batches, length = example_batches(merged, run)
    traced = trace(model.eval(), batches, length, said)
    single = outputs_of(model, batches)
    with explained_if_full(path):
        try:
            graph.write(traced, path)
        except Exception as error:  # of the exporter, by what the architecture does
            if reason_full(error):
                raise
            raise ValueError(f"{said}: the model cannot be written ({one_line(error)[:200]}); use --merge") from error
    found = outputs_of(graph.read(path), batches)
    double = outputs_of(model.double(), [_double(each) for each in batches])
    difference, bound = float((found - single).abs().max()), rounding_bound(single, double)
    if not difference <= bound:
        raise ValueError(
            f"{said}: the graph gives other outputs than the merged model (they differ by {difference:.1e}, rounding "
            f"explains {bound:.1e}); use --merge"
        )
    inputs = {name: (*traced.sizes, *tensor.shape[len(traced.sizes) :]) for name, tensor in batches[0].items()}
    return Written(type(graph), inputs, length, difference, bound)
