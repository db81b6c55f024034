"""Layers are watched only where their derivatives are right; everywhere else the Jacobian is still right."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from filtune.optimizers import RING, Categorical, LoKO
from filtune.optimizers.kalman.blocks import OuterProduct
from filtune.optimizers.kalman.jacobian import JacobianBuilder
from filtune.optimizers.layer_hooks import LayerHooks, is_supported
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.utils.checkpoint import checkpoint

from tests.optimizers.models import FEATURES, drive, labels, mlp, relative, rounding
from tests.optimizers.reference import flat, outputs_of

M, D = 3, 2
CLOSE = rounding(2_000, condition=100)


class Net(nn.Module):
    """An inner dense layer 5 -> 5 and a head 5 -> 3, wired by ``how``."""

    def __init__(self, how: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how
        self.inner, self.head = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, M)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.how(self, x))


class Product(nn.Module):
    """A module of another kind that uses a weight it is given."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Tied(Net):
    """Another module holds the inner layer's weight too, and uses it."""

    def __init__(self) -> None:
        super().__init__(lambda net, x: torch.tanh(net.inner(x)) + net.gate * net.twin(x.square()))
        self.gate = 0.0
        self.twin = Product(self.inner.weight)


def in_place_relu(net: Net, x: Tensor) -> Tensor:
    """With the bias at 3 all units are on at first, so that the output's gradient looks right."""
    return nn.functional.relu(net.inner(x), inplace=True)


def batch_normed(net: Net, x: Tensor) -> Tensor:
    """Batch statistics mix the samples."""
    z = net.inner(x)
    return torch.tanh((z - z.mean(0)) / (z.var(0, unbiased=False) + 0.1).sqrt() if len(x) > 1 else z)


def first_sample_for_all(net: Net, x: Tensor) -> Tensor:
    """Every output depends on the first sample of the batch."""
    z = torch.tanh(net.inner(x))
    return z + z[:1].square()


WIRINGS: dict[str, tuple[Callable[[Net, Tensor], Tensor], int]] = {
    "plain": (lambda net, x: torch.tanh(net.inner(x)), 2),
    "keyword": (lambda net, x: torch.tanh(net.inner(input=x)), 2),
    "called twice": (lambda net, x: torch.tanh(net.inner(torch.tanh(net.inner(x)))), 1),
    "called twice, once without gradient": (lambda net, x: torch.tanh(net.inner(x)) + net.inner(x).detach(), 1),
    "three-dimensional": (lambda net, x: torch.tanh(net.inner(torch.stack([x, 2 * x, x**2], 1))).sum(1), 1),
    "one-dimensional": (lambda net, x: torch.stack([torch.tanh(net.inner(row)) for row in x]), 1),
    "folded into the batch": (lambda net, x: torch.tanh(net.inner(torch.cat([x, x**2]))).view(2, -1, 5).sum(0), 1),
    "more rows than samples": (lambda net, x: torch.tanh(net.inner(torch.cat([x, x**2])))[: len(x)], 1),
    "weight used by hand as well": (
        lambda net, x: torch.tanh(net.inner(x)) + nn.functional.linear(x**2, net.inner.weight),
        1,
    ),
    "relu in place": (in_place_relu, 2),
    "output scaled in place": (lambda net, x: torch.tanh(net.inner(x).mul_(3)), 2),
    "view written in place": (lambda net, x: _halved(net.inner(x)), 2),
    "unused": (lambda net, x: (net.inner(x), x)[1], 2),
}


def _halved(z: Tensor) -> Tensor:
    z[:, :2] *= 0.5
    return z


def matches(model: nn.Module, builder: JacobianBuilder, x: Tensor) -> int:
    """Compare with jacrev; how many blocks are factored."""
    cotangents = torch.randn(len(x), D, M, dtype=torch.float64)
    blocks = builder(model(x), cotangents).blocks
    parts = [block.dense() for _, block in blocks]
    full = jacrev(outputs_of(model, x))(flat(model))
    assert relative(torch.cat(parts, 1), torch.einsum("bdm,bmn->bdn", cotangents, full).flatten(0, 1)) <= CLOSE
    return sum(isinstance(block, OuterProduct) for _, block in blocks)


