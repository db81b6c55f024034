"""State, counters and messages: resume, non-finite values, learning rates of groups, damping, bad arguments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from filtune.optimizers import NGD, RENG, RING, Categorical, OnlineOptimizer
from filtune.optimizers.kfac.damping import MIN_RHO, DampingSchedule, by_loss, by_ratio
from filtune.optimizers.kfac.inverses import Eigen, InverseMethod
from filtune.optimizers.kfac.natural import OLD_STATE_KEYS
from filtune.optimizers.kfac.output_gradients import OutputGradients
from filtune.optimizers.kfac.unsupported import UnsupportedParams
from torch import Tensor, nn

from tests.optimizers.models import labels, mlp, relative, rounding
from tests.optimizers.test_resume import same, with_norm

KINDS = [NGD, RING, RENG]


def take(optimizer: OnlineOptimizer, model: nn.Module, stream: list[tuple[Tensor, Tensor]], start: int = 0) -> None:
    for k, (x, y) in enumerate(stream):
        torch.manual_seed(start + k)  # labels are sampled
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))


def in_old_names(tree: Any) -> Any:
    """Return a state as earlier releases saved it."""
    old = {new: name for name, new in OLD_STATE_KEYS.items()}
    return {old.get(key, key): in_old_names(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


@pytest.mark.filterwarnings("ignore:NGD. no Kronecker factors")
def test_a_checkpoint_in_the_names_of_earlier_releases_is_loaded() -> None:
    model, stream = with_norm(4), labels(5, 3, 4)
    optimizer = NGD(model.parameters(), skip=3).attach(model)
    take(optimizer, model, stream[:2])
    saved, weights = in_old_names(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    state = saved["state"]["natural"]
    assert {"seen", "stacks", "others", "guarded", "nonfinite"} < state.keys()
    assert {"lambda_trace", "gamma_trace"} < state["figures"].keys()
    assert {"M", "wide", "indefinite"} < state["stacks"]["0"]["Lambda"].keys()
    twin = with_norm(4)
    twin.load_state_dict(weights)
    resumed = NGD(twin.parameters(), skip=3).attach(twin)
    resumed.load_state_dict(saved)
    assert same(optimizer.state["natural"], resumed.state["natural"])
    for net, rule in ((model, optimizer), (twin, resumed)):
        take(rule, net, stream[2:], start=2)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(("kind", "bad_step"), [(NGD, 1), (RING, 0), (RENG, 0), (RENG, 1), (RENG, 2)])
def test_a_value_that_is_not_finite_never_enters(kind: type, bad_step: int) -> None:
    """Neither parameters nor momentum, factors or inverses; it is counted."""
    model, stream = mlp(3), labels(4, 2, 3)
    optimizer = kind(model.parameters(), skip=2).attach(model)
    for k, (x, y) in enumerate(stream):
        before = [p.clone() for p in model.parameters()]
        spoilt = torch.full_like(x, float("nan")) if k == bad_step else x
        optimizer.step(lambda x=spoilt, y=y: Categorical(model(x)).observe(y))
        if k == bad_step:
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in model.parameters())
    for group in optimizer.natural["groups"].values():
        assert group["momentum"].isfinite().all()
        for name in ("a_factor", "g_factor"):
            assert all(t.isfinite().all() for t in group[name].values() if isinstance(t, Tensor))
    assert int(optimizer.stats["nonfinite_steps"]) == 1
    assert "1 non-finite" in (optimizer.check_divergence() or "")
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_every_group_has_its_own_learning_rate() -> None:
    stream = labels(3, 4, 3)
    model = mlp(3)
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    optimizer = NGD(groups, lr=1.0, fisher_type="exact").attach(model)
    before = [p.clone() for p in model.parameters()]
    take(optimizer, model, stream)
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert moved == [False, False, True, True]


@pytest.mark.filterwarnings("ignore:RING. no Kronecker factors")
def test_a_model_without_a_single_factor_is_refused() -> None:
    model = nn.Sequential(nn.LayerNorm(5), nn.Tanh()).double()
    optimizer = RING(model.parameters()).attach(model)
    with pytest.raises(ValueError, match="RING: the outputs depend on no layer that has Kronecker factors"):
        take(optimizer, model, labels(1, 2, 5))


def test_weight_and_bias_belong_together() -> None:
    model = mlp(3)
    optimizer = NGD([{"params": [p]} for p in model.parameters()]).attach(model)
    with pytest.raises(ValueError, match="weight and bias of a layer must be in one parameter group"):
        take(optimizer, model, labels(1, 2, 3))


@pytest.mark.parametrize("rule", ["adamw", "freeze"])
def test_parameters_without_factors_follow_the_declared_rule(rule: str) -> None:
    """AdamW's own steps to the bit, or none; the others move as if they were alone."""
    model = with_norm(3)
    norm, lr = [p.detach().clone() for p in model[1].parameters()], {"fallback_lr": 0.01} if rule == "adamw" else {}
    with pytest.warns(UserWarning, match=r"RING: no Kronecker factors for 1.weight \(LayerNorm\), 1.bias"):
        optimizer = RING(model.parameters(), unsupported_params=rule, **lr).attach(model)
    twin = copy.deepcopy(norm)
    adamw = torch.optim.AdamW(twin, lr=0.01, weight_decay=0.0)
    for x, y in labels(3, 4, 3):
        loss = Categorical(model(x)).nll(y)
        for p, g in zip(twin, torch.autograd.grad(loss, list(model[1].parameters())), strict=True):
            p.grad = g
        optimizer.step(lambda x=x, y=y: Categorical(model(x)).observe(y))
        adamw.step()
    expected = twin if rule == "adamw" else norm
    assert all(torch.equal(p, q) for p, q in zip(model[1].parameters(), expected, strict=True))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_equation_11_tracks_the_damping_between_refreshes(kind: type) -> None:
    """Within (dlam / lam)^2 of the exact step, which the eigenvalues give, and not at the old damping's step."""
    steps = {}
    for how in ("cholesky", "eigen", "old"):
        model, stream = mlp(3), labels(2, 4, 3)
        options = {
            "inverse_method": "cholesky" if how == "old" else how,
            "fisher_type": "exact",
            "phi": 0.9,
            "kl_clip": 0.0,
        }
        if kind is RENG:
            options["grad_penalty"] = 0.0
        optimizer = kind(model.parameters(), rho=1e-2, skip=4, momentum=0.0, lr=0.1, **options).attach(model)
        take(optimizer, model, stream[:1])
        if how == "old":
            optimizer.natural["loss"] = optimizer.natural["loss"] * float("nan")  # rho stays
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        take(optimizer, model, stream[1:])
        steps[how] = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
        assert (float(optimizer.stats["damping"]) == pytest.approx(1e-2)) == (how == "old")
    # lam changes by a factor of sqrt(.9) either way: (1 - sqrt(.9)) = .051, and both factors err
    change = (1 / 0.9**0.5 - 1) ** 2
    start = 0.05 if kind is RING else 1e-9  # RING's norms differ: one by power iteration
    assert relative(steps["cholesky"], steps["eigen"]) <= 2 * 2 * change + start
    assert relative(steps["old"], steps["eigen"]) > relative(steps["cholesky"], steps["eigen"])


