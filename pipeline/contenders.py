"""Who is judged beside the teacher: every seed of every student, the student before it learnt, and the baselines.

A student is reached through the same code as any local teacher: one prompt format in training, here and in use.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.artifact import Artifact
from ..data.rows import Answer, Failed, Message, Prompt, Source
from ..data.teacher import Sampling, Teacher
from ..students.config import UNTRAINED, StudentRecipe
from ..students.records import FILE, read_records
from ..teachers.transformers import TransformersTeacher
from .ask import for_each
from .baselines import Linear, Neighbour, majority
from .context import Run
from .examples import read_examples
from .footprint import footprint
from .parse import parse
from .progress import Tracker
from .table import Answers, ModelFacts, TestRows

TIMED = 100
"""Rows whose answers are timed one at a time."""


def student_prompt(source_id: str, text: str, labels: Sequence[str]) -> Prompt:
    """What a student reads: the input alone; its instruction is what it was trained for."""
    return Prompt(source_id, (Message("user", text),), choices=tuple(labels))


def student_sampling(student: StudentRecipe) -> Sampling:
    """Greedy, and no longer than what it was trained to write."""
    return Sampling(temperature=0.0, max_tokens=student.train.max_length)


def ask_students(run: Run, trained: Mapping[str, Artifact], tests: Sequence[TestRows]) -> dict[str, ModelFacts]:
    """Every seed answers every test; the seed kept has the student's name."""
    found: dict[str, ModelFacts] = {}
    for name, artifact in trained.items():
        manifest = artifact.manifest()
        assert manifest is not None
        summary = manifest["summary"]
        facts = found[name] = ModelFacts("student", seeds=[])
        for result in summary["seeds"]:
            kept = result["seed"] == summary["chosen"]
            column = name if kept else f"{name}/seed-{result['seed']}"
            folder = artifact.folder / f"seed-{result['seed']}"
            _ask_folder(run, folder, run.recipe.students[name], column, tests, facts if kept else None)
            assert facts.seeds is not None
            facts.seeds.append({**result, "column": column, "training": _training(folder, result)})
        untrained = artifact.folder / UNTRAINED
        if name == run.recipe.judged_student and untrained.exists():
            found[UNTRAINED] = ModelFacts("baseline")
            _ask_folder(run, untrained, run.recipe.students[name], UNTRAINED, tests, None)
    return found


