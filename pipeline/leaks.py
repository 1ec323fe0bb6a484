"""Rows held against tests: what was found, by test and kind, with pairs to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from ..data.contamination import KINDS, Contamination
from ..data.rows import Example, Rejected

_PAIRS = 5
"""Leaks of each test that are kept to be shown."""


class Leaks:
    """Texts of tests, and the rows that were found to have one."""

    def __init__(self) -> None:
        self._known = Contamination()
        self._texts: Counter[str] = Counter()
        self._found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._pairs: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        self._compared = 0

    def know(self, test: str, text: str) -> None:
        """Compare later rows with a text of a test too."""
        self._known.add(test, text)
        self._texts[test] += 1

    def find(self, row: Example) -> Rejected | None:
        """The row as a rejected one where it has a test's text."""
        self._compared += 1
        leak = self._known.find(row.input)
        if leak is None:
            return None
        self._found[leak.test][leak.kind] += 1
        pairs = self._pairs[leak.test]
        if len(pairs) < _PAIRS:
            pairs.append({"kind": leak.kind, "row": row.input[:160], "text": leak.text[:160]})
        return Rejected(row.id, f"leak_{leak.kind}", f"{leak.test}: '{leak.text[:100]}' in '{row.input[:100]}'")

    def summary(self) -> dict[str, Any]:
        """How many rows were compared with how many texts, and what was found."""
        return {
            "compared": self._compared,
            "tests": {
                test: {
                    "texts": texts,
                    "found": {kind: self._found[test][kind] for kind in KINDS},
                    "pairs": self._pairs[test],
                }
                for test, texts in self._texts.items()
            },
        }
