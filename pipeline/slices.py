"""Where the student falls behind: the verdict's test by label, length, origin, strategy and the user's own columns.

Every slice is one more chance to find something by luck, so p-values are corrected over all of them (Holm).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .statistics import chance, holm
from .table import TestRows
from .verdict import score_difference

MOST = 100
"""Values of a column that are told apart, the most frequent ones; the rest is one slice."""

_FEWEST = 5
"""Rows that a slice of its own needs."""

Mask = npt.NDArray[np.bool_]


def slices(test: TestRows, student: str, labels: Sequence[str], *, graded: bool) -> list[dict[str, Any]]:
    """Student against teacher on every part of a test, the part where the student loses most first."""
    ours, theirs = test.scores(student), test.scores("teacher")
    roots = np.array(test.roots)
    found: list[dict[str, Any]] = []
    chances: list[float] = []
    for column, value, mask in _parts(test, labels):
        own = [str(root) for root in roots[mask]]
        interval, method = score_difference(ours[mask], theirs[mask], own, graded=graded)
        chances.append(chance(ours[mask], theirs[mask], own, graded=graded))
        found.append(
            {
                "column": column,
                "value": value,
                "rows": int(mask.sum()),
                "student": 100 * float(ours[mask].mean()),
                "teacher": 100 * float(theirs[mask].mean()),
                "difference": {"value": interval.value, "low": interval.low, "high": interval.high, "method": method},
                "p": chances[-1],
            }
        )
    for part, corrected in zip(found, holm(chances), strict=True):
        part["p_holm"] = corrected
    return sorted(found, key=lambda part: (part["difference"]["value"], part["p"], -part["rows"]))


def _parts(test: TestRows, labels: Sequence[str]) -> Iterator[tuple[str, str, Mask]]:
    """Column, value and rows of every slice; a column that is the same everywhere tells nothing."""
    columns: dict[str, list[str]] = {}
    if labels:
        columns["label"] = [row.output or "" for row in test.rows]
    columns["length"] = _lengths([len(row.input.split()) for row in test.rows])
    columns["origin"] = [row.origin for row in test.rows]
    columns["strategy"] = [row.strategy for row in test.rows]
    for name in test.rows[0].columns if test.rows else ():
        columns[name] = [row.columns.get(name, "") for row in test.rows]
    for column, values in columns.items():
        counts = Counter(values)
        kept = [value for value, rows in counts.most_common(MOST) if rows >= _FEWEST]
        rest = len(counts) - len(kept)
        if len(kept) + bool(rest) < 2:
            continue
        held = np.array(values, dtype=object)
        for value in kept:
            yield column, value or "(empty)", held == value
        if rest:
            yield column, f"({rest:,} other value{'' if rest == 1 else 's'})", ~np.isin(held, kept)


def _lengths(words: Sequence[int]) -> list[str]:
    """Short, middle or long, with the number of words at which each begins and ends."""
    if not words:
        return []
    first, second = (int(edge) for edge in np.quantile(words, [1 / 3, 2 / 3]))
    names = (f"up to {first} words", f"{first + 1} to {second} words", f"over {second} words")
    return [names[(count > first) + (count > second)] for count in words]