def test_the_guard_of_equation_11_is_counted() -> None:
    model = mlp(3)
    optimizer = NGD(model.parameters(), phi=0.1, skip=100).attach(model)
    take(optimizer, model, labels(20, 2, 3))
    assert int(optimizer.stats["damping_clamped"]) > 0
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_damping_follows_the_loss() -> None:
    rho, loss = torch.tensor(1.0), torch.tensor(2.0)
    assert float(by_loss(rho, loss, torch.tensor(3.0), 0.5)) == 0.5
    assert float(by_loss(rho, loss, torch.tensor(1.0), 0.5)) == 2.0
    assert float(by_loss(rho, loss, loss, 0.5)) == 1.0
    assert float(by_loss(rho, loss, torch.tensor(float("nan")), 0.5)) == 1.0  # there is none before the first
    assert float(by_loss(torch.tensor(MIN_RHO), loss, torch.tensor(3.0), 0.5)) == pytest.approx(MIN_RHO)


@pytest.mark.parametrize(
    ("change", "predicted", "expected"),
    [
        (-0.8, -1.0, 0.5),
        (-0.5, -1.0, 1.0),
        (-0.2, -1.0, 2.0),
        (0.3, -1.0, 2.0),
        (-0.5, 0.1, 2.0),
        (float("nan"), -1.0, 2.0),
    ],
)
def test_the_damping_follows_the_reduction_ratio(change: float, predicted: float, expected: float) -> None:
    found = by_ratio(torch.tensor(1.0), torch.tensor(change), torch.tensor(predicted), 0.5)
    assert float(found) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_reduction_ratio_of_a_step(kind: type) -> None:
    """One more closure at a refresh, none between; the prediction g'd + d'Fd / 2 is here worked out densely."""
    model, calls = mlp(3), []
    x, y = labels(1, 4, 3)[0]
    options = {"grad_penalty": 0.0} if kind is RENG else {}
    optimizer = kind(
        model.parameters(), damping_schedule="ratio", phi=0.5, skip=2, fisher_type="exact", rho=1e-3, **options
    ).attach(model)
    theta = [p.detach().clone() for p in model.parameters()]
    g = torch.autograd.grad(Categorical(model(x)).nll(y), list(model.parameters()))

    def closure() -> Any:
        calls.append(1)
        return Categorical(model(x)).observe(y)

    before = float(Categorical(model(x)).nll(y).detach())
    optimizer.step(closure)
    assert len(calls) == 2
    d = [p.detach() - q for p, q in zip(model.parameters(), theta, strict=True)]
    predicted = sum(float((a * b).sum()) for a, b in zip(g, d, strict=True))
    shapes = {(7, 6): (0, 1), (3, 8): (2, 3)}
    for group in optimizer.natural["groups"].values():
        A, G = group["a_factor"]["M"][0], group["g_factor"]["M"][0]
        w, b = shapes[len(G), len(A)]
        vec = torch.cat([d[w], d[b][:, None]], 1).mT.flatten()  # columns one after the other
        predicted += 0.5 * float(vec @ torch.kron(A, G) @ vec)
    after = float(Categorical(model(x)).nll(y).detach())
    ratio = (after - before) / predicted
    factor = 0.5 if ratio > 0.75 else 2.0 if ratio < 0.25 else 1.0
    assert float(optimizer.natural["rho"]) == pytest.approx(1e-3 * factor)
    optimizer.step(closure)
    assert len(calls) == 3


