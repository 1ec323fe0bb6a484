"""One input that a teacher is to write: who it is for, what it is made from, and on which side it stands."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from ...data.fingerprint import row_id
from ...data.rows import Side


@dataclass(frozen=True, slots=True)
class Slot:
    """A candidate's number and what follows from it and the weights alone."""

    number: int
    label: str
    """What its right answer should be; empty where the task has no labels."""
    place: int
    """Of that label among ``labels``."""
    labels: int
    strategy: int
    """Place of its strategy in the recipe."""
    turn: int
    """Candidates before it of the same strategy and label."""

    def choice(self, many: int) -> int:
        """One of ``many`` things: each comes before any comes again, for every label and, of one strategy, for all."""
        place = self.turn * self.labels + self.place
        return (place + place // lcm(self.labels, many)) % many


@dataclass(frozen=True, slots=True)
class Candidate:
    """Everything that its prompt is rendered from; small, because it travels to where the asking is done."""

    number: int
    strategy: str
    """As the recipe's strategies are named, `GenerateStage.names`."""
    label: str
    root: str
    side: Side
    given: str = ""
    """The text it is made from: an input to rewrite or to come close to, or a passage."""
    examples: tuple[str, ...] = ()
    """Inputs of its side that it must differ from."""
    attributes: tuple[tuple[str, str], ...] = ()
    other: str = ""
    """The label it must not be taken for, near as it comes."""
    way: str = ""
    """How an input is to be rewritten."""

    @property
    def id(self) -> str:
        made_from = (self.root, self.label, self.given, self.other, self.way)
        traits = (part for pair in self.attributes for part in pair)
        return row_id("generated", str(self.number), self.strategy, *made_from, *traits)
