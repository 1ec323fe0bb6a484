"""Leaks from a test into what is learnt: a test's text again, with a word changed, or inside a longer text.

The 13-word runs that large corpora are searched with never occur in a message of twelve words, and similarity of word
sets calls two short messages of one intent copies. Here a leak is nearly all of a test's text, in order: at most one
word in ten otherwise, one word in a short text, and never one number in the place of another, which is how messages
that were filled into one form differ. Inside a longer text all but a long one has to be there word for word: 38 in 100
of the banking77 messages that held all but one word of a test's had another intent. A text with d changes that is cut
into d + 1 pieces leaves one piece as it was, so pieces are looked up, exactly, and only what shares one is compared:
1 million messages take minutes.

What is found is mostly not stolen: people who ask a bank the same thing say it alike. It flatters a score all the same,
which is why curation looks for it by default: without the rows of banking77 that are called leaks (10.8%) the linear
baseline has 91.2 instead of 94.0% right of the tests that they resemble, and 90.7 instead of 90.8% of the others;
without as many rows at random 93.8 and 90.5%. snips has 2.1% such rows, and without them the scores it had.
All of it is measured by `python -m tests.benchmarks.contamination --scores`.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

from .duplicates import fold

_FEWEST = 4
"""Words of a test's text below which only the whole of it counts: three words are in many messages by chance."""

_PER_CHANGE = 10
_MOST_CHANGES = 3

_LOOSE = 8
"""Words from which a text is looked up by its pieces: they have four words then."""

_LOOSE_INSIDE = 20
"""Words from which a text is found inside another though two words are changed."""

_ALONE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")
"""Characters of scripts that put no spaces between words: each stands for a word."""

Words = tuple[str, ...]

KINDS = ("same", "near", "inside")
"""Of leaks: a test's text itself, with a few words otherwise, and in a longer text."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A test's text that was found."""

    kind: str
    """One of KINDS."""
    test: str
    text: str


@dataclass(frozen=True, slots=True)
class _Known:
    test: str
    text: str
    words: Words


class Contamination:
    """The texts of tests, and whether another text has one of them."""

    def __init__(self) -> None:
        self._same: dict[str, _Known] = {}
        """By all its letters, however they are spaced."""
        self._short: defaultdict[Words, list[_Known]] = defaultdict(list)
        """Short texts by all their words, and by all but one: their pieces would be two words, as any text has."""
        self._near: defaultdict[tuple[int, int, Words], list[_Known]] = defaultdict(list)
        """By its length, and the place and the words of a piece."""
        self._inside: defaultdict[Words, list[tuple[_Known, int]]] = defaultdict(list)
        """By the words of a piece, with its place; a text that has to be there word for word by all of them."""
        self._known_lengths: set[int] = set()
        """Of longer texts."""
        self._lengths: set[int] = set()
        """Of the pieces by which texts are found inside others."""

    def add(self, test: str, text: str) -> None:
        """Know a text of a test; of two equal ones the first is named."""
        known = _Known(test, text, tuple(map(sys.intern, words_of(text))))
        letters = "".join(known.words)
        if not letters or letters in self._same:
            return
        self._same[letters] = known
        length = len(known.words)
        if length < _FEWEST:
            return
        if length < _LOOSE:
            for words in _with_one_less(known.words):
                self._short[words].append(known)
        else:
            self._known_lengths.add(length)
            for start, end in _pieces(length):
                self._near[length, start, known.words[start:end]].append(known)
        for start, end in _pieces(length) if length >= _LOOSE_INSIDE else [(0, length)]:
            self._inside[known.words[start:end]].append((known, start))
            self._lengths.add(end - start)

    def find(self, text: str) -> Leak | None:
        """The leak that a text is or holds, the first of its kind: the same before near ones before those inside."""
        words = words_of(text)
        if same := self._same.get("".join(words)):
            return Leak("same", same.test, same.text)
        if near := self._find_near(words):
            return Leak("near", near.test, near.text)
        if inside := self._find_inside(words):
            return Leak("inside", inside.test, inside.text)
        return None

    def _find_near(self, words: Words) -> _Known | None:
        """A text with this one's words but a few: a piece that is as it was is at most so many places away."""
        for fewer in _with_one_less(words) if len(words) <= _LOOSE else ():
            for known in self._short.get(fewer, ()):
                if _distance(known.words, words) <= 1:
                    return known
        for length in range(max(_LOOSE, len(words) - _MOST_CHANGES), len(words) + _MOST_CHANGES + 1):
            changes = _changes(length)
            if length not in self._known_lengths or abs(length - len(words)) > changes:
                continue
            for start, end in _pieces(length):
                for first in range(max(0, start - changes), start + changes + 1):
                    for known in self._near.get((length, start, words[first : first + end - start]), ()):
                        if _distance(known.words, words) <= changes:
                            return known
        return None

    def _find_inside(self, words: Words) -> _Known | None:
        """A text that stands in this one: as it is, or nearly all of a long one."""
        for length in sorted(self._lengths):
            for first in range(len(words) - length + 1):
                for known, start in self._inside.get(words[first : first + length], ()):
                    changes = _changes(len(known.words)) if len(known.words) >= _LOOSE_INSIDE else 0
                    window = words[max(0, first - start) : max(0, first - start + len(known.words))]
                    if _distance(known.words, window) <= changes:
                        return known
        return None


def _with_one_less(words: Words) -> Iterator[Words]:
    """All of them, then all but each."""
    yield words
    for place in range(len(words)):
        yield (*words[:place], *words[place + 1 :])


def _changes(length: int) -> int:
    """Words that may be otherwise in a text of so many."""
    return min(_MOST_CHANGES, max(1, length // _PER_CHANGE))


@cache
def _pieces(length: int) -> list[tuple[int, int]]:
    """Start and end of the pieces of a text, one more than words may be otherwise."""
    pieces = _changes(length) + 1
    return list(pairwise(length * number // pieces for number in range(pieces + 1)))


def words_of(text: str) -> Words:
    """What is compared: folded words, `haven't` and `top-up` one each; single characters of scripts without spaces."""
    spaced = _ALONE.sub(lambda found: f" {found[0]} ", text)
    return tuple(filter(None, map(_word, spaced.split())))


@lru_cache(maxsize=1 << 16)
def _word(piece: str) -> str:
    return fold(piece).replace(" ", "")


def _distance(one: Words, other: Words) -> int:
    """Words to be put in, left out or replaced; more than any text may have where its numbers are others."""
    from rapidfuzz.distance import Levenshtein

    distance = int(Levenshtein.distance(one, other, score_cutoff=_MOST_CHANGES))
    if 0 < distance <= _MOST_CHANGES:
        ours, theirs = _numbers(one), _numbers(other)
        if len(ours) == len(theirs) and ours != theirs:
            return _MOST_CHANGES + 1
    return distance


def _numbers(words: Words) -> Words:
    return tuple(word for word in words if not word.isalpha() and any(map(str.isdigit, word)))
