"""Stage: every model answers the same held-out rows, and one table of answers with their scores is left.

Nothing is judged here: the report computes everything from the table, so another margin costs nothing. A teacher's
answer that cannot be read is a wrong answer; a row that could not be asked is left out for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..data.artifact import Artifact
from ..data.rows import Answer, Example, Failed, Prompt, Rejected, Source
from ..data.teacher import Sampling, Teacher
from ..teachers.kind import Price
from ..teachers.recorded import RecordedTeacher
from ..teachers.transformers import TransformersTeacher
from .ask import SECOND_OPINION
from .contenders import TIMED, ask_baselines, ask_parts, ask_students, latency
from .context import Run
from .examples import Counts, read_examples, sample_rows
from .executor import Asking, ask_all
from .few_shot import ask_few_shot
from .judge import judge_tests
from .label import AskLabel
from .outcome import Outcome, refuse_too_many_failed
from .parse import parse
from .scorers import scorer_of
from .table import CONFIG, Answers, ModelFacts, TestRows, facts_as_json, write_table

VERSION = 5


def evaluate(
    run: Run, artifact: Artifact, curated: Artifact, trained: dict[str, Artifact], curve: Artifact | None = None
) -> Outcome:
    """Collect the answers of all, score them, and write them down.

    Args:
        curve: students that learnt parts of the rows, where the recipe asks for them.
    """
    tests = _tests(run, curated)
    counts = _ask_teacher(run, tests)
    _ask_twice(run, tests[0])
    models = {"teacher": _teacher_facts(run, tests[0].rows)}
    models |= ask_students(run, trained, tests)
    models |= ask_few_shot(run, curated, tests)
    models |= ask_baselines(run, curated, tests)
    if curve is not None:
        ask_parts(run, curve, tests[0])
    scorer = scorer_of(run.recipe)
    judged = None
    if scorer is None:
        judged = judge_tests(run, artifact, tests)
    else:
        for test in tests:
            for answers in test.answers.values():
                answers.scores = scorer(answers.outputs, test.rows)
    shards = {CONFIG: write_table(artifact, tests)}
    summary: dict[str, Any] = {**facts_as_json(tests, models), "judge": judged.summary if judged else None}
    return Outcome(shards | (judged.shards if judged else {}), counts, summary)


def _tests(run: Run, curated: Artifact) -> list[TestRows]:
    """Gold tests in the recipe's order; without any, the held-out side against the teacher's own first answers."""
    tests = [
        TestRows(name, gold=True, source=run.recipe.task.test[name], rows=rows) for name, rows in run.gold().items()
    ]
    held_out = [
        Source(row.id, row.input, row.root, row.side, row.origin, row.output, strategy=row.strategy)
        for row in read_examples(curated, "test")
    ]
    if held_out or not tests:
        held_out = _with_columns(run, held_out)
        tests.append(TestRows("held_out", gold=False, source="the teacher's first answers", rows=held_out))
    return tests


def _with_columns(run: Run, rows: list[Source]) -> list[Source]:
    """Rows with what the user's own columns say of them, read again from where they came."""
    if not run.recipe.evaluate.slices:
        return rows
    wanted = {row.id for row in rows}
    known = {source.id: source.columns for source in run.unlabeled(*run.recipe.evaluate.slices) if source.id in wanted}
    return [replace(row, columns=known.get(row.id, {})) for row in rows]


class AskAgain:
    """The teacher's second opinion on a row."""

    def teacher(self, run: Run) -> str:
        return run.recipe.teacher_of("label")

    async def __call__(self, run: Run, item: Source) -> Example | Rejected | Failed:
        labeler = run.labeler()
        answer = await labeler.ask(item, SECOND_OPINION)
        if isinstance(answer, Failed):
            return answer
        output = parse(answer, labeler.recipe)
        if isinstance(output, Rejected):
            return output
        return Example(item.id, item.input, output, item.root, item.side, item.origin)


def _ask_teacher(run: Run, tests: list[TestRows]) -> Counts:
    """The teacher's answers: its first to a gold row, its second to a row whose reference is its first."""
    counts = Counts()
    for test in tests:
        said: dict[str, Example | Rejected | Failed] = {}

        def keep(row: Source, answer: Example | Rejected | Failed, said: dict[str, Any] = said) -> None:
            said[row.id] = answer
            counts.requested += 1
            counts.accepted += isinstance(answer, Example)
            if isinstance(answer, Rejected):
                counts.rejected[answer.reason] += 1
            elif isinstance(answer, Failed):
                counts.failed[answer.kind] += 1

        rows = test.rows
        asking: Asking[Source, Example | Rejected | Failed] = AskLabel() if test.gold else AskAgain()
        ask_all(run, asking, partial(iter, rows), len(rows), keep, title=f"ask {test.name}")
        refuse_too_many_failed("evaluate", counts, run.recipe.max_failed)
        test.rows = [row for row in rows if not isinstance(said[row.id], Failed)]
        read = [answer if isinstance(answer := said[row.id], Example) else None for row in test.rows]
        test.answers["teacher"] = Answers(
            [answer.output if answer else None for answer in read],
            [answer.probs[answer.output] if answer and answer.probs else None for answer in read],
        )
    return counts


def _ask_twice(run: Run, test: TestRows) -> None:
    """How often the teacher says the same again, on some rows of a gold test; elsewhere that is its score."""
    if not test.gold or not run.recipe.evaluate.second_opinions:
        return
    rows = sample_rows(test.rows, run.recipe.evaluate.second_opinions)

    def keep(row: Source, answer: Example | Rejected | Failed) -> None:
        if not isinstance(answer, Failed):
            test.again[row.id] = answer.output if isinstance(answer, Example) else None

    ask_all(run, AskAgain(), partial(iter, rows), len(rows), keep, title="ask twice")


def _teacher_facts(run: Run, rows: Sequence[Source]) -> ModelFacts:
    labeler = run.labeler()
    teacher = run.teacher(run.recipe.teacher_of("label"))
    facts = ModelFacts("teacher")
    prompts = [labeler.prompt(row, 0) for row in rows[:TIMED]]
    if isinstance(teacher.teacher, TransformersTeacher):
        facts.parameters, facts.bytes = teacher.teacher.facts()
        facts.latency_ms = asyncio.run(latency(teacher.teacher, prompts, labeler.sampling))
    if teacher.price is not None and prompts:
        costs = _costs(teacher, prompts, labeler.sampling)
        facts.usd_per_1000 = 1000 * float(np.mean(costs)) if costs else None
    return facts


def _costs(teacher: RecordedTeacher, prompts: Sequence[Prompt], sampling: Sampling) -> list[float]:
    """Dollars of the answers to some prompts: at today's price of tokens, or for the time that they took."""
    price = teacher.price
    if not isinstance(price, Price):
        return [teacher.paid(prompt, sampling) for prompt in prompts]
    answers = asyncio.run(_recorded(teacher, prompts, sampling))
    return [price.usd(answer) for answer in answers if isinstance(answer, Answer)]


async def _recorded(teacher: Teacher, prompts: Sequence[Prompt], sampling: Sampling) -> list[Answer | Failed]:
    return [await teacher.answer(prompt, sampling) for prompt in prompts]
