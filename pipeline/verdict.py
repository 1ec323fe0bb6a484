"""The verdict: may the student stand in for the teacher? Pass, fail, or not enough data to say.

It is a test for non-inferiority: the 90% interval of student minus teacher lies above -margin
(pass), below it (fail), or across it. "No significant difference" was rejected as a rule, because
with few rows everybody passes it. The interval that decides is the one that is printed.

Which interval depends on the rows. Right or wrong with a root each: Tango's. Rows that share roots,
and graded scores: roots drawn with replacement. That bootstrap knows only what it has seen: where
two models never differ it says "equal, for certain". In simulations with a true difference at the
margin (25 roots of 40 rows answered alike) it so passed 57% of students instead of 5%. So where
fewer than `FEW_DIFFERING` roots differ, the interval is widened to what Tango says when each root
counts as one row, and 2% or fewer pass. What no interval can see stays: with 25 roots, whole roots
that fail together, and are too rare to be among them, passed 20% and more.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from .statistics import Interval, root_bootstrap, root_totals, tango

Decision = Literal["pass", "fail", "not_enough_data"]
Scores = npt.NDArray[np.float64]

FEWEST_ROOTS = 20
"""Under this many, no interval is trusted."""

FEW_DIFFERING = 10
"""Under this many roots that differ, the bootstrap alone is not trusted."""

USUAL_DISCORDANCE = 0.08
"""Share of rows on which student and teacher differ in being right, before anything is known; 0.05 to 0.15 is usual."""

Z = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision with everything it rests on."""

    decision: Decision
    difference: Interval
    """Student minus teacher, in points."""
    margin: float
    rows: int
    roots: int
    method: str
    reason: str
    """One sentence with the numbers."""


def judge(
    student: Sequence[float] | npt.ArrayLike,
    teacher: Sequence[float] | npt.ArrayLike,
    roots: Sequence[Hashable],
    margin: float,
    *,
    graded: bool,
    pair: str = "student minus teacher",
) -> Verdict:
    """Decide from the scores of both models on the same rows.

    Args:
        student: one score per row, 0 or 1, or in [0, 1] where graded.
        teacher: the same rows in the same order.
        roots: what each row descends from; rows of one root are not independent.
        margin: points the student may lose, above 0.
        graded: scores may lie between 0 and 1.
        pair: how the reason calls the difference.

    Raises:
        ValueError: a score is missing or out of range (naming its row), or the lengths differ.
    """
    assert margin > 0, "a margin of 0 asks for superiority, which is another test"
    difference, method = score_difference(student, teacher, roots, graded=graded)
    sums, sizes = root_totals(np.subtract(student, teacher, dtype=float), roots)
    rows, count = len(roots), len(sums)
    one_row_each = rows == count
    digits = _digits(difference, margin)
    found = (
        f"{pair} is {difference.value:+.{digits}f} points (90% interval "
        f"{difference.low:+.{digits}f} to {difference.high:+.{digits}f}, {method}, {rows} rows"
        f"{'' if one_row_each else f' of {count} roots'})"
    )
    decision: Decision = "not_enough_data"
    if rows == 0:
        reason = "there are no test rows to judge on"
    elif count < FEWEST_ROOTS:
        few = f"{count} {'row' if one_row_each else 'root'}{'' if count == 1 else 's'}"
        reason = f"{few} cannot carry a verdict, at least {FEWEST_ROOTS} are needed; {found}"
    elif difference.low > -margin:
        decision, reason = "pass", f"{found}; its lower end is above {-margin:.{digits}f}"
    elif difference.high < -margin:
        decision, reason = "fail", f"{found}; its upper end is below {-margin:.{digits}f}"
    else:
        need = _need(difference, margin, count, sums, sizes, "rows" if one_row_each else "roots")
        reason = f"{found}; its lower end is not above {-margin:.{digits}f}; {need}"
    return Verdict(decision, difference, margin, rows, count, method, reason)


