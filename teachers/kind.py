"""What every kind of teacher has in its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from ..data.config import Recipe
from ..data.rows import Answer
from ..data.teacher import Teacher


class Price(Recipe):
    """What tokens cost."""

    input: float = Field(ge=0)
    """Dollars per million tokens read."""

    output: float = Field(ge=0)
    """Dollars per million tokens written."""

    def usd(self, answer: Answer) -> float:
        """Dollars that one answer cost."""
        return (self.input * answer.input_tokens + self.output * answer.output_tokens) / 1e6


class HourlyPrice(Recipe):
    """What a machine of one's own costs, on each that asks; an answer pays for the time since the one before it."""

    per_hour: float = Field(gt=0)
    """Dollars an hour, also of a machine that is there anyway."""

    def usd(self, seconds: float) -> float:
        """Dollars that so much time cost."""
        return self.per_hour * seconds / 3600


def _unit_of(price: Any) -> str:
    """What a price is of, so that a refusal speaks of that kind alone."""
    hours = isinstance(price, HourlyPrice) or (isinstance(price, Mapping) and "per_hour" in price)
    return "hours" if hours else "tokens"


class TeacherRecipe(Recipe):
    """Base of the teacher kinds; a kind adds its own fields and builds its own object."""

    model: str = Field(min_length=1)
    """What answers: an endpoint's model name, a hub id, a folder or a file."""

    revision: str = "main"
    """Which version of it; part of the ledger key."""

    concurrency: int = Field(32, gt=0)
    """Prompts in flight; speed only, never the answers."""

    price: (
        Annotated[Annotated[Price, Tag("tokens")] | Annotated[HourlyPrice, Tag("hours")], Discriminator(_unit_of)]
        | None
    ) = None

    def build(self, name: str, folder: Path) -> Teacher:
        """The teacher itself.

        Args:
            name: the key under `teachers:`, for messages.
            folder: what relative paths are relative to.
        """
        raise NotImplementedError
