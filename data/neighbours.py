"""Which sets are similar, found exactly: every pair at or above the threshold, and none below.

Put the elements of all sets into one order, the rarest first. Two sets with a Jaccard similarity of t then share one
among the first |x| - t |x| + 1 of the larger set and the first |y| - 2t / (1 + t) |y| + 1 of the smaller (Xiao et al.
2011, doi:10.1145/2000824.2000825; there sets come in order of size, so that the smaller is always the indexed one). So
few are indexed, and only what shares one is compared. MinHash (rensa) was measured and rejected: as fast, it takes
three times the memory, misses 3 in 100 copies, and drops rows of one template that are none.

What is rare is counted anew when the sets have doubled; that decides how fast the answer comes, never what it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .postings import Postings, moved
from .sets import BLOCK, HASH, GrowingSets, Keys, Places, Sets, apart, ranges, shared

_COUNTED = 21
"""Bits of a hash by which elements are counted."""
_OFTEN = np.uint64((1 << 20) - 1)
"""The count from which on all are equally frequent: 20 bits of a sorting key."""
_FEW = 64
"""Sets from which on is counted what is rare."""
_ROUNDING = 1e-9
_HALF = np.uint64(32)


class Neighbours:
    """Remembers the sets that are not similar to an earlier one."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._kept = GrowingSets()
        self._frequency = np.zeros(1 << _COUNTED, np.uint64)
        self._recount_at = _FEW
        self._long, self._short = Postings(), Postings()

    def keep(self, sets: Sets) -> Places:
        """Of each set in order, the place of the earliest one remembered that is similar to it.

        -1 where there is none: the set is now remembered, and its place is how many were remembered before it.
        """
        found, done = [], 0
        while done < len(sets.sizes):
            # few at first: a block is compared with itself too, and most copies are of what is remembered by then
            size = min(BLOCK, max(_FEW, len(self._kept)))
            block = sets.take(np.arange(done, min(done + size, len(sets.sizes))))
            found.append(self._keep_block(block))
            done += size
        return np.concatenate(found)

    def _keep_block(self, sets: Sets) -> Places:
        long, short = self._prefixes(sets)
        found = self._earliest_kept(sets, long, short)
        fresh = np.where(found < 0, np.arange(len(found)), -1)
        long, short = moved(long, fresh), moved(short, fresh)
        copies = self._copies(sets, long, short)
        is_new = found < 0
        is_new[list(copies)] = False
        places = len(self._kept) + np.cumsum(is_new) - 1
        for later, earlier in copies.items():
            found[later] = places[earlier]
        self._kept.add(sets.take(np.flatnonzero(is_new)))
        if len(self._kept) < self._recount_at:
            self._index(*(moved(prefix, np.where(is_new, places, -1)) for prefix in (long, short)))
        else:
            self._recount()
        return found

    def _earliest_kept(self, sets: Sets, long: Keys, short: Keys) -> Places:
        """Of each set the place of the earliest similar one that is remembered, or -1."""
        found = np.full(len(sets.sizes), -1)
        hits = [*self._long.find(short), *self._short.find(long)]
        which, places = self._similar(sets, self._kept.sets(), hits)
        found[which[::-1]] = places[::-1]  # of several the one assigned last stays, the earliest
        return found

    def _copies(self, sets: Sets, long: Keys, short: Keys) -> dict[int, int]:
        """Of each set that is similar to an earlier one among these that is no copy itself, the first such."""
        postings = Postings()
        postings.add(short)
        hits = ((np.maximum(*pair), np.minimum(*pair)) for pair in postings.find(long))
        found: dict[int, int] = {}
        for later, earlier in zip(*(places.tolist() for places in self._similar(sets, sets, hits)), strict=True):
            if later != earlier and later not in found and earlier not in found:
                found[later] = earlier
        return found

    def _similar(self, ours: Sets, theirs: Sets, hits: Iterable[tuple[Places, Places]]) -> tuple[Places, Places]:
        """The pairs among those hit that are similar, each once and in order."""
        likely = [np.empty(0, np.uint64)]
        most = (1 - self._threshold) / (1 + self._threshold)
        for which, others in hits:
            both = ours.sizes[which] + theirs.sizes[others]
            near = apart(ours, which, theirs, others) <= most * both + _ROUNDING
            likely.append(which[near].astype(np.uint64) << _HALF | others[near].astype(np.uint64))
        pairs = np.sort(np.concatenate(likely))
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        which, others = (pairs >> _HALF).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
        for shift in (0, HASH - 32):  # all bits of the hashes, so that no element is taken for another by chance
            common = shared(ours, which, theirs, others, shift)
            either = ours.sizes[which] + theirs.sizes[others] - common
            similar = common >= self._threshold * either - _ROUNDING
            which, others = which[similar], others[similar]
        return which, others

    def _prefixes(self, sets: Sets) -> tuple[Keys, Keys]:
        """Postings of the rarest elements of each set: of as many as a larger and as a smaller one has to show."""
        places = np.repeat(np.arange(len(sets.sizes), dtype=np.uint64), sets.sizes)
        counts = np.minimum(self._frequency[_counter(sets.hashes)], _OFTEN)
        keys = np.sort(places << np.uint64(HASH) | counts << _HALF | sets.hashes >> np.uint64(HASH - 32))
        rank = ranges(np.zeros_like(sets.sizes), sets.sizes)
        postings = keys << _HALF | places
        long, short = (
            np.sort(postings[rank <= np.repeat(sets.sizes - np.ceil(share * sets.sizes - _ROUNDING), sets.sizes)])
            for share in (self._threshold, 2 * self._threshold / (1 + self._threshold))
        )
        return long, short

    def _index(self, long: Keys, short: Keys) -> None:
        self._long.add(long)
        self._short.add(short)

    def _recount(self) -> None:
        """Index all by what is rare among them now."""
        kept = self._kept.sets()
        blocks = [np.arange(start, min(start + BLOCK, len(self._kept))) for start in range(0, len(self._kept), BLOCK)]
        self._frequency[:] = 0
        for block in blocks:
            np.add.at(self._frequency, _counter(kept.take(block).hashes), np.uint64(1))
        self._long, self._short = Postings(), Postings()
        for block in blocks:
            self._index(*(moved(prefix, block) for prefix in self._prefixes(kept.take(block))))
        self._recount_at = 2 * len(self._kept)


def _counter(hashes: Keys) -> Places:
    return (hashes >> np.uint64(HASH - _COUNTED)).astype(np.int64)
