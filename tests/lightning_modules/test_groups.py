"""Parameter groups by name, and the fingerprint of what is frozen."""

from __future__ import annotations

import pytest
import torch
from filtune.lightning_modules.checkpoints import frozen_fingerprint
from filtune.lightning_modules.optimization import group_parameters
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
