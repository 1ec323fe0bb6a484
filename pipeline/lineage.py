"""Where a row comes from and what became of it: from its root to the students that learnt it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..data.artifact import Artifact
from ..data.duplicates import fold
from ..data.errors import BadInput
from ..data.rows import Answer, Source
from ..data.shingles import shingles, similarity
from .context import Run
from .examples import read_examples, read_sources
from .generate import passages_of, read_seeds
from .run import artifacts

_WRITE_ROWS = ("generate", "label", "curate")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to a row."""

    stage: str
    what: str


def finished(run: Run) -> dict[str, Artifact]:
    """The stages that write rows and are done, in order.

    Raises:
        BadInput: none is.
    """
    placed = artifacts(run)
    done = {key: placed[key][1] for key in _WRITE_ROWS if key in placed and placed[key][1].manifest()}
    if not done:
        raise BadInput(f"{run.loaded.path}: no rows are written yet; `understudy label {run.loaded.path}` has them be")
    return done


@dataclass
class Overview:
    """What the rows of one stage are."""

    stage: str
    counts: dict[str, Any]
    by: dict[str, Counter[str]]
    """Rows by side, origin, strategy and output, of the kinds that there are several of."""
    rejected: dict[str, tuple[int, str]]
    """By reason: how many, and one piece of evidence."""


def overview(stage: str, artifact: Artifact, labels: bool) -> Overview:
    """Count the rows of a stage."""
    manifest = artifact.manifest()
    assert manifest is not None
    by: dict[str, Counter[str]] = {name: Counter() for name in ("side", "origin", "strategy", "output")}
    for row in read_sources(artifact):
        by["side"][row.side] += 1
        by["origin"][row.origin] += 1
        by["strategy"][row.strategy] += bool(row.strategy)
        by["output"][row.output or ""] += labels
    reasons: dict[str, tuple[int, str]] = {}
    for lost in artifact.rows("rejected"):
        count, evidence = reasons.get(lost["reason"], (0, lost["evidence"]))
        reasons[lost["reason"]] = count + 1, evidence
    return Overview(stage, manifest["rows"], {name: +counted for name, counted in by.items() if +counted}, reasons)


def rejects(run: Run, reason: str) -> Iterator[dict[str, Any]]:
    """Rejected rows of every stage, with the stage.

    Raises:
        BadInput: nothing was rejected for this.
    """
    known: set[str] = set()
    found = False
    for stage, artifact in finished(run).items():
        for row in artifact.rows("rejected"):
            known.add(row["reason"])
            if row["reason"] == reason:
                found = True
                yield {"stage": stage, **row}
    if not found:
        raise BadInput(f"--rejected {reason}: no row was; rows were for: {', '.join(sorted(known)) or 'nothing'}")


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
        raise BadInput(f"--row {prefix}: {found} an id that begins so; ids stand in the shards and in --rejected")
    return str(ids.pop())


def lineage(run: Run, prefix: str) -> list[Step]:
    """What happened to a row, in order."""
    name = row_id_of(run, prefix)
    steps: list[Step] = []
    source: Source | None = None
    for stage, artifact in finished(run).items():
        for lost in artifact.rows("rejected"):
            if lost["id"] == name:
                steps.append(Step(stage, f"rejected: {lost['reason']} ({lost['evidence']})"))
        for lost in artifact.rows("failed"):
            if lost["id"] == name:
                steps.append(Step(stage, f"failed: {lost['class']} ({lost['message']})"))
        for kept in read_sources(artifact):
            if kept.id == name:
                steps += _root(run, kept) if source is None else []
                source = kept
                steps += list(_kept(run, stage, artifact, kept))
    return steps


def _root(run: Run, row: Source) -> list[Step]:
    """The seed, document or input that a row descends from."""
    said = f"{row.root}, on the side {row.side}"
    if row.origin == "unlabeled":
        return [Step("root", f"{said}: an input of {run.recipe.task.unlabeled and run.recipe.task.unlabeled.path}")]
    if seed := next((seed for seed in read_seeds(run) if seed.root == row.root), None):
        return [Step("root", f"{said}, a seed: {seed.input[:200]}")]
    passages = chain.from_iterable(passages_of(run).values())
    if passage := next((passage for passage in passages if passage.root == row.root), None):
        return [Step("root", f"{said}, a document that begins: {passage.text[:200]}")]
    return [Step("root", said)]


def _kept(run: Run, stage: str, artifact: Artifact, row: Source) -> Iterator[Step]:
    if stage == "generate":
        wanted = f" for '{row.output}'" if row.output else ""
        yield Step(stage, f"written by {row.strategy}{wanted}: {row.input}")
    elif stage == "label":
        for draw, answer in enumerate(_answers(run, row)):
            yield Step(stage, f"answer {draw + 1} of {run.recipe.teacher_of('label')}: {answer.text[:200]}")
        example = next(one for one in read_examples(artifact, row.side) if one.id == row.id)
        sure = f", probability {example.probs[example.output]:.3f}" if example.probs else ""
        votes = f", {example.agreement:.0%} of the answers agree" if example.agreement is not None else ""
        yield Step(stage, f"labelled: {example.output}{sure}{votes}")
    else:
        yield Step(stage, f"kept, on the side {row.side}")
        for key, (_, trained) in artifacts(run).items():
            if key.startswith("train:") and trained.manifest() and row.side in ("train", "validation"):
                verb = "learnt" if row.side == "train" else "chosen by it, among others"
                yield Step(key, f"{verb}: {trained.path}")


def _answers(run: Run, row: Source) -> list[Answer]:
    """What the labelling teacher said to a row, as far as the ledger has it; nobody is asked."""
    labeler = run.labeler()
    teacher = run.teacher(run.recipe.teacher_of("label"))
    teacher.asking = False

    async def read() -> list[Answer]:
        draws = range(labeler.samples + labeler.retries)
        return [said for draw in draws if isinstance(said := await labeler.ask(row, draw), Answer)]

    try:
        return asyncio.run(read())
    finally:
        teacher.asking = True


def near(run: Run, text: str, least: float) -> list[tuple[float, str, str, str]]:
    """Rows of the label stage that are like a text, or like the row with that id, the likest first.

    Returns:
        Similarity (Jaccard, of words and pairs of words, as curate's), id, side and input.
    """
    rows = list(read_sources(list(finished(run).values())[-1]))
    same = [row for row in rows if row.id == text]
    wanted = shingles(fold(same[0].input if same else text))
    likeness = ((similarity(wanted, shingles(fold(row.input))), row.id, row.side, row.input) for row in rows)
    return sorted((one for one in likeness if one[0] >= least and one[1] != text), reverse=True)
