"""Every numeric option of every optimizer, with values that none should have: refused by its name, or allowed here."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from filtune.experiments.classes import classes, options
from filtune.optimizers import FirstOrder
from filtune.optimizers.ranges import LARGEST, LEAST, MOST

from filtune.value_checks import Trial, check_root, check_seed
from tests.optimizers.rules import Scaled, take_steps

NAN, INF = float("nan"), float("inf")
NUMBERS = [-1.0, -1e-9, NAN, INF, -INF, 0.0, 1e-320, LEAST, LARGEST, 1e38, 1e300]
COUNTS = [-1, 0, 1, MOST, 10**10, 10**30]
SMALL, LARGE = (0.0, 1e-320), (1e38, 1e300, INF)

ALLOWED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("lr", "lr_decay", "eps", "weight_decay", "fallback_lr", "kl_clip", "grad_penalty"), SMALL),
    **dict.fromkeys(("beta", "momentum", "factor_decay", "forgetting_factor", "min_relative_damping"), SMALL),
    **dict.fromkeys(("r0", "process_noise", "head_reset_scale", "rho"), SMALL),
    **dict.fromkeys(("buffer_size", "rows_per_sample", "nis_window", "top_k"), (0,)),
    "divergence_threshold": LARGE,  # infinite: never
    "phi": (1e-320,),
    "rank_tolerance": (0.0,),
}
"""Values at the edge of what makes sense that an option takes, beside those within its range."""

POSITIVE = {("Sophia", "eps"), *((name, "rho") for name in ("NGD", "RENG", "RING"))}
"""Options that may not be zero here, though others of their name may."""


def cases() -> Iterator[tuple[str, type[Any], str, Any]]:
    """Name, class, option and value."""
    for name, cls in classes("optimizer").items():
        for option in options("optimizer", cls).values():
            kinds = {option.hint, *get_args(option.hint)}
            if option.hint is int:
                yield from ((name, cls, option.name, value) for value in COUNTS)
            elif option.hint is float:
                yield from ((name, cls, option.name, value) for value in NUMBERS)
            elif float in kinds:
                pairs = [(value, 0.9) for value in (-1.0, NAN, INF, 1.0)] + [(0.9, 1.5)]
                yield from ((name, cls, option.name, pair) for pair in pairs)


@pytest.mark.parametrize("name", classes("optimizer"))
def test_a_value_is_refused_by_the_name_of_its_option_or_allowed(name: str) -> None:
    """What is accepted takes two steps: it may diverge, and nothing is raised."""
    for _, cls, option, value in (case for case in cases() if case[0] == name):
        where = f"{name} {option}={value!r}"
        try:
            Trial(cls, {option: value}).run(lambda each: f"--optimizer.{each}")
        except ValueError as error:
            said = str(error)
            known = rf"--optimizer\.{option}: (must |needs noise softmax|is no option of base sgd)"
            assert re.match(known, said), f"{where}: {said}"
            assert said.endswith(f"{value!r}") or "needs" in said, f"{where}: {said}"
            assert "\n" not in said
            continue
        edge = value in (LEAST, LARGEST, MOST, 1)
        assert edge or (value in ALLOWED.get(option, ()) and (name, option) not in POSITIVE), f"{where} is accepted"
        model = Scaled()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = cls(model.parameters(), **{option: value}).attach(model)
            take_steps(optimizer, model, 2)


class RMSprop(FirstOrder, torch.optim.RMSprop):  # type: ignore[misc]
    """A rule of the user's: options of no range of ours, and torch's own messages."""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": -1.0}, "--optimizer.lr: must be zero or positive, and at most 1e+30; got -1.0"),
        ({"alpha": -1.0}, "--optimizer.alpha: Invalid alpha value: -1.0"),
        ({"lr": 0.1, "alpha": -1.0, "eps": 1e-6}, "--optimizer.alpha: Invalid alpha value: -1.0"),
        ({"alpha": -1.0, "momentum": 2.0}, "--optimizer.momentum: must lie in [0, 1); got 2.0"),
    ],
)
def test_so_are_those_of_other_classes(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        Trial(RMSprop, given).run(lambda name: f"--optimizer.{name}")


class Wide(RMSprop):
    """A rule that cannot move small matrices, whatever its options."""

    def __init__(self, params: Any, lr: float = 1e-2) -> None:
        super().__init__(params, lr=lr)
        if any(p.numel() < 100 for group in self.param_groups for p in group["params"]):
            raise ValueError("wide parameters only")


def test_a_rule_that_needs_other_parameters_is_left_to_the_model() -> None:
    assert Trial(Wide, {"lr": 0.1}).run(str) is None


@pytest.mark.parametrize("seed", [-1, True, False, 2**40, 2**32])
def test_a_seed_is_a_number_that_numpy_takes(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"^--seed_everything: must .* to 4294967295, got {str(seed).lower()}$"):
        check_seed(seed, "--seed_everything")
    check_seed(2**32 - 1, "--seed_everything")


@pytest.mark.parametrize(
    "root", ["file", "file/below", "/proc/x", "x" * 300, "y/" + "x" * 300, "a\0b", "/dev/null", "~", "~/runs"]
)
def test_a_folder_of_runs_that_cannot_be_written_is_named(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(ValueError, match=r"^--run.root '[^\n]{1,110}': cannot be written \([a-z~ ]+\); name a folder"):
        check_root(root, "--run.root")
    for possible in ("", "runs", "a/b/c", str(tmp_path)):
        check_root(possible, "--run.root")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
