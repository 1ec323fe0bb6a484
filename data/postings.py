"""Which sets have an element, in 8 bytes for each: 32 bits of its hash before the set's place, sorted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .sets import Keys, Places, parts, ranges

_HASH, _PLACE = np.uint64(0xFFFFFFFF00000000), np.uint64(0xFFFFFFFF)


class Postings:
    """A few sorted runs of entries, each more than twice as long as the next."""

    def __init__(self) -> None:
        self._runs: list[Keys] = []

    def add(self, entries: Keys) -> None:
        """Add entries that are sorted."""
        while self._runs and len(self._runs[-1]) <= 2 * len(entries):
            entries = np.sort(np.concatenate([self._runs.pop(), entries]), kind="stable")  # merges what is sorted
        self._runs.append(entries)

    def find(self, entries: Keys) -> Iterator[tuple[Places, Places]]:
        """Pairs of sets with an element in common: the one asked for, and one that was added; some of them twice."""
        for run in self._runs:
            first, end = np.searchsorted(run, entries & _HASH), np.searchsorted(run, entries | _PLACE, "right")
            hit = np.flatnonzero(first < end)
            first, sizes, asked = first[hit], (end - first)[hit], places(entries[hit])
            for part in parts(sizes):
                yield np.repeat(asked[part], sizes[part]), places(run[ranges(first[part], sizes[part])])


def places(entries: Keys) -> Places:
    """Of the set of each entry."""
    return (entries & _PLACE).astype(np.int64)


def moved(entries: Keys, to: Places) -> Keys:
    """The entries with the place that each set has now, in the same order; without those of sets that have -1."""
    now = to[places(entries)]
    return (entries & _HASH | now.astype(np.uint64))[now >= 0]
