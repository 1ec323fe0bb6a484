"""Whose turn it is: strategies mixed by weight, so that each has its share of any number of candidates and labels."""

from __future__ import annotations

from collections.abc import Sequence

from .candidate import Slot


class Mix:
    """Slot by number.

    The next turn is that of the strategy which is furthest behind its share. Labels follow one another, and each
    begins one turn after the label before it: so every label has all strategies, whatever the two counts are.
    """

    def __init__(self, weights: Sequence[float], labels: Sequence[str]) -> None:
        self._shares = [weight / sum(weights) for weight in weights]
        self._labels = labels or [""]
        self._order: list[int] = []
        self._turns: list[int] = []
        """Turns of the same strategy before each place of the order."""
        self._used = [0] * len(weights)

    def __getitem__(self, number: int) -> Slot:
        lap, place = divmod(number, len(self._labels))
        self._reach(lap + place)
        strategy = self._order[lap + place]
        turn = self._turns[lap + place] - self._order[:place].count(strategy)
        return Slot(number, self._labels[place], place, len(self._labels), strategy, turn)

    def _reach(self, place: int) -> None:
        while len(self._order) <= place:
            due = [share * (len(self._order) + 1) - used for share, used in zip(self._shares, self._used, strict=True)]
            strategy = max(range(len(due)), key=due.__getitem__)
            self._order.append(strategy)
            self._turns.append(self._used[strategy])
            self._used[strategy] += 1