def attached(model: nn.Module) -> JacobianBuilder:
    """A builder that watches the model."""
    builder = JacobianBuilder(list(model.parameters()), torch.float64)
    builder.attach(model)
    return builder


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("name", WIRINGS)
def test_layers_that_break_the_assumption_are_left_alone(name: str, B: int) -> None:
    how, factored = WIRINGS[name]
    model = Net(how)
    with torch.no_grad():
        model.inner.bias.fill_(3.0)
    builder = attached(model)
    for scale in (0.1, 1.0, 10.0):  # small features keep every unit on, large ones turn some off
        x = scale * torch.randn(B, FEATURES, dtype=torch.float64)
        assert matches(model, builder, x) == factored


IMAGES: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "patches": (lambda: nn.Conv2d(2, 3, 3, padding=1), True),
    "wide stride and dilation": (lambda: nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(2, 0), dilation=2), True),
    "pixels": (lambda: nn.Conv2d(2, 3, 1, bias=False), True),
    "every other pixel": (lambda: nn.Conv2d(2, 3, 1, stride=2), True),
    "padded pixels": (lambda: nn.Conv2d(2, 3, 1, padding=1), True),
    "the whole image": (lambda: nn.Conv2d(2, 3, 6), True),
    "groups": (lambda: nn.Conv2d(2, 4, 3, groups=2), True),
    "padded alike": (lambda: nn.Conv2d(2, 3, 3, padding="same"), True),
    "padded by reflection": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), False),
    "dense along the width": (lambda: nn.Linear(6, 4), True),
}


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_layers_of_several_positions(name: str, B: int) -> None:
    build, known = IMAGES[name]
    torch.manual_seed(0)
    net = nn.Sequential(build(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(M))
    net(torch.zeros(1, 2, 6, 6))
    net.double()
    builder = attached(net)
    for _ in range(2):
        matches(net, builder, torch.randn(B, 2, 6, 6, dtype=torch.float64))
    single = name == "the whole image"
    assert len(builder._verified) == 1 + (known if B > 1 else single)  # one sample's matrices are left to autograd
    assert all(builder._verified.values())


def test_a_layer_run_again_for_its_checkpoint_is_seen_once() -> None:
    model = Net(lambda net, x: checkpoint(lambda z: torch.tanh(net.inner(z)), x, use_reentrant=False))
    builder = attached(model)
    for _ in range(2):
        builder(model(torch.randn(2, FEATURES, dtype=torch.float64)), torch.randn(2, D, M, dtype=torch.float64))
        assert not builder._hooks.take()


@pytest.mark.parametrize("how", [batch_normed, first_sample_for_all])
def test_samples_that_mix_are_noticed_whenever_the_batch_grows(how: Callable[[Net, Tensor], Tensor]) -> None:
    model = Net(how)
    builder = attached(model)
    found = [matches(model, builder, torch.randn(B, FEATURES, dtype=torch.float64)) for B in (1, 3, 1, 2, 3)]
    assert found == [2, 1, 2, 1, 1]


def test_batch_norm_is_noticed_when_it_changes_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, M)).double()
    builder, x = attached(model), torch.randn(3, FEATURES, dtype=torch.float64)
    model[1].track_running_stats = False
    model[1].running_mean, model[1].running_var = torch.zeros(6).double(), torch.ones(6).double()
    assert matches(model.eval(), builder, x) == 2
    model[1].running_mean = model[1].running_var = None
    assert matches(model.train(), builder, x) == 1


def test_tied_weights_are_left_alone() -> None:
    """Even while the twin makes no difference yet, so that the factors would hold."""
    model = Tied()
    builder = attached(model)
    for model.gate in (0.0, 1.0):
        assert matches(model, builder, torch.randn(3, FEATURES, dtype=torch.float64)) == 1


