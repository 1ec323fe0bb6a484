"""How many rows each slice wants, how many it has, and how many candidates to ask for next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate, pairwise
from math import ceil
from typing import Any

_NAMED = 5
"""Slices that a message lists."""


class Quotas:
    """Rows by slice.

    Args:
        rows: wanted of all slices together.
        shares: of each slice, in any unit; whole rows follow them to within one.
        ceiling: candidates that a slice may take, as a multiple of its rows.
    """

    def __init__(self, rows: int, shares: Mapping[str, float], ceiling: float) -> None:
        total = sum(shares.values())
        ends = [round(rows * end / total) for end in accumulate(shares.values(), initial=0.0)]
        self.wanted = dict(zip(shares, (end - start for start, end in pairwise(ends)), strict=True))
        self.accepted: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._decided: Counter[str] = Counter()
        self._ceiling = ceiling

    @property
    def asked(self) -> int:
        """Candidates of all slices."""
        return self._asked.total()

    def missing(self, name: str) -> int:
        return self.wanted[name] - self.accepted[name]

    def next(self) -> dict[str, int]:
        """Candidates to ask for now, by slice; none of one that is full or at its ceiling.

        What is missing, over the share accepted so far, and twice what is missing at most: so a writer that goes wrong
        is seen before all of the ceiling is paid for.
        """
        wanted = {}
        for name in self.wanted:
            missing = self.missing(name)
            hope = (self.accepted[name] + 1) / (self._decided[name] + 1)
            count = min(ceil(missing / hope), 2 * missing, ceil(self.wanted[name] * self._ceiling) - self._asked[name])
            if count > 0:
                wanted[name] = count
        self._asked.update(wanted)
        return wanted

    def decide(self, name: str, accepted: bool) -> None:
        """A candidate of a slice is decided on."""
        self._decided[name] += 1
        self.accepted[name] += accepted

    def shortage(self) -> str:
        """The slices that are not full, the emptiest first; empty where there is one slice or none is short."""
        short = sorted((name for name in self.wanted if self.missing(name)), key=lambda name: -self.missing(name))
        if len(self.wanted) == 1 or not short:
            return ""
        said = ", ".join(f"'{name}' has {self.accepted[name]} of {self.wanted[name]}" for name in short[:_NAMED])
        return said + (f", and {len(short) - _NAMED} others are short" if len(short) > _NAMED else "")

    def as_json(self) -> dict[str, Any]:
        return {name: {"wanted": rows, "accepted": self.accepted[name]} for name, rows in self.wanted.items()}
