"""The words and word pairs of a text, by which texts are compared; of many texts at a time as hashes.

No step of Python is made for each word: 1 million short texts take two seconds.
A substring's polynomial hash is a difference of two running sums, so a pair costs what a word does. Modulo 2**64 the
sums need no care, and mixed bits of them are as good as chance (measured on numbers in a row).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .sets import BLOCK, HASH, Keys, Places, Sets

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_MIXER = np.uint64(0xFF51AFD7ED558CCD)
_HASH = np.uint64(HASH)
_SPACE, _END = b" \n"


def shingles(folded: str) -> set[str]:
    """Words and pairs of neighbouring words of a folded text."""
    words = folded.split()
    return {*words, *(" ".join(pair) for pair in pairwise(words))}


def similarity(one: set[str], other: set[str]) -> float:
    """Jaccard's: what two sets share of all that is in them."""
    return len(one & other) / len(one | other) if one or other else 1.0


def hashed(folded: Sequence[str]) -> Sets:
    """The shingles of folded texts, of which there are from one to `BLOCK`; an empty text has an empty word."""
    assert len(folded) <= BLOCK
    data = np.frombuffer("\n".join([*folded, ""]).encode("utf-8", "surrogatepass"), np.uint8)
    ends = np.flatnonzero((data == _SPACE) | (data == _END))
    starts = np.append(0, ends[:-1] + 1)
    is_last = data[ends] == _END
    texts_of_words = np.cumsum(is_last) - is_last
    pairs = np.flatnonzero(~is_last)
    hashes = _hashes(data, np.append(starts, starts[pairs]), np.append(ends, ends[pairs + 1]))
    places = np.append(texts_of_words, texts_of_words[pairs]).astype(np.uint64)
    keys = np.sort(places << _HASH | hashes)
    keys = keys[np.append(True, keys[1:] != keys[:-1])]
    return Sets.of(keys & ~(~np.uint64(0) << _HASH), np.bincount((keys >> _HASH).astype(np.int64)))


def _hashes(data: npt.NDArray[np.uint8], starts: Places, ends: Places) -> Keys:
    """`HASH` bits for each substring from its start to before its end."""
    powers, inverses = (np.cumprod(np.full(len(data), base, np.uint64)) for base in (_BASE, _INVERSE))
    sums = np.append(np.uint64(0), np.cumsum((data + np.uint64(1)) * powers))
    found: Keys = (sums[ends] - sums[starts]) * inverses[starts]
    return ((found ^ found >> np.uint64(32)) * _MIXER) >> np.uint64(64 - HASH)
