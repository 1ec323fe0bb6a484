"""Stage: a teacher writes inputs from the seeds, balanced over the labels.

Candidate i is decided by the task, the seeds, the template and i alone. Answers are asked for in any order and accepted
in order of i, so `rows` counts accepted rows, and the loop tops up what was rejected until they are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..data.artifact import Artifact
from ..data.duplicates import Duplicates
from ..data.errors import NotEnoughData
from ..data.fingerprint import fraction, row_id
from ..data.rows import Answer, Failed, Prompt, Rejected, Source
from ..data.sides import side_of
from ..data.sources import read_pairs
from ..data.teacher import Sampling
from .context import Run, check_labels
from .examples import ExampleWriter
from .executor import ask_all
from .outcome import Outcome, refuse_too_many_failed

VERSION = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """One input to be written: from which seed, for which label."""

    number: int
    seed: Source
    label: str
    examples: tuple[str, ...]

    @property
    def id(self) -> str:
        return row_id("generated", str(self.number), self.seed.id, self.label)


def read_seeds(run: Run) -> list[Source]:
    """The seeds with their sides; a seed's output must be a label where the task has labels."""
    task = run.recipe.task
    assert task.seeds is not None
    read = read_pairs(task.seeds, run.folder, "task.seeds", answered=False)
    check_labels(read, run.recipe.labels, f"task.seeds: {task.seeds}")
    seeds = []
    for seed in read:
        side = side_of(seed.root, run.recipe.split, gold=bool(task.test))
        seeds.append(Source(seed.id, seed.input, seed.root, side, "seed", seed.output))
    return seeds


class Candidates:
    """Candidate by number."""

    def __init__(self, seeds: Sequence[Source], labels: Sequence[str], examples: int) -> None:
        self._seeds = seeds
        self._labels = labels
        self._examples = examples

    def __getitem__(self, number: int) -> Candidate:
        label = self._labels[number % len(self._labels)] if self._labels else ""
        fitting = [seed for seed in self._seeds if not label or seed.output in (None, label)] or list(self._seeds)
        seed = fitting[int(fraction("seed", str(number)) * len(fitting))]
        near = [other for other in fitting if other.side == seed.side and other is not seed]
        near.sort(key=lambda other: fraction("example", str(number), other.id))
        chosen = [seed, *near][: self._examples]
        return Candidate(number, seed, label, tuple(other.input for other in chosen))


def first_candidates(run: Run, count: int) -> list[Candidate]:
    """The candidates that the stage begins with."""
    stage = run.recipe.generate
    assert stage is not None
    candidates = Candidates(read_seeds(run), list(run.recipe.labels), stage.examples)
    return [candidates[number] for number in range(count)]


def generate(run: Run, artifact: Artifact) -> Outcome:
    """Ask, accept in order, top up."""
    stage = run.recipe.generate
    assert stage is not None
    seeds = read_seeds(run)
    candidates = Candidates(seeds, list(run.recipe.labels), stage.examples)
    writer = ExampleWriter(artifact)
    known = Duplicates(run.recipe.curate.duplicates)
    for seed in seeds:
        known.seen(seed.id, seed.input)
    ceiling = math.ceil(stage.rows * stage.ceiling)
    asked = 0

    def decide(candidate: Candidate, said: Answer | Failed) -> None:
        if writer.counts.accepted < stage.rows:
            writer.add(_decide(candidate, said, known))

    while writer.counts.accepted < stage.rows and asked < ceiling:
        missing = stage.rows - writer.counts.accepted
        block = [candidates[i] for i in range(asked, min(ceiling, asked + max(missing, 64)))]
        ask_all(run, AskCandidate(), partial(iter, block), len(block), decide, title="generate", unit="requests")
        asked += len(block)
        refuse_too_many_failed("generate", writer.counts, run.recipe.max_failed)
    if writer.counts.accepted < stage.rows:
        raise NotEnoughData(
            f"generate: {asked} candidates gave {writer.counts.accepted} of {stage.rows} rows ({writer.counts}); "
            "add seeds, raise temperature or generate.ceiling, or ask for fewer rows"
        )
    return Outcome(writer.close(), writer.counts)


class AskCandidate:
    """Have one candidate written."""

    def teacher(self, run: Run) -> str:
        return run.recipe.teacher_of("generate")

    async def __call__(self, run: Run, item: Candidate) -> Answer | Failed:
        stage = run.recipe.generate
        assert stage is not None
        sampling = Sampling(temperature=stage.temperature, max_tokens=stage.max_tokens)
        return await run.teacher(self.teacher(run)).answer(writing_prompt(run, item), sampling)


def writing_prompt(run: Run, candidate: Candidate) -> Prompt:
    """What the writing teacher reads."""
    return Prompt(candidate.id, run.generate_template.render(_values(run, candidate)), sample=candidate.number)


def _values(run: Run, candidate: Candidate) -> dict[str, object]:
    return {
        "instruction": run.recipe.task.instruction,
        "label": candidate.label,
        "meaning": run.recipe.labels.get(candidate.label, ""),
        "schema": run.recipe.schema_text,
        "examples": candidate.examples,
        "number": candidate.number,
    }


def accepted(candidate: Candidate, answer: Answer | Failed) -> Source | Rejected | Failed:
    """The input that an answer is, by itself."""
    if isinstance(answer, Failed):
        return answer
    text = answer.text.strip().removeprefix("Input:").strip().strip('"')
    if answer.finish_reason == "length":
        return Rejected(candidate.id, "cut_short", text[-200:])
    if not text:
        return Rejected(candidate.id, "empty")
    seed = candidate.seed
    return Source(candidate.id, text, seed.root, seed.side, "generated", candidate.label or None)


def _decide(candidate: Candidate, answer: Answer | Failed, known: Duplicates) -> Source | Rejected | Failed:
    row = accepted(candidate, answer)
    if isinstance(row, Source) and (copy := known.seen(candidate.id, row.input)):
        return Rejected(candidate.id, f"{copy[0]}_duplicate", f"of {copy[1]}: {row.input[:160]}")
    return row