def _training(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """How a student's last method went, for the report."""
    records = [
        {"step": each["step"], "loss": each["loss"], "validation": each.get("validation_loss")}
        for each in read_records(folder / FILE)
    ]
    return {**{name: result[name] for name in ("steps", "planned", "best", "alarms")}, "records": records}


def ask_parts(run: Run, curve: Artifact, test: TestRows) -> None:
    """The students of the learning curve answer the verdict's test; they are no contenders, and have no facts."""
    manifest, name = curve.manifest(), run.recipe.judged_student
    assert manifest is not None
    assert name is not None
    for part in manifest["summary"]["parts"]:
        _ask_folder(run, curve.folder / part["folder"], run.recipe.students[name], part["column"], [test], None)


def _ask_folder(
    run: Run,
    folder: Path,
    student: StudentRecipe,
    column: str,
    tests: Sequence[TestRows],
    facts: ModelFacts | None,
) -> None:
    """Have a student's folder answer every test.

    Args:
        facts: filled in with what the model is and how fast it answers; None where nobody will ask.
    """
    labels, sampling = list(run.recipe.labels), student_sampling(student)
    model = TransformersTeacher(folder, batch=64)
    ask_model(run, model, lambda row: student_prompt(row.id, row.input, labels), sampling, column, tests, facts)
    some = [row.input for row in tests[0].rows[:TIMED]]
    if facts is not None and some:
        facts.memory = footprint(folder, some, labels, sampling.max_tokens)


def ask_model(
    run: Run,
    model: TransformersTeacher,
    asked: Callable[[Source], Prompt],
    sampling: Sampling,
    column: str,
    tests: Sequence[TestRows],
    facts: ModelFacts | None,
) -> None:
    """Have a model in this process answer every test.

    Args:
        asked: what the model reads of a row.
        column: the name of its answers.
        facts: filled in with what the model is and how fast it answers; None where nobody will ask.
    """
    for test in tests:
        started = time.perf_counter()
        prompts = [asked(row) for row in test.rows]
        with run.reporter.track(f"{column} on {test.name}", len(prompts)) as tracker:
            test.answers[column], tokens = asyncio.run(replies(run, model, prompts, sampling, tracker))
        if facts is not None and facts.per_second is None and test.rows:
            seconds = time.perf_counter() - started
            facts.per_second, facts.tokens_per_second = len(test.rows) / seconds, tokens / seconds
    if facts is not None:
        facts.parameters, facts.bytes = model.facts()
        facts.latency_ms = asyncio.run(latency(model, [asked(row) for row in tests[0].rows[:TIMED]], sampling))


async def replies(
    run: Run, model: Teacher, prompts: Sequence[Prompt], sampling: Sampling, tracker: Tracker
) -> tuple[Answers, int]:
    """What a model said to every prompt, and the tokens that it read and wrote."""
    said: dict[int, Answer | Failed] = {}

    async def ask(place: int) -> None:
        said[place] = await model.answer(prompts[place], sampling)
        tracker.advance()

    await for_each(range(len(prompts)), ask, 256)
    await model.close()
    outputs: list[str | None] = []
    confidence: list[float | None] = []
    for place in range(len(prompts)):
        answer = said[place]
        output = parse(answer, run.recipe) if isinstance(answer, Answer) else None
        outputs.append(output if isinstance(output, str) else None)
        sure = isinstance(answer, Answer) and answer.scores is not None
        confidence.append(math.exp(answer.scores[answer.text]) if sure else None)  # type: ignore[union-attr,index]
    tokens = sum(a.input_tokens + a.output_tokens for a in said.values() if isinstance(a, Answer))
    return Answers(outputs, confidence), tokens


async def latency(model: Teacher, prompts: Sequence[Prompt], sampling: Sampling) -> dict[str, float] | None:
    """Milliseconds for one message at a time, past the ledger; the first few warm the model up."""
    taken = []
    for number, prompt in enumerate([*prompts[:5], *prompts]):
        started = time.perf_counter()
        await model.answer(prompt, sampling)
        if number >= 5:
            taken.append(time.perf_counter() - started)
    await model.close()
    return percentiles(taken)


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Milliseconds that half the messages take, and nineteen of twenty; None where nothing was timed."""
    if not seconds:
        return None
    return {"p50": 1000 * float(np.percentile(seconds, 50)), "p95": 1000 * float(np.percentile(seconds, 95))}


def ask_baselines(run: Run, curated: Artifact, tests: Sequence[TestRows]) -> dict[str, ModelFacts]:
    """What needs no student at all, taught by the same labels: a weak baseline would flatter."""
    rows = [(row.input, row.output) for row in read_examples(curated, "train")]
    texts, outputs = [text for text, _ in rows], [output for _, output in rows]
    most = majority(outputs)
    found = {"majority": ModelFacts("baseline")}
    for test in tests:
        test.answers["majority"] = Answers([most] * len(test.rows), [None] * len(test.rows))
    if not rows:
        return found
    run.reporter.say("  fitting the baselines")
    neighbour = Neighbour.fit(texts, outputs)
    found["neighbour"] = _timed("neighbour", neighbour.answers, tests)
    found["neighbour"].bytes = neighbour.bytes
    if run.recipe.labels:
        linear = Linear.fit(texts, outputs)
        found["linear"] = _timed("linear", linear.answers, tests)
        found["linear"].parameters, found["linear"].bytes = linear.parameters, linear.bytes
    return found


def _timed(
    name: str, answers: Callable[[Sequence[str]], Iterator[tuple[str, float]]], tests: Sequence[TestRows]
) -> ModelFacts:
    """Have a baseline answer every test, and the first rows of the first one by one."""
    facts = ModelFacts("baseline")
    for test in tests:
        started = time.perf_counter()
        said = list(answers([row.input for row in test.rows]))
        test.answers[name] = Answers([output for output, _ in said], [sure for _, sure in said])
        if facts.per_second is None and said:
            facts.per_second = len(said) / (time.perf_counter() - started)
    taken = []
    for row in tests[0].rows[:TIMED]:
        started = time.perf_counter()
        list(answers([row.input]))
        taken.append(time.perf_counter() - started)
    facts.latency_ms = percentiles(taken)
    return facts
