"""Leaks from a test into what is learnt: a test's text again, with a word changed, or inside a longer text.

The 13-word runs that large corpora are searched with never occur in a message of twelve words, and similarity of word
sets calls two short messages of one intent copies. Here a leak is nearly all of a test's text, in order: at most one
word in ten otherwise, one word in a short text, and never one number in the place of another, which is how messages
that were filled into one form differ. A text with d changes that is cut into d + 1 pieces leaves one piece
as it was, so pieces are looked up, exactly, and only what shares one is compared: 1 million rows take minutes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from .duplicates import fold

_FEWEST = 4
"""Words of a test's text below which only the whole of it counts: three words are in many messages by chance."""

_PER_CHANGE = 10
_MOST_CHANGES = 3

_ALONE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")
"""Characters of scripts that put no spaces between words: each stands for a word."""

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leak:
    """A test's text that was found."""

    kind: str
    """`same`, `near` (a few words otherwise) or `inside` (a longer text)."""
    test: str
    text: str


@dataclass(frozen=True, slots=True)
class _Known:
    test: str
    text: str
    words: Words

    @property
    def changes(self) -> int:
        """Words that may be otherwise."""
        return min(_MOST_CHANGES, max(1, len(self.words) // _PER_CHANGE))


class Contamination:
    """The texts of tests, and whether another text has one of them."""

    def __init__(self) -> None:
        self._same: dict[str, _Known] = {}
        """By all its letters, however they are spaced."""
        self._pieces: defaultdict[Words, list[tuple[_Known, int]]] = defaultdict(list)
        """Texts by a piece of them, with its place."""
        self._lengths: set[int] = set()
        """Of pieces."""

    def add(self, test: str, text: str) -> None:
        """Know a text of a test; of two equal ones the first is named."""
        known = _Known(test, text, words_of(text))
        letters = "".join(known.words)
        if not letters or letters in self._same:
            return
        self._same[letters] = known
        if len(known.words) < _FEWEST:
            return
        pieces = known.changes + 1
        ends = [len(known.words) * number // pieces for number in range(pieces + 1)]
        for start, end in pairwise(ends):
            self._pieces[known.words[start:end]].append((known, start))
            self._lengths.add(end - start)

    def find(self, text: str) -> Leak | None:
        """The leak that a text is or holds, the first of its kind: the same before near ones before those inside."""
        words = words_of(text)
        if same := self._same.get("".join(words)):
            return Leak("same", same.test, same.text)
        inside: Leak | None = None
        for known, start in self._sharing(words):
            if _distance(known.words, words) <= known.changes:
                return Leak("near", known.test, known.text)
            if inside is None and self._holds(words, known, start):
                inside = Leak("inside", known.test, known.text)
        return inside

    def _sharing(self, words: Words) -> list[tuple[_Known, int]]:
        """Texts that have a piece in common with these words, each with where it would begin among them."""
        found: dict[tuple[int, int], tuple[_Known, int]] = {}
        for length in sorted(self._lengths):
            for start in range(len(words) - length + 1):
                for known, place in self._pieces.get(words[start : start + length], ()):
                    if len(known.words) <= len(words) + known.changes:
                        found.setdefault((id(known), start - place), (known, start - place))
        return list(found.values())

    def _holds(self, words: Words, known: _Known, start: int) -> bool:
        """Whether nearly all of a text stands at a place; a short one has to be there as it is."""
        changes = known.changes if len(known.words) >= 2 * _FEWEST else 0
        window = words[max(0, start) : max(0, start + len(known.words))]
        return _distance(known.words, window) <= changes


def words_of(text: str) -> Words:
    """What is compared: folded words, `haven't` and `top-up` one each; single characters of scripts without spaces."""
    spaced = _ALONE.sub(lambda found: f" {found[0]} ", text)
    return tuple(word for piece in spaced.split() if (word := fold(piece).replace(" ", "")))


def _distance(one: Words, other: Words) -> int:
    """Words to be put in, left out or replaced; more than any text may have where its numbers are others."""
    from rapidfuzz.distance import Levenshtein

    ours, theirs = _numbers(one), _numbers(other)
    if abs(len(one) - len(other)) > _MOST_CHANGES or (len(ours) == len(theirs) and ours != theirs):
        return _MOST_CHANGES + 1
    return int(Levenshtein.distance(one, other, score_cutoff=_MOST_CHANGES))


def _numbers(words: Words) -> Words:
    return tuple(word for word in words if not word.isalpha() and any(map(str.isdigit, word)))
