"""An option without effect beside the others is refused in one line that names it, whatever the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
from filtune.optimizers import EKF, NGD, RENG, RING, SAM, Filtune, LoKO, RKalman

from tests.optimizers.models import mlp

NATURAL = (NGD, RENG, RING)
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    *[
        (
            rule,
            {"paper_exact": True, name: value},
            f"{name} must be left out, or be .*, with paper_exact; got {value!r}",
        )
        for rule in NATURAL
        for name, value in {
            "momentum": 0.5,
            "kl_clip": 1e-2,
            "factor_decay": 0.5,
            "inverse_method": "eigen",
            "fisher_type": "exact",
        }.items()
    ],
    (RING, {"paper_exact": True, "min_relative_damping": 0.1}, "min_relative_damping must be left out"),
    *[
        case
        for rule in NATURAL
        for case in (
            (rule, {"damping_schedule": "none", "phi": 0.5}, "phi is an option of damping_schedule loss, ratio, and"),
            (rule, {"unsupported_params": "freeze", "fallback_lr": 0.1}, "fallback_lr is an option of unsupported_par"),
            (rule, {"unsupported_params": "refuse", "fallback_lr": 0.1}, "fallback_lr is an option of unsupported_par"),
        )
    ],
    (SAM, {"base": "adamw", "momentum": 0.5}, "momentum is no option of base adamw; got momentum 0.5"),
    (SAM, {"eps": 1e-3}, "eps is no option of base sgd; got eps 0.001"),
    (SAM, {"betas": (0.5, 0.5)}, "betas is no option of base sgd"),
    (LoKO, {"noise": "identity", "beta": 0.5}, "beta is an option of noise ema-1, ema-2"),
    (EKF, {"covariance": "full", "rank": 3}, "rank is an option of covariance low_rank, and covariance is full"),
    (RKalman, {"noise": "softmax", "r0": 2.0}, "r0 is an option of noise"),
    (Filtune, {"nis_window": 0, "forgetting_factor": 0.5}, "forgetting_factor below 1 needs a positive nis_window"),
]


@pytest.mark.parametrize(("rule", "options", "said"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_an_option_without_effect_is_refused(rule: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"^{rule.__name__}: {said}[^\n]*$"):
        rule(mlp(3).parameters(), **options)


@pytest.mark.parametrize("rule", NATURAL, ids=lambda rule: rule.__name__)
def test_values_of_the_paper_and_defaults_are_accepted(rule: Any) -> None:
    rule(mlp(3).parameters(), paper_exact=True, momentum=0.0, kl_clip=0.0, fisher_type="mc")
    rule(mlp(3).parameters(), paper_exact=True, momentum=0.9, inverse_method="cholesky")
    rule(mlp(3).parameters(), damping_schedule="ratio", phi=0.5)
    rule(mlp(3).parameters(), unsupported_params="adamw", fallback_lr=0.1)
