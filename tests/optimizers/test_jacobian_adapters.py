"""The Jacobian of every adapter is that of its model: against a loop of gradients, torch.func and differences."""

from __future__ import annotations

import copy
from collections.abc import Callable

import peft.helpers
import pytest
import torch
from filtune.optimizers import Categorical, LoKO
from torch import Tensor, nn

from tests.lightning_modules.methods import ARGUMENTS, CONVOLUTIONS, KNOWN, TARGETS, WORK
from tests.optimizers.adapted import (
    Convolutions,
    D,
    M,
    Plain,
    adapted,
    apart,
    batched,
    bert,
    check_differences,
    images,
    looped,
    resnet,
    shake,
    tokens,
    trained,
    transformed,
    vit,
)
from tests.optimizers.models import rounding
from tests.optimizers.reference import flat

CLOSE = {dtype: rounding(1_000, 10, dtype) for dtype in (torch.float64, torch.float32)}
"""1e-12 and 6e-4 of every tensor: chains of under 1,000 rounded operations, magnified at most tenfold."""

SINGLE = ("deft", "fourierft")
"""Methods that compute in float32 whatever the model's type."""

NO_TRANSFORMS = ("frod", "loha", "randlora", "shira", "boft", "trainable_tokens")
"""Methods with functions of their own or sparse tensors, which torch.func does not take; in PEFT 0.17, the last two."""


def check(model: Plain, method: str, sample: Callable[[int], Tensor]) -> None:
    """Compare what the filter sees with its references, where the adapter starts and after some steps."""
    close = CLOSE[torch.float32 if method in SINGLE else torch.float64]
    optimizer = LoKO(trained(model), dtype="float64").attach(model)
    start = flat(model)
    for B in (1, 3):
        x, cotangents = sample(B), torch.randn(B, D, M, dtype=torch.float64)
        for _ in range(2):  # once checking the layers, once not
            H = batched(model, optimizer, x, cotangents)
        assert apart(model, H, looped(model, x, cotangents)) <= close
        if method in NO_TRANSFORMS:
            check_differences(model, H, x, cotangents)
        else:
            assert apart(model, H, transformed(model, x, cotangents)) <= close
        for k in range(3):
            optimizer.step(lambda x=x, k=k: Categorical(model(x)).observe(torch.full((len(x),), k)))
    assert (flat(model) - start).abs().max() > 1e-5


@pytest.mark.parametrize("method", sorted(KNOWN.intersection(WORK)))
@pytest.mark.filterwarnings("ignore:the batched Jacobian does not work for this model", "ignore:There is a performance")
def test_every_method_on_text(method: str) -> None:
    targets = TARGETS.get(method, ["query", "value"])
    check(adapted(bert(), method, targets, **ARGUMENTS.get(method, {})), method, tokens)


@pytest.mark.parametrize("method", sorted(KNOWN.intersection(CONVOLUTIONS)))
@pytest.mark.filterwarnings("ignore:There is a performance")
def test_every_method_on_convolutions(method: str) -> None:
    arguments = {"oft": {"oft_block_size": 3}, "boft": {"boft_block_size": 3}}.get(method, {})
    targets = ["conv"] if method in ("lora", "dora", "ia3") else ["body.0", "body.5"]  # others do not all take groups
    check(adapted(Plain(Convolutions(), "head"), method, targets, **arguments), method, images)


@pytest.mark.skipif(not peft.__version__.startswith("0.21."), reason="so it is in PEFT 0.21")
def test_c3a_is_refused_for_its_backward_pass() -> None:
    """What goes on to the layers below is no derivative; once it is, nothing speaks against the method."""
    from peft.tuners.c3a.utils import BlockCircularConvolution

    x, w = torch.randn(1, 16, dtype=torch.float64, requires_grad=True), torch.randn(4, 4, 4, dtype=torch.float64)
    weights = torch.randn(16, dtype=torch.float64)
    (grad,) = torch.autograd.grad(BlockCircularConvolution.apply(x, w) @ weights, x)
    linear = torch.stack([BlockCircularConvolution.apply(row, w) for row in torch.eye(16, dtype=torch.float64)])
    assert not torch.allclose(grad, linear @ weights)


