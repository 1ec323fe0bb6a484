"""distilabel's Tasks as strategies; `pip install 'understudy[distilabel]'`.

They know nothing of the label that an input is to be written for, so with closed labels rows cannot be balanced by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ...data.rows import Example, Failed, Rejected, Source
from ...data.teacher import Sampling, Teacher
from .candidate import Candidate, Slot
from .kinds import Strategy
from .shelf import Shelf

if TYPE_CHECKING:
    from ..recipe import JobRecipe

Work = Callable[[Candidate], Awaitable[Source | Example | Rejected | Failed]]
"""Has a candidate written; of the row that it makes, input and output count."""


class TaskStrategy(Strategy):
    """Base of the kinds that a Task carries out."""

    labelled: ClassVar[bool] = False

    def requests(self) -> int:
        """That a candidate takes."""
        return 1

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        seed = shelf.seed(slot)
        return Candidate(slot.number, name, "", seed.root, seed.side, given=seed.input)

    def work(self, teacher: Teacher, sampling: Sampling, recipe: JobRecipe) -> Work:
        """The Task, loaded.

        Raises:
            BadInput: distilabel is not installed, or the Task cannot be used so.
        """
        raise NotImplementedError


class Magpie(TaskStrategy):
    """What a teacher says where a user's turn is left open: no seed, each input a root of its own.

    Source: Xu et al. 2024, arXiv:2406.08464.
    """

    kind: Literal["magpie"]
    seeded: ClassVar[bool] = False

    system: str = ""
    """What the assistant is said to be, in a system prompt; empty for none."""

    def candidate(self, slot: Slot, name: str, shelf: Shelf) -> Candidate:
        root = f"{name}/{slot.number}"
        return Candidate(slot.number, name, "", root, shelf.side(root))

    def work(self, teacher: Teacher, sampling: Sampling, recipe: JobRecipe) -> Work:
        from ...teachers.distilabel import magpie

        gold = bool(recipe.task.test)
        write = magpie(teacher, sampling, system=self.system, split=recipe.split, gold=gold)
        return lambda candidate: write(candidate.number)


class EvolInstruct(TaskStrategy):
    """A seed rewritten by EvolInstruct, one way after the other.

    Source: Xu et al. 2023, arXiv:2304.12244.
    """

    kind: Literal["evol-instruct"]

    evolutions: int = Field(1, ge=1, le=10)
    """Rewritings one after the other, each a request."""

    def requests(self) -> int:
        return self.evolutions

    def work(self, teacher: Teacher, sampling: Sampling, recipe: JobRecipe) -> Work:
        from ...teachers.distilabel import evolve

        write = evolve(teacher, sampling, evolutions=self.evolutions)
        return lambda candidate: write(_as_source(candidate))


class ClassificationData(TaskStrategy):
    """An input unlike a seed, with a label that the teacher chooses.

    Source: Wang et al. 2024, arXiv:2401.00368.
    """

    kind: Literal["classification-data"]

    language: str = "English"
    """In which inputs are written."""

    def work(self, teacher: Teacher, sampling: Sampling, recipe: JobRecipe) -> Work:
        from ...teachers.distilabel import write_labelled

        task = recipe.task
        write = write_labelled(
            teacher, sampling, instruction=task.instruction, labels=recipe.labels, language=self.language
        )
        return lambda candidate: write(_as_source(candidate))


def _as_source(candidate: Candidate) -> Source:
    """The seed under the candidate's id, so that every candidate of one seed is a draw of its own."""
    return Source(candidate.id, candidate.given, candidate.root, candidate.side, "seed")
