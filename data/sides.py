"""Sides: which roots a student learns from and which it is judged on, decided before anything is generated.

A root (seed, document, unlabelled row, group) goes to a side by the hash of its id alone, so adding rows never moves an
old one, and whatever descends from a root stays with it.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from .config import Recipe
from .fingerprint import fraction
from .rows import Side

DEFAULT_TEST = 0.2


class Split(Recipe):
    """Shares of the roots on each side; the rest trains."""

    test: float | None = Field(None, ge=0, lt=1)
    """Held out for the verdict; by default 0.2, or 0 where a gold test is given."""

    validation: float = Field(0.05, ge=0, lt=1)
    """Chooses among seeds and stops training early."""

    calibration: float = Field(0.1, ge=0, lt=1)
    """Kept for thresholds and calibration."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Split:
        test = DEFAULT_TEST if self.test is None else self.test
        taken = test + self.validation + self.calibration
        if taken >= 1:
            by_default = f", with test = {test:g} by default," if self.test is None else ""
            raise ValueError(
                f"test + validation + calibration = {taken:g}{by_default} leaves nothing to train on; "
                "lower them until their sum is under 1"
            )
        return self


def place_of(root: str) -> float:
    """Where in [0, 1) a root lies, whatever the shares are: what is held out for a test lies first."""
    return fraction("side", root)


def side_of(root: str, split: Split, *, gold: bool) -> Side:
    """The side of a root, the same in every run.

    Args:
        gold: a gold test exists, so that no root has to be held out for it.
    """
    test = split.test if split.test is not None else (0.0 if gold else DEFAULT_TEST)
    place = place_of(root)
    if place < test:
        return "test"
    if place < test + split.validation:
        return "validation"
    if place < test + split.validation + split.calibration:
        return "calibration"
    return "train"
