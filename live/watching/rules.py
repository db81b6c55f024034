"""Rules of alarms: what they are written as, and when they fire and clear."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from filtune.lightning_modules.yaml_loader import load_yaml

DRIFT = "drift"
"""The rule that fires when Page's test detects drift."""

MIN_SAMPLES = 100
"""Predictions that the window must hold before a rule is applied, unless the rule says otherwise."""

_NUMBER = r"(\S+)"
_GRAMMAR = re.compile(rf"(\w+)\s*(<|>)\s*{_NUMBER}(?:\s+until\s+{_NUMBER})?(?:\s+after\s+{_NUMBER})?")

EXAMPLE = "write it as 'accuracy < 0.7', 'log_loss > 1.2 until 1 after 200', or 'drift'"


@dataclass(frozen=True)
class Rule:
    """A rule, ``QUANTITY < NUMBER [until NUMBER] [after COUNT]``, or ``drift``.

    Attributes:
        text: The rule as it is printed; what identifies it.
        quantity: The figure of the window.
        is_below: Whether values below the threshold are bad; otherwise those above.
        threshold: Where the alarm fires.
        until: Where it clears, on the good side of the threshold.
        min_samples: What the window must hold before.
    """

    text: str
    quantity: str
    is_below: bool = False
    threshold: float = 0.0
    until: float = 0.0
    min_samples: int = 0

    def is_firing(self, value: float, fires: bool) -> bool:
        """Return whether the alarm is on after a value, given whether it was; NaN leaves it as it was."""
        if self.is_below:
            return value < self.until if fires else value < self.threshold
        return value > self.until if fires else value > self.threshold


def parse(text: Any, known: Mapping[str, bool], has_drift: bool, size: int) -> Rule:
    """Return the rule that a text says.

    Args:
        text: The text.
        known: The figures of the window, and whether each is a share.
        has_drift: Whether there is a drift test.
        size: Predictions in the window.

    Raises:
        ValueError: Naming the rule, what is wrong with it, and what it may be.
    """
    shown = f"alarm {str(text)[:80]!r}"
    if not isinstance(text, str):
        raise ValueError(f"{shown}: a text is needed; {EXAMPLE}")
    quantities = ", ".join([*known, DRIFT] if has_drift else known)
    if text.strip() == DRIFT:
        if has_drift:
            return Rule(DRIFT, DRIFT)
        raise ValueError(f"{shown}: the drift test is for classes only; choose from {quantities}")
    found = _GRAMMAR.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{shown}: cannot be read; {EXAMPLE}. Quantities are {quantities}")
    quantity, sign, threshold, until, after = found.groups()
    if quantity not in known:
        raise ValueError(f"{shown}: there is no quantity {quantity!r}; choose from {quantities}")
    is_share = known[quantity]
    numbers = [_number(shown, quantity, given, is_share) for given in (threshold, until or threshold)]
    is_below = sign == "<"
    if (numbers[1] < numbers[0]) if is_below else (numbers[1] > numbers[0]):
        side = "larger" if is_below else "smaller"
        raise ValueError(f"{shown}: the alarm clears where it is good again; take {side} for until than {threshold}")
    least = min(MIN_SAMPLES, size) if after is None else _count(shown, after)
    if least > size:
        raise ValueError(f"{shown}: the window holds {size} predictions, never {least}; take a larger window")
    words = [quantity, sign, _shown(numbers[0])]
    words += ["until", _shown(numbers[1])] if until else []
    words += ["after", str(least)] if after else []
    return Rule(" ".join(words), quantity, is_below, *numbers, least)


def _number(shown: str, quantity: str, text: str, is_share: bool) -> float:
    """Return the number of a text; of a share also one in percent."""
    try:
        is_percent = is_share and text.endswith("%")
        value = float(Decimal(text.removesuffix("%")).scaleb(-2)) if is_percent else float(text)
    except (ValueError, ArithmeticError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{shown}: {text!r} is no number")
    if is_share and abs(value) > 1:
        is_meant = 2 < value <= 100 and not text.endswith("%")
        percent = f"; write {text}% or {_shown(float(Decimal(text).scaleb(-2)))}" if is_meant else ""
        raise ValueError(f"{shown}: {quantity} is a share, and shares are between 0 and 1{percent}")
    return value


def _shown(value: float) -> str:
    """Return a number with all its digits, without a fraction of zero: other numbers are other rules."""
    return repr(value).removesuffix(".0")


def _count(shown: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise ValueError(f"{shown}: after {text!r}: must be a number of predictions, at least 1")
    return int(text)


def read_rules(given: Sequence[str]) -> list[Any]:
    """Return the rules of options: each a rule, or a file of YAML with a list of rules under ``alarms``.

    Raises:
        ValueError: Naming the file that cannot be read.
    """
    found: list[Any] = []
    for text in given:
        if not text.strip().endswith((".yaml", ".yml")):
            found.append(text)
            continue
        path, option = Path(text.strip()), f"--alarm {text.strip()}"
        if not path.is_file():
            raise ValueError(f"{option}: there is no such file; name one of YAML, or {EXAMPLE}")
        _, content = load_yaml(path, option)
        listed = content.get("alarms") if isinstance(content, dict) else None
        if not isinstance(listed, list) or set(content) != {"alarms"}:
            raise ValueError(f"{option}: must have a list of rules under 'alarms' and nothing else")
        found += listed
    return found


@dataclass
class Alarm:
    """A rule and whether its alarm is on.

    Attributes:
        rule: The rule.
        fires: Whether it is on.
        value: The last value of its figure; None before there is one.
        times: How often it came on.
    """

    rule: Rule
    fires: bool = False
    value: float | None = None
    times: int = 0

    def take(self, value: float) -> Literal["firing", "cleared"] | None:
        """Take a new value in; returns what has changed."""
        before, self.value = self.fires, value
        self.fires = self.rule.is_firing(value, before) if not math.isnan(value) else before
        if self.fires == before:
            return None
        self.times += self.fires
        return "firing" if self.fires else "cleared"