def test_a_saturated_first_sample_hides_nothing() -> None:
    """Cotangents are exactly zero at first: the check must not be satisfied by 0 = 0."""
    model = Net(WIRINGS["weight used by hand as well"][0])
    builder, x = attached(model), torch.randn(1, FEATURES, dtype=torch.float64)
    builder(model(x), torch.zeros(1, D, M, dtype=torch.float64))
    assert matches(model, builder, x) == 1


def test_a_layer_without_gradient_yet_is_judged_later() -> None:
    model = Net(WIRINGS["weight used by hand as well"][0])
    with torch.no_grad():
        model.head.weight.zero_()
    builder, x = attached(model), torch.randn(2, FEATURES, dtype=torch.float64)
    assert matches(model, builder, x) == 2  # factors of zero are as good as any, this time
    with torch.no_grad():
        model.head.weight.normal_()
    assert matches(model, builder, x) == 1


def test_passes_outside_the_step_do_no_harm_and_do_not_pile_up() -> None:
    model, other = mlp(M), mlp(M)
    optimizer, plain = (
        LoKO(model.parameters(), dtype="float64").attach(model),
        LoKO(other.parameters(), dtype="float64"),
    )
    plain.state["filter"]["p"] = optimizer.state["filter"]["p"].clone()
    for x, y in labels(3, 2, M):
        for _ in range(5):
            model(x)
        assert all(len(calls) <= 2 for calls in optimizer._build._hooks._calls.values())
        drive(optimizer, model, Categorical, [(x, y)])
        drive(plain, other, Categorical, [(x, y)])
        assert relative(flat(model), flat(other)) <= CLOSE
    assert not optimizer._build._hooks.take()


def test_passes_without_gradient_are_not_recorded() -> None:
    model = mlp(M)
    builder = attached(model)
    with torch.no_grad():
        model(torch.ones(1, FEATURES, dtype=torch.float64))
    assert not builder._hooks.take()


def test_attaching_again_takes_the_old_hooks_off() -> None:
    first, second = mlp(M), mlp(M)
    optimizer = LoKO(first.parameters()).attach(first).attach(second).attach(first)
    assert [len(layer._forward_hooks) for layer in (first[0], first[2], second[0], second[2])] == [1, 1, 0, 0]
    optimizer._build._hooks.remove()
    assert not first[0]._forward_hooks


@pytest.mark.parametrize("kind", [LoKO, RING])
def test_hooks_go_with_the_optimizer(kind: type) -> None:
    """Those of an earlier attach at once, those of the last one with the optimizer."""
    model = mlp(M)
    optimizer = kind(model.parameters()).attach(model).attach(model)
    assert [len(layer._forward_hooks) for layer in (model[0], model[2])] == [1, 1]
    del optimizer
    gc.collect()
    assert not model[0]._forward_hooks


def test_calls_with_other_parameters_do_not_count() -> None:
    """functional_call runs the layers with parameters that are not the model's."""
    model, x = mlp(M), torch.ones(2, FEATURES, dtype=torch.float64)
    others = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    for hooks in (LayerHooks(model, model.parameters(), always_on=True), LayerHooks(model, model.parameters())):
        with hooks:
            functional_call(model, others, (x,))
            assert not hooks.take()
            model(x)
            assert [len(calls) for calls in hooks.take().values()] == [1, 1]


class Subclass(nn.Linear):
    """Computes what a dense layer computes."""


class Doubled(nn.Linear):
    """Computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Padded(nn.Conv2d):
    """Pads its input in a place of its own."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(nn.functional.pad(x, (1, 1, 1, 1)), weight, bias)


def test_subclasses_count_unless_they_compute_something_else() -> None:
    assert is_supported(Subclass(2, 2))
    assert not is_supported(Doubled(2, 2))
    assert not is_supported(Padded(2, 2, 3))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    (watched,) = LayerHooks(parametrized, parametrized.parameters()).layers
    assert watched.params.keys() == {"bias"}  # its weight is computed from other parameters


def test_an_attached_model_can_be_copied_and_pickled_after_a_pass() -> None:
    model = mlp(M)
    LoKO(model.parameters()).attach(model)
    x = torch.ones(1, FEATURES, dtype=torch.float64)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)
