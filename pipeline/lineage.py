"""Where a row comes from and what became of it: from its root to the students that learnt it.

What a teacher said is looked up in the ledger by asking anew with nobody there to answer, so that a prompt is made in
one place only; what was forgotten, or asked under another template, is not found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from ..data.artifact import Artifact
from ..data.errors import BadInput
from ..data.rows import Answer, Example, Source
from .context import Run
from .examples import read_examples, read_sources
from .generate import AskAloud, passages_of, read_candidates, read_seeds
from .overview import finished
from .rubric import AskRubric
from .run import artifacts

Said = TypeVar("Said")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to a row."""

    stage: str
    what: str


def lineage(run: Run, prefix: str) -> list[Step]:
    """What happened to a row, in order.

    Raises:
        BadInput: no row has an id that begins so, or several have.
    """
    name = row_id_of(run, prefix)
    steps: list[Step] = []
    row: Source | Example | None = None
    kept = False
    for stage, artifact in finished(run).items():
        found, lost = _find(stage, artifact, name), _lost(artifact, name)
        if found is None and lost is None:
            continue
        row = found or row or next((one for one in run.unlabeled() if one.id == name), None)
        steps += [_root(run, row)] if row and not steps else []
        steps += [Step(stage, said) for said in _answers(run, stage, name, row)]
        steps.append(Step(stage, lost or _became(stage, row)))
        kept = stage == "curate" and found is not None
    return steps + (_learnt(run, row) if row and kept else [])


def row_id_of(run: Run, prefix: str) -> str:
    """The one row whose id begins so.

    Raises:
        BadInput: there is none, or several.
    """
    ids = {
        row["id"]
        for artifact in finished(run).values()
        for config in ("default", "rejected", "failed")
        for row in artifact.rows(config)
        if row["id"].startswith(prefix)
    }
    if len(ids) != 1:
        found = "no row has" if not ids else f"{len(ids)} rows have, such as {min(ids)} and {max(ids)},"
        shown = f"`understudy data {run.loaded.path}` shows some"
        raise BadInput(f"--row {prefix}: {found} an id that begins so; {shown}")
    return str(ids.pop())


def _find(stage: str, artifact: Artifact, name: str) -> Source | Example | None:
    """The row as a stage left it; an example where a teacher labelled it."""
    found = next((row for row in read_sources(artifact) if row.id == name), None)
    if found is None or stage == "generate":
        return found
    return next(row for row in read_examples(artifact, found.side) if row.id == name)


def _lost(artifact: Artifact, name: str) -> str | None:
    """Why a stage left it out."""
    for row in artifact.rows("rejected"):
        if row["id"] == name:
            return f"rejected: {row['reason']} ({row['evidence']})"
    for row in artifact.rows("failed"):
        if row["id"] == name:
            return f"failed: {row['class']} ({row['message']})"
    return None


def _root(run: Run, row: Source | Example) -> Step:
    """The seed, document or input that a row descends from."""
    said = f"{row.root}, on the side {row.side}"
    if row.origin == "unlabeled":
        path = run.recipe.task.unlabeled and run.recipe.task.unlabeled.path
        return Step("root", f"{said}, an input of {path}: {row.input}")
    if seed := next((seed for seed in read_seeds(run) if seed.root == row.root), None):
        return Step("root", f"{said}, a seed: {seed.input}")
    passages = chain.from_iterable(passages_of(run).values())
    if passage := next((passage for passage in passages if passage.root == row.root), None):
        return Step("root", f"{said}, a document that begins: {passage.text}")
    return Step("root", said)


def _answers(run: Run, stage: str, name: str, row: Source | Example | None) -> Iterator[str]:
    """What teachers said about a row in a stage, as far as the ledger has it."""
    if stage == "generate":
        teacher = run.recipe.teacher_of("generate")
        for said in _written(run, teacher, name):
            yield f"{teacher} wrote: {said.text}"
    elif stage == "label" and row is not None:
        teacher = run.recipe.teacher_of("label")
        for draw, said in enumerate(_labelled(run, teacher, row), 1):
            yield f"answer {draw} of {teacher}: {said.text}"
    elif (judge := run.recipe.curate.judge) and isinstance(row, Example) and row.side != "test":
        score = _unasked(run, judge.teacher, AskRubric()(run, row))
        if isinstance(score, int):
            yield f"{judge.teacher} as judge: {score} of 5"


def _written(run: Run, teacher: str, name: str) -> list[Answer]:
    stage = run.recipe.generate
    assert stage is not None
    candidates = read_candidates(run)
    numbers = range(int(2 * stage.ceiling * stage.rows))  # topping up passes over the numbers of full slices
    candidate = next((made for made in map(candidates.__getitem__, numbers) if made.id == name), None)
    if candidate is None:
        return []
    _, exchanges = _unasked(run, teacher, AskAloud()(run, candidate))
    return [each.said for each in exchanges if isinstance(each.said, Answer)]


def _labelled(run: Run, teacher: str, row: Source | Example) -> list[Answer]:
    labeler = run.labeler()
    source = Source(row.id, row.input, row.root, row.side, row.origin)

    async def read() -> list[Answer]:
        draws = range(labeler.samples + labeler.retries)
        return [said for draw in draws if isinstance(said := await labeler.ask(source, draw), Answer)]

    return _unasked(run, teacher, read())


def _unasked(run: Run, name: str, asking: Coroutine[Any, Any, Said]) -> Said:
    """What comes of asking a teacher who is not asked: what the ledger has."""
    teacher = run.teacher(name)
    teacher.asking = False
    try:
        return asyncio.run(asking)
    finally:
        teacher.asking = True


def _became(stage: str, row: Source | Example | None) -> str:
    """What a stage made of a row that it kept."""
    assert row is not None
    if stage == "generate":
        wanted = f" for '{row.output}'" if row.output else ""
        return f"written by {row.strategy}{wanted}: {row.input}"
    if stage == "curate" or not isinstance(row, Example):
        return f"kept, on the side {row.side}"
    sure = f", probability {row.probs[row.output]:.3f}" if row.probs else ""
    votes = f", {row.agreement:.0%} of the answers agree" if row.agreement is not None else ""
    return f"labelled: {row.output}{sure}{votes}"


def _learnt(run: Run, row: Source | Example) -> list[Step]:
    """The students that read a row while they were trained."""
    verbs = {"train": "learnt", "validation": "chosen by it, among others"}
    trained = {key: artifact for key, (_, artifact) in artifacts(run).items() if key.startswith("train:")}
    done = {key: artifact.path for key, artifact in trained.items() if artifact.manifest()}
    if row.side in verbs:
        return [Step(key, f"{verbs[row.side]}: {path}") for key, path in done.items()]
    return [Step(key, f"not read in training: {path}") for key, path in done.items()]
