"""Stage: every model answers the same held-out rows, and one table of answers decides.

The student under judgement is reached through the same code as any local teacher: one prompt format in training, here
and in use. A teacher's answer that cannot be read is a wrong answer; a row that could not be asked is left out for all.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.artifact import Artifact, ShardWriter
from ..data.rows import Answer, Example, Failed, Message, Prompt, Rejected, Source
from ..data.teacher import Sampling, Teacher
from ..students.config import StudentRecipe
from .answers import Answers, ModelFacts, TestRows
from .ask import SECOND_OPINION, Labeler, for_each
from .context import Run
from .examples import Counts, read_examples
from .executor import Asking, ask_all
from .label import AskLabel
from .outcome import Outcome, refuse_too_many_failed
from .parse import parse
from .scoring import score_tests

if TYPE_CHECKING:
    from ..teachers.transformers import TransformersTeacher

VERSION = 2

_TIMED = 100
"""Rows whose answers are timed one at a time."""


def evaluate(run: Run, artifact: Artifact, curated: Artifact, trained: dict[str, Artifact]) -> Outcome:
    """Collect the answers of all, write them down, and compute everything from them."""
    labeler = run.labeler()
    tests = _tests(run, curated)
    models: dict[str, ModelFacts] = {}
    counts = _ask_teacher(run, tests)
    models["teacher"] = _teacher_facts(run, labeler, tests)
    for name, student in trained.items():
        models[name] = _ask_student(run, name, student, tests)
    _ask_baselines(run, curated, tests, models)
    shards = _write(artifact, tests)
    summary = score_tests(run.recipe, tests, models)
    return Outcome({"answers": shards}, counts, summary)


def _tests(run: Run, curated: Artifact) -> list[TestRows]:
    """Gold tests in the recipe's order; without any, the held-out side against the teacher's own first answers."""
    tests = [
        TestRows(name, gold=True, source=run.recipe.task.test[name], rows=rows) for name, rows in run.gold().items()
    ]
    held_out = [
        Source(row.id, row.input, row.root, row.side, "unlabeled", row.output) for row in read_examples(curated, "test")
    ]
    if held_out or not tests:
        tests.append(TestRows("held_out", gold=False, source="the teacher's first answers", rows=held_out))
    return tests


class AskAgain:
    """The teacher's second opinion on a row whose reference is its first."""

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


def _teacher_facts(run: Run, labeler: Labeler, tests: list[TestRows]) -> ModelFacts:
    from ..teachers.transformers import TransformersTeacher

    teacher = run.teacher(run.recipe.teacher_of("label"))
    facts = ModelFacts("teacher")
    prompts = [labeler.prompt(row, 0) for row in tests[0].rows[:_TIMED]]
    if isinstance(teacher.teacher, TransformersTeacher):
        facts.parameters, facts.bytes = teacher.teacher.facts()
        facts.latency_ms = asyncio.run(_latency(teacher.teacher, prompts, labeler.sampling))
    if teacher.price is not None and prompts:
        costs = [
            teacher.price.usd(answer)
            for answer in asyncio.run(_recorded(teacher, prompts, labeler.sampling))
            if isinstance(answer, Answer)
        ]
        facts.usd_per_1000 = 1000 * sum(costs) / len(costs) if costs else None
    return facts


async def _recorded(teacher: Teacher, prompts: Sequence[Prompt], sampling: Sampling) -> list[Answer | Failed]:
    return [await teacher.answer(prompt, sampling) for prompt in prompts]


def student_prompt(source_id: str, text: str, labels: Sequence[str]) -> Prompt:
    """What a student reads: the input alone; its instruction is what it was trained for."""
    return Prompt(source_id, (Message("user", text),), choices=tuple(labels))


def student_sampling(student: StudentRecipe) -> Sampling:
    """Greedy, and no longer than what it was trained to write."""
    return Sampling(temperature=0.0, max_tokens=student.train.max_length)


def _ask_student(run: Run, name: str, artifact: Artifact, tests: list[TestRows]) -> ModelFacts:
    from ..teachers.transformers import TransformersTeacher

    manifest = artifact.manifest()
    assert manifest is not None
    summary = manifest["summary"]
    sampling = student_sampling(run.recipe.students[name])
    facts = ModelFacts("student", seeds=[])
    for trained in summary["seeds"]:
        seed = trained["seed"]
        chosen = seed == summary["chosen"]
        model = TransformersTeacher(artifact.folder / f"seed-{seed}", batch=64)
        column = name if chosen else f"{name}/seed-{seed}"
        for test in tests:
            with run.reporter.track(f"{column} on {test.name}", len(test.rows)) as tracker:
                test.answers[column] = asyncio.run(_student_answers(run, model, test.rows, sampling, tracker))
        if chosen:
            prompts = [student_prompt(row.id, row.input, list(run.recipe.labels)) for row in tests[0].rows[:_TIMED]]
            facts.parameters, facts.bytes = model.facts()
            facts.latency_ms = asyncio.run(_latency(model, prompts, sampling))
        assert facts.seeds is not None
        facts.seeds.append({"seed": seed, "column": column, "validation": trained["validation_agreement"]})
    return facts


