"""Small models for filtune's adapters, what the filter sees of them, and three references for it."""

from __future__ import annotations

import copy

import timm
import torch
from filtune.lightning_modules.backbones.adapters import adapt
from filtune.lightning_modules.backbones.base import Backbone, BackboneConfig
from filtune.optimizers import LoKO
from torch import Tensor, nn
from torch.func import jacrev
from transformers import BertConfig, BertForSequenceClassification

from tests.optimizers.reference import flat, outputs_of

M, D = 3, 2


class Plain(Backbone):
    """A model in float64 that takes its inputs as they are."""

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__(model.double(), (head,))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.model(inputs)
        return outputs if isinstance(outputs, Tensor) else outputs.logits


def bert(attention: str = "sdpa") -> Plain:
    """Two layers, with weights so large that attention is far from uniform."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 24, "max_position_embeddings": 8, "num_labels": M, "initializer_range": 0.3}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # train mode is for checkpoints
    config = BertConfig(**sizes, **more, **dropout, attn_implementation=attention)
    return Plain(BertForSequenceClassification(config), "classifier")


class Convolutions(nn.Module):
    """Convolutions with padding, stride, groups, a single pixel, and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3),
            nn.Tanh(),
            nn.Conv2d(6, 4, 1, bias=False),
            nn.Tanh(),
        )
        self.head = nn.Linear(64, M)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


def resnet() -> Plain:
    return Plain(timm.create_model("resnet10t", num_classes=M, zero_init_last=False), "fc")


def vit() -> Plain:
    return Plain(
        timm.create_model("vit_tiny_patch16_224", num_classes=M, img_size=32, depth=2, embed_dim=24, num_heads=2),
        "head",
    )


def tokens(B: int) -> Tensor:
    """(B, 6) token ids."""
    return torch.randint(1, 50, (B, 6))


def images(B: int, side: int = 8) -> Tensor:
    """(B, 3, side, side)."""
    return torch.randn(B, 3, side, side, dtype=torch.float64)


def adapted(backbone: Plain, method: str, targets: list[str], **arguments: object) -> Plain:
    """The backbone with its adapter, in eval mode."""
    single = method == "psoft"  # it starts from float32 weights
    config = BackboneConfig("test", adapter=method, targets=targets, rank=3, adapter_args=arguments)
    adapt(backbone.float() if single else backbone, config)
    return backbone.double().eval()


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def shake(model: nn.Module) -> None:
    """Move every trained tensor away from where it starts."""
    with torch.no_grad():
        for p in trained(model):
            p.add_(0.1 * torch.randn_like(p))


def batched(model: nn.Module, optimizer: LoKO, x: Tensor, cotangents: Tensor) -> Tensor:
    """What the filter sees, (rows, n)."""
    return torch.cat([block.dense() for _, block in optimizer._build(model(x), cotangents).blocks], 1).double()


def looped(model: nn.Module, x: Tensor, cotangents: Tensor) -> Tensor:
    """One backward pass a row, (rows, n)."""
    outputs = model(x)
    rows = [
        torch.autograd.grad(outputs[b], trained(model), row, retain_graph=True, materialize_grads=True)
        for b, rows in enumerate(cotangents)
        for row in rows
    ]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def transformed(model: nn.Module, x: Tensor, cotangents: Tensor) -> Tensor:
    """torch.func.jacrev on a copy, for functional_call leaves tied parameters untied, (rows, n)."""
    twin = copy.deepcopy(model)
    return torch.einsum("bdm,bmn->bdn", cotangents, jacrev(outputs_of(twin, x))(flat(twin))).flatten(0, 1)


def apart(model: nn.Module, H: Tensor, expected: Tensor) -> float:
    """The largest difference in any tensor's columns, relative to the largest derivative there.

    One whose derivatives are a million times smaller than others' is measured against those, a million times smaller.
    """
    sizes = [p.numel() for p in trained(model)]
    least = 1e-6 * expected.abs().max()
    pairs = zip(H.split(sizes, 1), expected.split(sizes, 1), strict=True)
    return max(float((h - e).abs().max() / e.abs().max().clamp_min(least)) for h, e in pairs)


def check_differences(model: nn.Module, H: Tensor, x: Tensor, cotangents: Tensor) -> None:
    """Compare with central differences of fourth order, along a random direction of each tensor.

    With steps h they are off by h^4/30 times the fifth derivative, taken to be at most 1e7 first ones in these
    networks, and by 1.5 u/h of the outputs, taken to be rounded with a condition of 10.
    """
    h, u = 6e-4, 1.1e-16
    with torch.no_grad():
        size = (cotangents @ model(x).unsqueeze(-1)).abs().max()
        for p, columns in zip(trained(model), H.split([p.numel() for p in trained(model)], 1), strict=True):
            direction, start = nn.functional.normalize(torch.randn_like(p), dim=None), p.clone()
            shifted = []
            for step in (h, -h, 2 * h, -2 * h):
                p.copy_(start + step * direction)
                shifted.append((cotangents @ model(x).unsqueeze(-1)).flatten())
            p.copy_(start)
            slope = (8 * (shifted[0] - shifted[1]) - (shifted[2] - shifted[3])) / (12 * h)
            expected = columns @ direction.flatten()
            assert (slope - expected).abs().max() <= 1e7 * h**4 / 30 * expected.abs().max() + 15 * u / h * size
