"""What candidates are made from: seeds and passages, chosen by the candidate's number and never across sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest

from ...data.documents import Passage
from ...data.fingerprint import fraction
from ...data.rows import Side, Source
from ...data.sides import Split, side_of
from .candidate import Slot


class Shelf:
    """Seeds, and passages by strategy.

    Args:
        shown: inputs that a prompt shows, at most.
        gold: a gold test exists, as `side_of` has it.
    """

    def __init__(
        self,
        seeds: Sequence[Source],
        passages: Mapping[int, Sequence[Passage]],
        labels: Sequence[str],
        *,
        shown: int,
        split: Split,
        gold: bool,
    ) -> None:
        self.labels = labels
        self.passages = passages
        self._seeds = seeds
        self._shown = shown
        self._split = split
        self._gold = gold
        self._fitting: dict[str, list[Source]] = {}

    def side(self, root: str) -> Side:
        return side_of(root, self._split, gold=self._gold)

    def seed(self, slot: Slot) -> Source:
        """A seed for the slot's label; any, where none has it."""
        fitting = self._for(slot.label)
        return fitting[int(fraction("seed", str(slot.number)) * len(fitting))]

    def examples(self, slot: Slot, side: Side, first: Source | None = None) -> tuple[str, ...]:
        """Seeds of one side for the slot's label, ``first`` before others."""
        others = (seed for seed in self._for(slot.label) if seed.side == side and seed is not first)
        near = nsmallest(self._shown, others, key=lambda other: fraction("example", str(slot.number), other.id))
        chosen = near if first is None else [first, *near]
        return tuple(seed.input for seed in chosen[: self._shown])

    def one_of(self, label: str, slot: Slot, side: Side) -> str:
        """A seed of one side that has a label; empty where there is none."""
        having = [seed for seed in self._seeds if seed.output == label and seed.side == side]
        return having[int(fraction("near", str(slot.number)) * len(having))].input if having else ""

    def _for(self, label: str) -> list[Source]:
        if label not in self._fitting:
            fitting = [seed for seed in self._seeds if not label or seed.output in (None, label)]
            self._fitting[label] = fitting or list(self._seeds)
        return self._fitting[label]
