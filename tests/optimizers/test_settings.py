"""A state goes into an optimizer with the options it was saved with, or is refused in one line."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from filtune.optimizers import EKF, NGD, RENG, RING, SAM, SGD, AdamW, Filtune, LoKO, RKalman, Sophia
from filtune.optimizers.base import SETTINGS

from tests.optimizers.rules import NATURAL, PUBLIC, RULES, Scaled, take_steps

DIFFER: list[tuple[Any, dict[str, Any], Any, dict[str, Any]]] = [
    *[
        (LoKO, {"noise": one}, LoKO, {"noise": other})
        for one in ("ema-2", "identity", "annealed", "ema_innovation", "scalar", "softmax")
        for other in ("ema-1", "ema_innovation", "annealed", "softmax")
        if one != other
    ],
    (LoKO, {}, LoKO, {"beta": 0.5}),
    (LoKO, {}, LoKO, {"r0": 0.5}),
    (LoKO, {}, LoKO, {"process_noise": 1e-3}),
    (LoKO, {}, LoKO, {"observation": "logits"}),
    (LoKO, {}, LoKO, {"update": "posterior_mode"}),
    (LoKO, {}, RKalman, {"p0_init": "uniform", "r0": 1.0, "beta": 0.95}),
    (LoKO, {}, EKF, {}),
    (Filtune, {}, Filtune, {"top_k": 1}),
    (Filtune, {}, Filtune, {"nis_window": 50}),
    (Filtune, {}, Filtune, {"nis_window": 0}),
    (Filtune, {"head_reset_scale": 1.0}, Filtune, {}),
    (Filtune, {}, Filtune, {"rank": 20}),
    (RING, {}, RING, {"inverse_method": "eigen"}),
    (RING, {"inverse_method": "eigen"}, RING, {}),
    (RING, {}, RING, {"min_relative_damping": 0.0}),
    (RING, {}, NGD, {"skip": 8, "rho": 5e-4, "phi": 0.999}),
    (RENG, {}, RING, {}),
    (SAM, {}, SAM, {"base": "adamw"}),
    (AdamW, {}, SGD, {}),
    (Sophia, {}, Sophia, {"hessian_every": 3}),
]


def trained(rule: Any, options: dict[str, Any]) -> Any:
    """An optimizer after two steps."""
    model = Scaled()
    optimizer = rule(model.parameters(), **options).attach(model)
    take_steps(optimizer, model, 2)
    return optimizer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(("rule", "options", "other", "changed"), DIFFER)
def test_another_setting_is_refused(rule: Any, options: dict, other: Any, changed: dict, recorded: bool) -> None:
    """Earlier releases did not record the settings: what then shows in the state alone is refused too."""
    saved = copy.deepcopy(trained(rule, options).state_dict())
    if not recorded:
        del saved[SETTINGS]
    model = Scaled()
    optimizer = other(model.parameters(), **changed).attach(model)
    if recorded:
        with pytest.raises(ValueError, match=rf"^{other.__name__}: the checkpoint [^\n]*$"):
            optimizer.load_state_dict(saved)
        return
    with contextlib.suppress(ValueError):  # anything else is a failure: a KeyError at the next step, say
        optimizer.load_state_dict(saved)
        if other.__name__ not in NATURAL and rule is other:
            take_steps(optimizer, model, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RULES)
def test_the_same_settings_are_accepted(name: str) -> None:
    saved = copy.deepcopy(trained(RULES[name], {}).state_dict())
    model = Scaled()
    optimizer = RULES[name](model.parameters()).attach(model)
    optimizer.load_state_dict(saved)
    take_steps(optimizer, model, 1)
    del saved[SETTINGS]
    optimizer.load_state_dict(saved)
    take_steps(optimizer, model, 1)


def test_filters_of_the_same_settings_are_the_same_filter() -> None:
    saved = trained(LoKO, {}).state_dict()
    model = Scaled()
    EKF(model.parameters(), covariance="diagonal", p0_init="uniform").load_state_dict(saved)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PUBLIC)
def test_a_subclass_with_another_constructor_has_the_state_of_its_base(name: str) -> None:
    base = PUBLIC[name]

    class Variant(base):
        """Declares nothing but a constructor."""

        def __init__(self, params: Any) -> None:
            super().__init__(params)

    for one, other in ((base, Variant), (Variant, base)):
        saved, model = copy.deepcopy(trained(one, {}).state_dict()), Scaled()
        optimizer = other(model.parameters()).attach(model)
        optimizer.load_state_dict(saved)
        take_steps(optimizer, model, 1)


@pytest.mark.parametrize("base", [AdamW, Sophia, SAM])
def test_one_with_methods_of_its_own_is_another_rule(base: Any) -> None:
    class Other(base):
        """A step of its own, and so perhaps a state."""

        def step(self, closure: Any) -> Any:
            return super().step(closure)

    saved, model = copy.deepcopy(trained(base, {}).state_dict()), Scaled()
    with pytest.raises(ValueError, match=f"^Other: the checkpoint was saved with optimizer {base.__name__}, this .*"):
        Other(model.parameters()).load_state_dict(saved)


def test_options_that_only_say_how_to_compute_may_differ() -> None:
    saved = trained(Filtune, {}).state_dict()
    model = Scaled()
    options = {"vectorize": False, "chunk_size": 7, "divergence_threshold": 50.0, "rows_per_sample": 2}
    Filtune(model.parameters(), **options).load_state_dict(saved)
