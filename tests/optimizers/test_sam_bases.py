"""SAM takes every first-order rule as its base: with a radius of 0 it is that rule, to the bit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from filtune.optimizers import SAM, Categorical, FirstOrder
from filtune.optimizers.sam import base_rules

from tests.optimizers.models import drive, labels, mlp
from tests.optimizers.reference import flat

RULES = base_rules()


def test_the_rules_are_those_of_the_folder() -> None:
    assert {"adagrad", "adamw", "sgd"} <= RULES.keys()
    assert all(issubclass(rule, FirstOrder) for rule in RULES.values())


@pytest.mark.parametrize("base", RULES)
def test_without_a_radius_it_is_the_base_rule(base: str) -> None:
    """The options that both have are given to both; those that only SAM has are not passed on."""
    model, other = mlp(3), mlp(3)
    sam = SAM(model.parameters(), base=base, rho=0.0, lr=0.1, momentum=0.0, eps=1e-8, weight_decay=0.01)
    rule = RULES[base](other.parameters(), lr=0.1, eps=1e-8, weight_decay=0.01) if base != "sgd" else RULES[base](
        other.parameters(), lr=0.1, weight_decay=0.01
    )  # fmt: skip
    samples = labels(4, 3, 3)
    drive(sam, model, Categorical, samples)
    drive(rule, other, Categorical, samples)
    assert torch.equal(flat(model), flat(other))


@pytest.mark.parametrize("base", RULES)
def test_copies_and_checkpoints_go_on_alike(base: str) -> None:
    model, samples = mlp(3), labels(6, 3, 3)
    sam = SAM(model.parameters(), base=base, lr=0.1)
    drive(sam, model, Categorical, samples[:3])
    twin, twin_sam = copy.deepcopy((model, sam))
    pickled, pickled_sam = pickle.loads(pickle.dumps((model, sam)))
    loaded = copy.deepcopy(model)
    loaded_sam = SAM(loaded.parameters(), base=base, lr=0.1)
    loaded_sam.load_state_dict(copy.deepcopy(sam.state_dict()))
    for net, optimizer in ((model, sam), (twin, twin_sam), (pickled, pickled_sam), (loaded, loaded_sam)):
        drive(optimizer, net, Categorical, samples[3:])
        assert torch.equal(flat(net), flat(model))