def test_stats_are_there_without_waiting_for_the_device() -> None:
    model = mlp(3)
    optimizer = RENG(model.parameters()).attach(model)
    assert optimizer.stats == {}
    take(optimizer, model, labels(2, 2, 3))
    expected = {"grad_norm", "update_norm", "kl", "kl_scale", "damping", "a_factor_trace", "g_factor_trace", "residual"}
    assert expected | {"inverse_failures", "damping_clamped", "nonfinite_steps"} == set(optimizer.stats)
    assert all(isinstance(value, Tensor) and value.dim() == 0 for value in optimizer.stats.values())
    assert float(optimizer.stats["kl"]) <= 1e-3 * (1 + rounding(100, dtype=torch.float32))


def test_state_bytes_counts_factors_inverses_and_momentum() -> None:
    model = nn.Linear(5, 2, bias=False).double()
    optimizer = NGD(model.parameters(), damping_schedule="none").attach(model)
    take(optimizer, model, labels(1, 2, 2))
    dense = 2 * (5 * 5 + 2 * 2)  # M and its inverse
    assert optimizer.state_bytes() >= 8 * (dense + 10)
    assert optimizer.state_bytes() <= 8 * (dense + 10) + 400


@pytest.mark.parametrize("family", [InverseMethod, OutputGradients, DampingSchedule, UnsupportedParams])
def test_every_choice_is_documented(family: type) -> None:
    assert {name for name in family.registry if f"``{name}``" in (RING.__doc__ or "")} == set(family.registry)


def test_a_part_is_selected_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defining the class is all there is to do."""
    monkeypatch.setattr(InverseMethod, "registry", dict(InverseMethod.registry))

    class Twofold(Eigen):
        name = "twofold"

    assert isinstance(NGD(mlp(2).parameters(), inverse_method="twofold").inverse_method, Twofold)
    with pytest.raises(ValueError, match="^NGD: inverse_method must be one of cholesky, .*twofold; got 'twofolds'"):
        NGD(mlp(2).parameters(), inverse_method="twofolds")


def test_a_part_gets_the_options_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in (DampingSchedule, UnsupportedParams):
        monkeypatch.setattr(family, "registry", dict(family.registry))

    class Halving(DampingSchedule):
        name = "halving"

        def __init__(self, optimizer: str, rho: float, *, kl_clip: float = 1.0) -> None:
            super().__init__(optimizer, rho)
            self.kl_clip = kl_clip

    class Ignore(UnsupportedParams):
        name = "ignore"

    options = {"damping_schedule": "halving", "unsupported_params": "ignore", "kl_clip": 0.5}
    optimizer = NGD(mlp(2).parameters(), **options)
    assert optimizer.schedule.kl_clip == 0.5
    assert isinstance(optimizer.unsupported, Ignore)
    assert NGD(mlp(2).parameters(), phi=0.5).schedule.phi == 0.5
    assert NGD(mlp(2).parameters(), fallback_lr=0.25).unsupported.lr == 0.25