async def _student_answers(
    run: Run, model: TransformersTeacher, rows: Sequence[Source], sampling: Sampling, tracker: Any
) -> Answers:
    labels = list(run.recipe.labels)
    said: dict[str, Answer | Failed] = {}

    async def ask(row: Source) -> None:
        said[row.id] = await model.answer(student_prompt(row.id, row.input, labels), sampling)
        tracker.advance()

    await for_each(rows, ask, 256)
    await model.close()
    outputs: list[str | None] = []
    confidence: list[float | None] = []
    for row in rows:
        answer = said[row.id]
        output = parse(answer, run.recipe) if isinstance(answer, Answer) else None
        outputs.append(output if isinstance(output, str) else None)
        sure = isinstance(answer, Answer) and answer.scores is not None
        confidence.append(math.exp(answer.scores[answer.text]) if sure else None)  # type: ignore[union-attr,index]
    return Answers(outputs, confidence)


async def _latency(model: Teacher, prompts: Sequence[Prompt], sampling: Sampling) -> dict[str, float] | None:
    """Milliseconds for one message at a time, past the ledger; the first few warm the model up."""
    taken = []
    for number, prompt in enumerate([*prompts[:5], *prompts]):
        started = time.perf_counter()
        await model.answer(prompt, sampling)
        if number >= 5:
            taken.append(1000 * (time.perf_counter() - started))
    await model.close()
    if not taken:
        return None
    return {"p50": float(np.percentile(taken, 50)), "p95": float(np.percentile(taken, 95))}


def _ask_baselines(run: Run, curated: Artifact, tests: list[TestRows], models: dict[str, ModelFacts]) -> None:
    """What needs no student at all, taught by the same labels: a weak baseline would flatter."""
    from .baselines import Linear, majority

    rows = [(row.input, row.output) for row in read_examples(curated, "train")]
    texts, outputs = [text for text, _ in rows], [output for _, output in rows]
    most = majority(outputs)
    models["majority"] = ModelFacts("baseline")
    for test in tests:
        test.answers["majority"] = Answers([most] * len(test.rows), [None] * len(test.rows))
    if not run.recipe.labels:
        return
    run.reporter.say("  fitting the linear baseline")
    linear = Linear.fit(texts, outputs)
    models["linear"] = ModelFacts("baseline", linear.parameters, linear.bytes)
    for test in tests:
        inputs = [row.input for row in test.rows]
        probabilities = linear.probabilities(inputs) if inputs else np.zeros((0, 1))
        said: list[str | None] = list(linear.predict(inputs)) if inputs else []
        test.answers["linear"] = Answers(said, [float(p) for p in probabilities.max(axis=1)] if inputs else [])
    first = tests[0].rows[:_TIMED]
    taken = []
    for row in first:
        started = time.perf_counter()
        linear.predict([row.input])
        taken.append(1000 * (time.perf_counter() - started))
    if taken:
        models["linear"].latency_ms = {
            "p50": float(np.percentile(taken, 50)),
            "p95": float(np.percentile(taken, 95)),
        }


def _write(artifact: Artifact, tests: list[TestRows]) -> list[dict[str, Any]]:
    """The one table that every figure is computed from."""
    import pyarrow as pa

    text, number = pa.string(), pa.float32()
    schema = pa.schema(
        [
            ("id", text),
            ("test", text),
            ("model", text),
            ("root", text),
            ("input", text),
            ("reference", text),
            ("answer", text),
            ("confidence", number),
        ]
    )
    writer = ShardWriter(artifact, "answers", schema)
    for test in tests:
        for model, answers in test.answers.items():
            for row, answer, confidence in zip(test.rows, answers.outputs, answers.confidence, strict=True):
                writer.add(
                    {
                        "id": row.id,
                        "test": test.name,
                        "model": model,
                        "root": row.root,
                        "input": row.input,
                        "reference": row.output,
                        "answer": answer,
                        "confidence": confidence,
                    }
                )
    return writer.close()