def score_difference(
    student: Sequence[float] | npt.ArrayLike,
    teacher: Sequence[float] | npt.ArrayLike,
    roots: Sequence[Hashable],
    *,
    graded: bool,
) -> tuple[Interval, str]:
    """The interval that the verdict rests on, and the name of its method; arguments as for `judge`."""
    first, second = _scores(student, "student", graded), _scores(teacher, "teacher", graded)
    if not len(first) == len(second) == len(roots):
        raise ValueError(f"{len(first)} student scores, {len(second)} teacher scores, {len(roots)} roots")
    differences = first - second
    sums, sizes = root_totals(differences, roots)
    as_if_independent = _tango_of_roots(differences, sizes)
    if len(sums) == len(differences) and not graded:
        return as_if_independent, "Tango"
    drawn = root_bootstrap(differences, roots)
    if np.count_nonzero(sums) >= FEW_DIFFERING:
        return drawn, "root bootstrap"
    low, high = min(drawn.low, as_if_independent.low), max(drawn.high, as_if_independent.high)
    return Interval(drawn.value, low, high), "root bootstrap widened to Tango over roots"


def rows_needed(discordance: float, margin: float, power: float = 0.8) -> int:
    """Independent rows for a student that is truly equal to pass this often.

    Args:
        discordance: share of rows on which the two differ, 0 to 1; for graded scores the mean squared difference.
        margin: in points.
    """
    share = margin / 100
    wanted = (Z + NormalDist().inv_cdf(power)) ** 2 * discordance / share**2
    silent = Z**2 * (1 - share) / share  # even where the two never differ, Tango asks for more than this
    return max(ceil(wanted), int(silent) + 1)


def _scores(values: Sequence[float] | npt.ArrayLike, whose: str, graded: bool) -> Scores:
    scores = np.asarray(values, dtype=float)  # None becomes NaN
    allowed = (scores >= 0) & (scores <= 1) if graded else (scores == 0) | (scores == 1)
    if not allowed.all():
        row = int(np.argmin(allowed))
        found = "no score" if np.isnan(scores[row]) else f"score {scores[row]:g}"
        expected = "a number from 0 to 1" if graded else "0 or 1"
        raise ValueError(f"row {row}: {found} of the {whose}; expected {expected}")
    return scores


def _digits(interval: Interval, margin: float) -> int:
    """As few decimals as leave both ends, rounded, on the side of the margin where they are."""
    for digits in range(1, 9):
        edge = round(-margin, digits)
        if edge == -margin and all(
            (round(end, digits) > edge) == (end > -margin) and (round(end, digits) < edge) == (end < -margin)
            for end in (interval.low, interval.high)
        ):
            return digits
    return 9


def _tango_of_roots(differences: Scores, sizes: Scores) -> Interval:
    """Tango's interval with every root counted once (Kish's effective number where sizes differ)."""
    rows = len(differences)
    if rows == 0:
        return tango(0, 0, 0)
    worth = rows / float(sizes @ sizes)
    wins = float(differences[differences > 0].sum()) * worth
    losses = -float(differences[differences < 0].sum()) * worth
    return tango(wins, losses, rows * worth)


def _need(difference: Interval, margin: float, count: int, sums: Scores, sizes: Scores, what: str) -> str:
    """How many rows (or roots) would settle it."""
    spread = count * float(sums @ sums) / float(sizes.sum()) ** 2
    equal = rows_needed(spread, margin)
    if equal > count:
        differing = np.count_nonzero(sums) / count
        return (
            f"with the two differing on {differing:.1%} of {what}, about {equal} {what} "
            "would be needed if they are truly equal"
        )
    gap = abs(difference.value + margin)
    half = difference.value - difference.low
    settled = count * (half / gap) ** 2 if gap else inf
    if settled > 100 * count:
        return "a difference this close to the margin is not settled by more rows"
    return f"if the difference stays where it is, about {ceil(settled)} {what} would be needed"