ARCHITECTURES: dict[str, tuple[Callable[[], Plain], list[str], Callable[[int], Tensor]]] = {
    "bert, all dense layers": (bert, ["query", "value", "dense"], tokens),
    "bert, embeddings": (bert, ["word_embeddings"], tokens),
    "resnet": (resnet, ["conv"], lambda B: images(B, 16)),
    "vit, fused query, key and value": (vit, ["query"], lambda B: images(B, 32)),
    "vit, patches": (vit, ["proj", "fc1"], lambda B: images(B, 32)),
}


@pytest.mark.parametrize(
    ("name", "method", "dtype"),
    [
        *((name, "lora", torch.float64) for name in ARCHITECTURES),
        *((name, "dora", torch.float64) for name in ("bert, all dense layers", "resnet")),
        *((name, "lora", torch.float32) for name in ("vit, patches", "resnet")),
    ],
)
@pytest.mark.filterwarnings("ignore:There is a performance")
def test_architectures(name: str, method: str, dtype: torch.dtype) -> None:
    """What a model in float32 shows is that of its copy in float64, to the rounding of float32."""
    build, targets, sample = ARCHITECTURES[name]
    model = adapted(build(), method, targets).to(dtype)
    shake(model)
    optimizer = LoKO(trained(model), dtype="float64").attach(model)
    for B in (1, 2):
        x, cotangents = sample(B), torch.randn(B, D, M, dtype=torch.float64)
        expected = transformed(copy.deepcopy(model).double(), x, cotangents)
        for _ in range(2):
            H = batched(model, optimizer, x.to(dtype) if x.is_floating_point() else x, cotangents)
            assert apart(model, H, expected) <= CLOSE[dtype]


@pytest.mark.skipif(not hasattr(peft.helpers, "DoraCaching"), reason="this PEFT cannot hold the norm")
def test_dora_takes_the_norm_for_a_constant() -> None:
    """As section 4.3 of its paper has it; the rest is exact."""
    model, x, cotangents = adapted(bert(), "dora", ["query"]), tokens(1), torch.randn(1, D, M, dtype=torch.float64)
    shake(model)
    H = batched(model, LoKO(trained(model), dtype="float64").attach(model), x, cotangents)
    with peft.helpers.DoraCaching():
        check_differences(model, H, x, cotangents)
    with pytest.raises(AssertionError):
        check_differences(model, H, x, cotangents)


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("name", ["bert", "vit"])
@pytest.mark.filterwarnings("ignore:There is a performance")
def test_checkpoints_change_nothing(name: str, method: str) -> None:
    """Layers run once more in the backward pass; without dropout the result is the same."""
    build, sample = {"bert": (bert, tokens), "vit": (vit, lambda B: images(B, 32))}[name]
    model = adapted(build(), method, ["query", "value"] if name == "bert" else ["query"])
    shake(model)
    optimizer = LoKO(trained(model), dtype="float64").attach(model)
    cases = [(sample(B), torch.randn(B, D, M, dtype=torch.float64)) for B in (1, 2)]
    expected = [transformed(model, x, cotangents) for x, cotangents in cases]
    if name == "bert":
        turn_on_checkpoints(model)
    else:
        model.model.get_base_model().set_grad_checkpointing(True)
    runs = count_runs(model)
    for (x, cotangents), H in zip(cases, expected, strict=True):
        for _ in range(2):
            assert apart(model, batched(model, optimizer, x, cotangents), H) <= CLOSE[torch.float64]
    assert runs[0] > 4 * (2 if method == "dora" else 1)


def turn_on_checkpoints(model: Plain) -> None:
    """Transformers checkpoints in train mode alone."""
    net = model.model.get_base_model()
    net.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()


def count_runs(model: nn.Module) -> list[int]:
    """How often the first adapter's layer is run, counted from now on."""
    layer, count = next(m for name, m in model.named_modules() if name.endswith("lora_A.default")), [0]
    layer.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count
