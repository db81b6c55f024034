"""Parameter groups by name, warm-up and linear decay, and the fingerprint of what is frozen."""

from __future__ import annotations

import pytest
import torch
from filtune.lightning_modules import Schedule
from filtune.lightning_modules.checkpoints import frozen_fingerprint
from filtune.lightning_modules.optimization import group_parameters
from filtune.optimizers import AdamW, LoKO
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lora_A, self.lora_B, self.head = nn.Linear(2, 1), nn.Linear(1, 2), nn.Linear(2, 2)


def test_first_pattern_takes_the_parameter_and_the_rest_stays_together() -> None:
    net = Net()
    groups = group_parameters(net, {"lora_B": {"p0": 2.0}, "lora": {"p0": 0.3}})
    assert [len(group["params"]) for group in groups] == [2, 2, 2]
    assert groups[0]["params"][0] is net.head.weight
    assert groups[1]["params"][0] is net.lora_B.weight
    assert groups[2] == {"params": [net.lora_A.weight, net.lora_A.bias], "p0": 0.3}


def test_no_options_is_one_group() -> None:
    assert [len(group["params"]) for group in group_parameters(Net(), {})] == [6]


@pytest.mark.parametrize(
    ("options", "culprit"),
    [({"nowhere": {}}, "'nowhere' matches no trainable parameter"), ({"(": {}}, "not a regular expression")],
)
def test_mistakes_are_named(options: dict, culprit: str) -> None:
    with pytest.raises(ValueError, match=f"model.param_groups: .*{culprit}"):
        group_parameters(Net(), options)


def test_nothing_trainable_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter is trainable"):
        group_parameters(Net().requires_grad_(False), {})


def test_fingerprint_sees_frozen_weights_only() -> None:
    net = Net()
    net.lora_A.requires_grad_(False)
    before = frozen_fingerprint(net)
    with torch.no_grad():
        net.head.weight.add_(1)
    assert frozen_fingerprint(net) == before
    with torch.no_grad():
        net.lora_A.weight[0, 0] = torch.nextafter(net.lora_A.weight[0, 0], torch.tensor(9.0))
    assert frozen_fingerprint(net) != before
    frozen_fingerprint(net.bfloat16())


def rates(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps + 1)]


def test_linear_decay_ends_at_zero() -> None:
    assert rates(Schedule("linear"), 4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_warmup_rises_to_the_full_rate_and_the_decay_follows() -> None:
    factors = rates(Schedule("linear", warmup=3), 7)
    assert factors == [0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates(Schedule("none", warmup=1), 3) == [0.5, 1.0, 1.0, 1.0]


def test_it_drives_the_learning_rate() -> None:
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = Schedule("linear").build(optimizer, 10)
    for _ in range(5):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_filter_has_no_learning_rate() -> None:
    with pytest.raises(ValueError, match="LoKO has no learning rate; set --model.schedule.decay none"):
        Schedule("linear").build(LoKO([nn.Parameter(torch.zeros(1))]), 10)


@pytest.mark.parametrize("warmup", [-1, 10])
def test_a_warmup_must_fit_the_run(warmup: int) -> None:
    with pytest.raises(ValueError, match=r"model.schedule.warmup: must lie in \[0, 10\)"):
        Schedule("none", warmup=warmup).build(AdamW([nn.Parameter(torch.zeros(1))]), 10)
