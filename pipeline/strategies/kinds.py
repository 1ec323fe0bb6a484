"""How a teacher comes to write an input: a kind makes a candidate of a slot, and the template of its name asks for it.

All but `documents` begin with a seed, whose root and side the candidate takes. Personas, lengths and difficulties are
`attributes`, which users name themselves, and no kinds of their own.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from ...data.config import Recipe, fault
from ...data.fingerprint import fraction
from .candidate import Candidate, Slot
from .shelf import Shelf

MOST_COMBINATIONS = 100_000
"""Of attributes: what is put in order once, in a tenth of a second."""

_WAYS = (
    "harder: it takes a second look to see what the right answer is",
    "rarer: it is about a case that few people have",
    "more concrete: it names particulars, such as a product, a place, a date or an amount",
)


class Strategy(Recipe):
    """Base of the kinds."""

    seeded: ClassVar[bool] = True
    """Begins with a seed."""

    labelled: ClassVar[bool] = True
    """Writes for the label that it is told, where the task has labels."""

    weight: float = Field(1.0, gt=0)
    """Share of the candidates, beside the weights of the other strategies."""

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        """What the teacher is asked for at this slot; decided by the arguments alone."""
        raise NotImplementedError


class SelfInstruct(Strategy):
    """Another input, unlike the seeds it is shown.

    Source: Wang et al. 2022, arXiv:2212.10560.
    """

    kind: Literal["self-instruct"] = "self-instruct"

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        seed = shelf.seed(slot)
        examples = shelf.examples(slot, seed.side, seed)
        return Candidate(slot.number, name, slot.label, seed.root, seed.side, examples=examples)


class Attributes(Strategy):
    """An input with attributes that the user names; every combination comes before any comes again.

    Source: Yu et al. 2023, arXiv:2306.15895.
    """

    kind: Literal["attributes"]

    attributes: dict[str, list[str]] = Field(min_length=1)
    """What an input may be, by attribute: tone: [calm, angry]."""

    @field_validator("attributes")
    @classmethod
    def _have_values(cls, attributes: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, values in attributes.items():
            if not values:
                raise fault(f"'{name}' has no values; give at least one, or remove it", name)
            if twice := next((value for place, value in enumerate(values) if value in values[:place]), None):
                raise fault(f"'{twice}' is given twice; remove one", name)
            if name in ("label", "strategy"):
                raise fault(f"'{name}' is what rows are told apart by already; choose another name", name)
        if (many := prod(map(len, attributes.values()))) > MOST_COMBINATIONS:
            raise ValueError(f"{many:,} combinations; at most {MOST_COMBINATIONS:,} are drawn from: give fewer values")
        return attributes

    def combination(self, slot: Slot) -> dict[str, str]:
        """The attributes of a slot."""
        many = prod(map(len, self.attributes.values()))
        place = _shuffled(many)[slot.choice(many)]
        chosen = {}
        for name, values in self.attributes.items():
            place, which = divmod(place, len(values))
            chosen[name] = values[which]
        return chosen

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        seed = shelf.seed(slot)
        examples = shelf.examples(slot, seed.side, seed)
        attributes = tuple(self.combination(slot).items())
        return Candidate(slot.number, name, slot.label, seed.root, seed.side, examples=examples, attributes=attributes)


class Evolve(Strategy):
    """A seed made harder, rarer or more concrete, by turns.

    Source: Xu et al. 2023, arXiv:2304.12244.
    """

    kind: Literal["evolve"]

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        seed = shelf.seed(slot)
        way = _WAYS[slot.choice(len(_WAYS))]
        return Candidate(slot.number, name, slot.label, seed.root, seed.side, given=seed.input, way=way)


class Contrast(Strategy):
    """An input whose right answer is one label and which reads as if it were another; all pairs of labels by turns."""

    kind: Literal["contrast"]

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        seed = shelf.seed(slot)
        other = shelf.labels[(slot.place + 1 + slot.turn % (slot.labels - 1)) % slot.labels]
        return Candidate(
            slot.number,
            name,
            slot.label,
            seed.root,
            seed.side,
            given=shelf.one_of(other, slot, seed.side),
            examples=shelf.examples(slot, seed.side, seed),
            other=other,
        )


class Documents(Strategy):
    """An input about a passage of the user's own files; all passages by turns, and a document stays on one side."""

    kind: Literal["documents"]
    seeded: ClassVar[bool] = False

    path: str = Field(min_length=1)
    """Text, Markdown, PDF or Word files: one, or a pattern such as `docs/*.pdf`; relative to the recipe."""

    passage: int = Field(2000, ge=100, le=50_000)
    """Characters of a passage, at most."""

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        passages = shelf.passages[slot.strategy]
        passage = passages[_shuffled(len(passages))[slot.choice(len(passages))]]
        side = shelf.side(passage.root)
        examples = shelf.examples(slot, side)
        return Candidate(slot.number, name, slot.label, passage.root, side, given=passage.text, examples=examples)


@lru_cache(maxsize=8)
def _shuffled(many: int) -> list[int]:
    """The numbers below ``many`` in an order that is the same everywhere and favours none."""
    return sorted(range(many), key=lambda number: fraction("shuffled", str(number)))
