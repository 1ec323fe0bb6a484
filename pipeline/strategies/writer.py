"""Has candidates written by a teacher, and reads what was said.

An asking reads no file but templates: seeds and passages travel with the candidate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...data.conversation import is_asked, transcript, turns_of
from ...data.pii import redacted
from ...data.rows import Answer, Failed, Prompt, Rejected, Source
from ...data.teacher import Sampling, Teacher
from .candidate import Candidate
from .tasks import TaskStrategy, Work

if TYPE_CHECKING:
    from ..context import Run

_FENCED = re.compile(r"(`{3,})\w*\n(.*)\n\1", re.DOTALL)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Exchange:
    """One request and what came of it."""

    prompt: Prompt
    said: Answer | Failed


class Overheard:
    """A teacher whose exchanges are kept: for a preview, and to see what a pilot takes."""

    def __init__(self, teacher: Teacher) -> None:
        self.exchanges: list[Exchange] = []
        self._teacher = teacher

    @property
    def name(self) -> str:
        return self._teacher.name

    @property
    def identity(self) -> dict[str, str]:
        return self._teacher.identity

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        said = await self._teacher.answer(prompt, sampling)
        self.exchanges.append(Exchange(prompt, said))
        return said

    async def close(self) -> None:
        """The teacher is another's to close."""


class Writer:
    """Turns a candidate into an input, or says why not."""

    def __init__(self, run: Run, teacher: Teacher) -> None:
        stage = run.recipe.generate
        assert stage is not None
        self._run = run
        self._teacher = teacher
        self._sampling = Sampling(temperature=stage.temperature, max_tokens=stage.max_tokens)
        self._strategies = dict(zip(stage.names, stage.strategies, strict=True))
        self._tasks: dict[str, Work] = {}

    async def __call__(self, candidate: Candidate) -> Source | Rejected | Failed:
        strategy = self._strategies[candidate.strategy]
        if isinstance(strategy, TaskStrategy):
            return self._accepted(await self._by_task(candidate, strategy))
        said = await self._teacher.answer(self.prompt(candidate), self._sampling)
        return self._accepted(read_input(candidate, said))

    def _accepted(self, written: Source | Rejected | Failed) -> Source | Rejected | Failed:
        """The same, a conversation where the task wants one, and without personal data where it wants none."""
        turns = self._run.recipe.task.turns
        if turns > 1 and isinstance(written, Source):
            said = turns_of(written.input)
            if not is_asked(said, turns):
                return Rejected(written.id, "not_a_conversation", written.input[:200])
            written = replace(written, input=transcript(said))
        return self._private(written)

    def _private(self, written: Source | Rejected | Failed) -> Source | Rejected | Failed:
        """The same without personal data, as far as the recipe wants that: what is made up looks like anybody's."""
        handling = self._run.recipe.task.pii
        if handling == "off" or not isinstance(written, Source):
            return written
        text, personal = redacted(written.input)
        if personal and handling == "reject":
            return Rejected(written.id, "personal_data", ", ".join(personal))
        return replace(written, input=text, personal=personal)

    def prompt(self, candidate: Candidate) -> Prompt:
        """What the teacher reads, of a candidate that one of our templates asks for."""
        template = self._run.writing_template(self._strategies[candidate.strategy].kind)
        return Prompt(candidate.id, template.render(self._values(candidate)), sample=candidate.number)

    async def _by_task(self, candidate: Candidate, strategy: TaskStrategy) -> Source | Rejected | Failed:
        if candidate.strategy not in self._tasks:
            self._tasks[candidate.strategy] = strategy.work(self._teacher, self._sampling, self._run.recipe)
        done = await self._tasks[candidate.strategy](candidate)
        if isinstance(done, Rejected):
            return Rejected(candidate.id, done.reason, done.evidence)
        if isinstance(done, Failed):
            return Failed(candidate.id, done.kind, done.message)
        return _usable(candidate, done.input, done.output)

    def _values(self, candidate: Candidate) -> dict[str, object]:
        """What a template may use."""
        recipe = self._run.recipe
        return {
            "instruction": recipe.task.instruction,
            "label": candidate.label,
            "meaning": recipe.labels.get(candidate.label, ""),
            "schema": recipe.schema_text,
            "examples": candidate.examples,
            "number": candidate.number,
            "given": candidate.given,
            "attributes": dict(candidate.attributes),
            "other": candidate.other,
            "other_meaning": recipe.labels.get(candidate.other, ""),
            "way": candidate.way,
            "turns": recipe.task.turns,
        }


def read_input(candidate: Candidate, answer: Answer | Failed) -> Source | Rejected | Failed:
    """The input that an answer is, without the marks that teachers put around it."""
    if isinstance(answer, Failed):
        return answer
    if answer.finish_reason == "length":
        return Rejected(candidate.id, "cut_short", answer.text[-200:])
    text = answer.text.strip()
    if block := _FENCED.fullmatch(text):
        text = block[2]
    return _usable(candidate, text.removeprefix("Input:").strip().strip('"'), candidate.label or None)


def _usable(candidate: Candidate, text: str, output: str | None) -> Source | Rejected:
    if not text.strip():
        return Rejected(candidate.id, "empty")
    if _CONTROL.search(text):
        return Rejected(candidate.id, "control_characters", repr(text[:200]))
    return Source(
        candidate.id,
        text,
        candidate.root,
        candidate.side,
        "generated",
        output,
        strategy=candidate.strategy,
    )
