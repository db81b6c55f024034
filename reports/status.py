"""What became of a cell: a word, a sign that does without colour, and what it means."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """What became of a cell.

    Attributes:
        word: Its name.
        sign: A character, so that colour is not needed.
        tex: The same for LaTeX without further packages.
        meaning: In a sentence.
    """

    REPRODUCED = ("reproduced", "✓", "$^{=}$", "run as published; the mean does not differ significantly")
    EXCEEDS = ("exceeds", "▲", "$^{>}$", "run as published; significantly better than published")
    NOT_REPRODUCED = ("not reproduced", "✗", "$^{\\neq}$", "run as published; significantly worse than published")
    UNTESTED = ("not tested", "?", "$^{?}$", "run as published, but no test is possible: the cell says why")
    OURS = ("ours", "", "", "nothing is published: a tuned baseline or a recipe of ours")
    SCALED = ("scaled down", "◐", "$^{\\circ}$", "run at another scale: the order is compared, not the figure")
    DIVERGED = ("diverged", "!", "$^{\\dagger}$", "at least one seed diverged; the mean is that of the others")
    ABSENT = ("not attempted", "\u2013", "", "no run, or none that is finished")

    def __init__(self, word: str, sign: str, tex: str, meaning: str) -> None:
        self.word, self.sign, self.tex, self.meaning = word, sign, tex, meaning

    @property
    def slug(self) -> str:
        """Its name as a class of the style sheet."""
        return self.word.replace(" ", "-")
