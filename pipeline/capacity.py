"""What holds a student back: its size, its rows, or nothing but a teacher that does not agree with itself.

A student that is given a few rows, and nothing else, and cannot have them right, is too small for the task. One that
can may still be too small for all of the rows: then twice the rows would not bring it nearer to its teacher. Else it is
rows that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from .statistics import Interval
from .verdict import Z

Decision = Literal["at_the_ceiling", "too_small", "too_little_data"]

BY_HEART = 95.0
"""Points of the probe's rows that a student with room for the task has right."""

_CLOSED = 0.25
"""Share of the way to the ceiling that twice the rows must be able to bring; else it is not rows that are missing."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured, in points."""

    rows: int
    """Of the probe."""
    fitted: float
    validation: float
    validation_rows: int
    ceiling: float | None
    """How often the teacher agrees with itself; None where nobody asked it twice."""
    ceiling_rows: int
    gain: Interval | None
    """What twice the rows would bring."""
    unit: str = "rows"
    """What `fitted` and `validation` count: rows, or the tokens of their answers."""


def capacity(found: Findings, margin: float) -> dict[str, Any]:
    """The decision, with one sentence for it.

    Args:
        margin: points under the ceiling that matter to nobody.
    """
    decision, reason = _decide(found, margin)
    return {
        "rows": found.rows,
        "fitted": found.fitted,
        "validation": found.validation,
        "ceiling": found.ceiling,
        "decision": decision,
        "reason": reason,
    }


def _decide(found: Findings, margin: float) -> tuple[Decision, str]:
    unit = "" if found.unit == "rows" else f"{found.unit} of "
    heart = f"has {found.fitted:.1f}% of {unit}{found.rows} rows right that it learnt by heart"
    unseen = f"{found.validation:.1f}% of {unit}rows that it has not seen"
    above = 100.0 if found.ceiling is None else found.ceiling
    itself = f"the teacher says the same twice of {above:.1f}%"
    missing = above - found.validation
    if found.ceiling is not None and missing <= min(_chance(found), margin):
        return "at_the_ceiling", f"the student says what the teacher said of {unseen}, and {itself}: no more can be had"
    if found.fitted < BY_HEART:
        return "too_small", (
            f"the student {heart}, and {BY_HEART:.0f}% are expected: give it more parameters, and see that "
            "train.max_length does not cut off what decides"
        )
    known = f"the student {heart}, and {unseen}" + (f"; {itself}" if found.ceiling is not None else "")
    if found.gain is not None and found.gain.high < _CLOSED * missing:
        most = f"twice the training rows would bring {found.gain.high:.1f} points at most"
        return "too_small", f"{known}; {most}: give it more parameters, or train it longer"
    return "too_little_data", f"{known}: give it more rows"


def _chance(found: Findings) -> float:
    """Points between two shares that are one, at the 95% level; a share of 100% of few rows is not certain."""
    variance = 0.0
    for share, rows in ((found.validation, found.validation_rows), (found.ceiling or 0.0, found.ceiling_rows)):
        near = (share / 100 * rows + 1) / (rows + 2)
        variance += near * (1 - near) / (rows + 2)
    return 100 * Z * sqrt(variance)
