"""Exact and near duplicates, in one pass and in the order rows come: the first of its kind stays.

Near means a Jaccard similarity of word pairs and words of at least `near`. Short texts differ by one word far more
often than long ones without being copies, which is why words alone would flag too much. A million short texts take
0.7 GB and half a minute of one core.

What counts of a text is told by Unicode category: letters, marks, numbers, emoji and currencies. A word as regular
expressions have it was rejected: it knows no vowel signs, so that two words of Hindi or Thai with the same consonants
would be one, and no emoji, so that a thumb up would repeat a thumb down.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from .config import Recipe


class _Kept(dict[int, int]):
    """Code points to themselves where they carry meaning, else to a space."""

    def __missing__(self, code: int) -> int:
        category = unicodedata.category(chr(code))
        self[code] = code if category[0] in "LMN" or category in ("So", "Sc") else ord(" ")
        return self[code]


_KEPT = _Kept()
_ROWS, _CHARACTERS = 4096, 1 << 19
"""What is decided on together, at most."""


class DuplicateRecipe(Recipe):
    """Which copies are dropped."""

    near: float | None = Field(0.8, gt=0, le=1)
    """Jaccard similarity from which two texts count as copies; null keeps all but exact ones."""


def fold(text: str) -> str:
    """The text without what does not make a different message: case, accents' spelling, space, punctuation."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_KEPT).split())


class Duplicates:
    """Remembers the texts it was shown, under the names they were given."""

    def __init__(self, recipe: DuplicateRecipe) -> None:
        from .neighbours import Neighbours

        self._exact: dict[bytes, int] = {}
        """By digest of the folded text, its place among those remembered."""
        self._names: list[str] = []
        self._near = Neighbours(recipe.near) if recipe.near is not None else None

    def seen(self, name: str, text: str) -> tuple[str, str] | None:
        """Remember a text, or tell of which earlier one it is a copy.

        Returns:
            ("exact" or "near", the earliest such name), or None for a new text, which is now remembered.
        """
        return self.decide([(name, text)])[0]

    def decide(self, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str] | None]:
        """The same of many names with their texts, one after another; many together are decided faster."""
        answers: list[tuple[str, str] | None] = []
        for block in _blocks(rows):
            answers += self._decide(block)
        return answers

    def _decide(self, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str] | None]:
        folded = [fold(text) for _, text in rows]
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in folded]
        new = {key: text for key, text in zip(keys, folded, strict=True) if key not in self._exact}
        near = self._alike(new)
        answers: list[tuple[str, str] | None] = []
        for (name, _), key in zip(rows, keys, strict=True):
            if key in self._exact:
                answers.append(("exact", self._names[self._exact[key]]))
            elif (place := near[key]) >= 0:
                answers.append(("near", self._names[place]))
            else:
                self._exact[key] = len(self._names)
                self._names.append(name)
                answers.append(None)
        return answers

    def _alike(self, texts: Mapping[bytes, str]) -> Mapping[bytes, int]:
        """Of each text the place of the earliest one that is similar, which may be among these; -1 without one."""
        if self._near is None or not texts:
            return dict.fromkeys(texts, -1)
        from .shingles import hashed

        return dict(zip(texts, self._near.keep(hashed(list(texts.values()))).tolist(), strict=True))


def _blocks(rows: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    """Rows in order, few enough together for memory however long they are."""
    block: list[tuple[str, str]] = []
    length = 0
    for row in rows:
        block.append(row)
        length += len(row[1])
        if length >= _CHARACTERS or len(block) == _ROWS:
            yield block
            block, length = [], 0
    if block:
        yield block
