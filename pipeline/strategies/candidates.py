"""Candidate by number, and the next ones of each slice that is short of rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .candidate import Candidate, Slot
from .kinds import Attributes
from .mix import Mix
from .shelf import Shelf

if TYPE_CHECKING:
    from ..config import GenerateStage


class Candidates:
    """All that a recipe may ever ask for.

    Args:
        by: what accepted rows are balanced by: `label`, `strategy`, an attribute, or nothing.
    """

    def __init__(self, stage: GenerateStage, shelf: Shelf, by: str) -> None:
        self._stage = stage
        self._shelf = shelf
        self._by = by
        self._mix = Mix([strategy.weight for strategy in stage.strategies], shelf.labels)
        self._waiting: dict[str, deque[Slot]] = {}
        self._next = 0

    def __getitem__(self, number: int) -> Candidate:
        return self._made(self._mix[number])

    def take(self, wanted: Mapping[str, int]) -> list[tuple[str, Candidate]]:
        """The next candidates of each slice, with its name, in order of their numbers.

        Args:
            wanted: candidates by slice; one that is left out is done with.
        """
        waiting = self._waiting = {name: self._waiting.get(name, deque()) for name in wanted}
        while any(len(waiting[name]) < count for name, count in wanted.items()):
            slot = self._mix[self._next]
            self._next += 1
            if (name := self._slice(slot)) in waiting:
                waiting[name].append(slot)
        taken = [(name, waiting[name].popleft()) for name, count in wanted.items() for _ in range(count)]
        return [(name, self._made(slot)) for name, slot in sorted(taken, key=lambda pair: pair[1].number)]

    def _slice(self, slot: Slot) -> str:
        if self._by == "label":
            return slot.label
        if self._by == "strategy":
            return self._stage.names[slot.strategy]
        strategy = self._stage.strategies[slot.strategy]
        return strategy.combination(slot)[self._by] if self._by and isinstance(strategy, Attributes) else ""

    def _made(self, slot: Slot) -> Candidate:
        return self._stage.strategies[slot.strategy].candidate(slot, self._stage.names[slot.strategy], self._shelf)
