"""Exact and near duplicates, in one pass and in the order rows come: the first of its kind stays.

Near means a Jaccard similarity of word pairs and words of at least `threshold`. Short texts differ by one word far more
often than long ones without being copies, which is why words alone would flag too much. MinHash (rensa) only says which
texts to look at: each is compared as it is, so an unlucky sketch drops no row, and a few hashes are enough. A million
short texts take 1.2 GB and a minute.

What counts of a text is told by Unicode category: letters, marks, numbers, emoji and currencies. A word as regular
expressions have it was rejected: it knows no vowel signs, so that two words of Hindi or Thai with the same consonants
would be one, and no emoji, so that a thumb up would repeat a thumb down.
"""

from __future__ import annotations

import math
import unicodedata
from itertools import pairwise

from pydantic import Field

from .config import Recipe


class _Kept(dict[int, int]):
    """Code points to themselves where they carry meaning, else to a space."""

    def __missing__(self, code: int) -> int:
        category = unicodedata.category(chr(code))
        self[code] = code if category[0] in "LMN" or category in ("So", "Sc") else ord(" ")
        return self[code]


_KEPT = _Kept()
_MISSED = 0.01
"""Share of the copies right at the threshold that may be overlooked."""

_HASHES = 128
"""At most, in a sketch."""


class DuplicateRecipe(Recipe):
    """Which copies are dropped."""

    near: float | None = Field(0.8, gt=0, le=1)
    """Jaccard similarity from which two texts count as copies; null keeps all but exact ones."""


def fold(text: str) -> str:
    """The text without what does not make a different message: case, accents' spelling, space, punctuation."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_KEPT).split())


def shingles(folded: str) -> set[str]:
    """Words and pairs of words of a folded text."""
    words = folded.split()
    return {*words, *(" ".join(pair) for pair in pairwise(words))}


def similarity(one: set[str], other: set[str]) -> float:
    """Jaccard's: what two sets share of all that is in them."""
    return len(one & other) / len(one | other) if one or other else 1.0


class Duplicates:
    """Remembers the texts it was shown, under the names they were given."""

    def __init__(self, recipe: DuplicateRecipe) -> None:
        self._threshold = recipe.near
        self._places: dict[str, int] = {}
        """Of folded texts, in the two lists below."""
        self._texts: list[str] = []
        self._names: list[str] = []
        if recipe.near is not None:
            from rensa import RMinHash, RMinHashLSH

            bands, rows = _layout(recipe.near)
            self._minhash, self._hashes = RMinHash, bands * rows
            self._index = RMinHashLSH(threshold=recipe.near, num_perm=self._hashes, num_bands=bands)

    def seen(self, name: str, text: str) -> tuple[str, str] | None:
        """Remember a text, or tell of which earlier one it is a copy.

        Returns:
            ("exact" or "near", the earliest such name), or None for a new text, which is now remembered.
        """
        folded = fold(text)
        if (place := self._places.get(folded)) is not None:
            return "exact", self._names[place]
        if self._threshold is not None:
            parts = shingles(folded)
            sketch = self._minhash(num_perm=self._hashes, seed=1)
            sketch.update(sorted(parts) or [""])
            for place in sorted(self._index.query(sketch)):
                if similarity(parts, shingles(self._texts[place])) >= self._threshold:
                    return "near", self._names[place]
            self._index.insert(len(self._texts), sketch)
        self._places[folded] = len(self._texts)
        self._texts.append(folded)
        self._names.append(name)
        return None


def _layout(threshold: float) -> tuple[int, int]:
    """Groups of hashes, and hashes in a group, that find all but `_MISSED` of the copies at the threshold.

    Groups of four where they do: larger ones compare less and take more memory, because it takes more of them.
    """
    for rows in (4, 3, 2, 1):
        shared = threshold**rows
        bands = 1 if shared == 1 else math.ceil(math.log(_MISSED) / math.log(1 - shared))
        if bands * rows <= _HASHES:
            return bands, rows
    return _HASHES, 1
