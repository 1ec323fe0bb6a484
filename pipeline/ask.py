"""Asking a teacher for many answers: a sliding window, one row's outcome at a time.

A slow answer holds one place in the window and nothing else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..data.duplicates import fold
from ..data.errors import BudgetReached, UnderstudyError
from ..data.pii import redacted_output
from ..data.rows import Answer, Example, Failed, Prompt, Rejected, Source, TopTokens
from ..data.teacher import Sampling, Teacher
from .parse import Evidence, label_probabilities, parse, read_label, top_tokens, vote_shares
from .prompts import Template
from .recipe import JobRecipe

SECOND_OPINION = 100
"""Draw under which a teacher is asked again to be compared with itself; above every draw a label stage makes."""

_DRAWS = 3
"""Of a choice that is not read out of an answer."""

Item = TypeVar("Item")


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], window: int) -> None:
    """Run ``work`` on every item, at most ``window`` at once; the first error stops all.

    Only where the budget is reached, what is in flight is waited for: it will be billed, so it has to be recorded.
    """
    source = iter(items)
    reached: list[BudgetReached] = []

    async def worker() -> None:
        for item in source:
            if reached:
                return
            try:
                await work(item)
            except BudgetReached as error:
                reached.append(error)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(window):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        await _end_the_rest()
        raise _cause(failures) from None
    if reached:
        raise reached[0]


async def _end_the_rest() -> None:
    """Stop the requests that nobody waits for any more; one that fails as it stops has nothing new to say."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to show of several that came at once: one raised on purpose before any other."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = list(failures.exceptions)
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, UnderstudyError)), leaves[0])


async def choose(
    teacher: Teacher, asked: Callable[[int], Prompt], max_tokens: int, unread: str
) -> str | Rejected | Failed:
    """Which of its choices a teacher names; drawn again where it names none.

    Args:
        asked: the prompt of a draw, with its choices.
        unread: the reason for which a row is rejected whose every draw names none; the first is the evidence.
    """
    said = ""
    for draw in range(_DRAWS):
        prompt = asked(draw)
        # a repeated greedy draw would repeat its fault
        answer = await teacher.answer(prompt, Sampling(temperature=0.7 if draw else 0.0, max_tokens=max_tokens))
        if isinstance(answer, Failed):
            return answer
        if choice := read_label(answer.text, prompt.choices):
            return choice
        said = said or answer.text
    return Rejected(prompt.id, unread, said[:200])


def label_values(recipe: JobRecipe, text: str) -> dict[str, Any]:
    """What the template of the label stage may use."""
    return {
        "instruction": recipe.task.instruction,
        "labels": recipe.labels,
        "keys": {label: key for key, label in recipe.keys.items()},
        "schema": recipe.schema_text,
        "input": text,
    }


@dataclass(frozen=True, slots=True)
class Labeler:
    """Asks one teacher for the task's output of an input, as the recipe says."""

    recipe: JobRecipe
    template: Template
    teacher: Teacher
    sampling: Sampling
    samples: int
    retries: int

    def prompt(self, source: Source, sample: int) -> Prompt:
        """What the teacher reads for one draw."""
        return Prompt(
            source.id,
            self.template.render(label_values(self.recipe, source.input)),
            choices=tuple(self.recipe.labels),
            schema=self.recipe.schema_text,
            sample=sample,
        )

    async def label(self, source: Source) -> Example | Rejected | Failed:
        """Draw until `samples` answers can be used or the retries are used up."""
        outputs: list[str] = []
        tokens: dict[str, TopTokens | None] = {}
        probs: dict[str, float] | None = None
        evidence: Evidence = "hard"
        fault: Rejected | None = None
        for draw in range(self.samples + self.retries):
            answer = await self.ask(source, draw)
            if isinstance(answer, Failed):
                return Failed(source.id, answer.kind, answer.message)
            output = parse(answer, self.recipe)
            if isinstance(output, Rejected):
                fault = fault or Rejected(source.id, output.reason, output.evidence)
                continue
            outputs.append(output)
            if len(outputs) == 1 and self.recipe.labels:
                probs, evidence = label_probabilities(answer, list(self.recipe.labels), self.recipe.keys)
            if not self.recipe.labels:
                told = self.recipe.task.pii == "off" or not redacted_output(answer.text)[1]
                tokens.setdefault(output, top_tokens(answer) if told else None)  # they would spell it
            if len(outputs) == self.samples:
                break
        if not outputs:
            assert fault is not None
            return fault
        votes = Counter(map(self._vote, outputs))  # of equal counts the one drawn first stays first
        output, count, outvoted = self._taken(outputs, votes)
        if self.samples > 1 and self.recipe.labels:
            evidence = "samples"
            probs = vote_shares(votes, list(self.recipe.labels))
        return Example(
            source.id, source.input, output, source.root, source.side, source.origin, probs, evidence, source.strategy,
            tokens.get(output), count / self.samples if self.samples > 1 else None, outvoted,
        )  # fmt: skip

    def _taken(self, outputs: list[str], votes: Counter[str]) -> tuple[str, int, str | None]:
        """The output that most draws say, how many do, and the most frequent of those that fewer say."""
        drawn = {self._vote(output): output for output in reversed(outputs)}
        (winner, count), *others = votes.most_common(2)
        return drawn[winner], count, next((drawn[other] for other, fewer in others if fewer < count), None)

    def _vote(self, output: str) -> str:
        """What an output counts for: labels and JSON stand in one spelling, free text by its words."""
        return output if self.recipe.labels or self.recipe.schema_text else fold(output)

    async def ask(self, source: Source, draw: int) -> Answer | Failed:
        """One draw. A repeated greedy draw would repeat its fault, so retries are sampled."""
        sampling = self.sampling
        if sampling.temperature == 0 and 0 < draw < SECOND_OPINION:
            sampling = sampling.model_copy(update={"temperature": 0.7})
        return await self.teacher.answer(self.prompt(source, draw), sampling)
