"""The one seam to a model: a prompt goes in, an answer or a failed row comes out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pydantic import Field

from .config import Recipe
from .rows import Answer, Failed, Prompt


class Sampling(Recipe):
    """How a model draws an answer."""

    temperature: float = Field(0.0, ge=0, le=2)
    """Softmax temperature; 0 is greedy."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Probability mass that is sampled from."""

    max_tokens: int = Field(512, gt=0)
    """Ceiling on one answer, in tokens of the teacher's tokenizer."""

    logprobs: int = Field(0, ge=0, le=20)
    """Alternatives recorded per output token; 0 records none. More serve a later request for fewer."""


@runtime_checkable
class Teacher(Protocol):
    """A model that answers prompts. The student under evaluation is one too."""

    @property
    def name(self) -> str:
        """Model and revision, as written into every row: ``org/model@revision``."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """Kind, model and revision: the part of a ledger key that says who answered, never where."""
        ...

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        """Answer one prompt; safe to call many times at once.

        Engines that like batches gather what is waiting behind this verb.

        Returns:
            `Failed` for a prompt that cannot be answered (too long, refused by the server, broken reply).

        Raises:
            TeacherUnreachable: nothing can be answered now, and a later run may succeed.
        """
        ...

    async def close(self) -> None:
        """Give back connections, processes and memory."""
        ...
