"""Many sets of hashes in a few arrays: 8 bytes an element and 24 bytes a set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
"""Hashes, or several numbers in one, so that one sort orders by all of them."""
Places = npt.NDArray[np.int64]

HASH = 52
"""Bits of a hash; the others hold a place where both are sorted together."""
BLOCK = 1 << (64 - HASH)
"""Most sets that are sorted together."""

_TOGETHER = 1 << 20
"""Elements or pairs that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets one after another; none is empty."""

    hashes: Keys
    """[E], set by set, each once."""
    sizes: Places
    """[S], together E."""
    starts: Places
    """[S], where each begins."""
    marks: Keys
    """[S], one of 64 bits for each element: sets whose marks differ in many places differ in as many elements."""

    @classmethod
    def of(cls, hashes: Keys, sizes: Places) -> Sets:
        starts = np.cumsum(sizes) - sizes
        bits = np.uint64(1) << (hashes & np.uint64(63))
        return cls(hashes, sizes, starts, np.bitwise_or.reduceat(bits, starts) if len(starts) else bits)

    def take(self, places: Places) -> Sets:
        """Some of them, in the order asked for."""
        sizes = self.sizes[places]
        return Sets.of(self.hashes[ranges(self.starts[places], sizes)], sizes)


class GrowingSets:
    """Sets to which more are added."""

    def __init__(self) -> None:
        self._hashes, self._sizes = _Column(np.uint64), _Column(np.int64)
        self._starts, self._marks = _Column(np.int64), _Column(np.uint64)

    def __len__(self) -> int:
        return self._sizes.size

    def add(self, sets: Sets) -> None:
        self._starts.add(sets.starts + self._hashes.size)
        self._hashes.add(sets.hashes)
        self._sizes.add(sets.sizes)
        self._marks.add(sets.marks)

    def sets(self) -> Sets:
        """All of them, not copied: to be used before more are added."""
        return Sets(*(column.values() for column in (self._hashes, self._sizes, self._starts, self._marks)))


class _Column:
    """An array that grows by half when it is full."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._data = np.empty(64, kind)
        self.size = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        end = self.size + len(values)
        if end > len(self._data):
            self._data.resize(max(end, self.size * 3 // 2), refcheck=False)  # in place where the system can
        self._data[self.size : end] = values
        self.size = end

    def values(self) -> npt.NDArray[Any]:
        return self._data[: self.size]


def apart(ours: Sets, which: Places, theirs: Sets, others: Places) -> Places:
    """How many elements at least the sets of each pair do not have in common: a glance, not a comparison."""
    differ: Places = np.bitwise_count(ours.marks[which] ^ theirs.marks[others]).astype(np.int64)
    return differ


def shared(ours: Sets, which: Places, theirs: Sets, others: Places, shift: int) -> Places:
    """How many elements the sets of each pair have in common, by 32 bits of their hashes from the one given on."""
    found = np.zeros(len(which), np.int64)
    for part in parts(ours.sizes[which] + theirs.sizes[others]):
        pairs = np.arange(part.stop - part.start, dtype=np.uint64) << np.uint64(32)
        keys = []
        for sets, places in ((ours, which[part]), (theirs, others[part])):
            sizes = sets.sizes[places]
            hashes = sets.hashes[ranges(sets.starts[places], sizes)] >> np.uint64(shift) & np.uint64(0xFFFFFFFF)
            keys.append(np.repeat(pairs, sizes) | hashes)
        both = np.sort(np.concatenate(keys))
        twice = both[1:][both[1:] == both[:-1]]
        found[part] = np.bincount((twice >> np.uint64(32)).astype(np.int64), minlength=len(pairs))
    return found


def ranges(starts: Places, sizes: Places) -> Places:
    """The numbers from each start on, as many as its size says, one range after another."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + sizes, sizes)


def parts(sizes: Places) -> Iterator[slice]:
    """Slices in order whose sizes together are small enough for memory, or of one item each."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _TOGETHER, "right")))
        yield slice(start, stop)
        start = stop
