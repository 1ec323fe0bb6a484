"""What a run's rows are: counted, a few of them, those that were rejected, and those that are like a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..data.artifact import Artifact
from ..data.duplicates import fold
from ..data.errors import BadInput
from ..data.rows import Source
from ..data.shingles import shingles, similarity
from .context import Run
from .examples import read_sources, sample_rows
from .run import artifacts

_WRITE_ROWS = ("generate", "label", "curate")


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


@dataclass(frozen=True)
class Overview:
    """What the rows of one stage are."""

    stage: str
    path: str
    counts: dict[str, Any]
    by: dict[str, dict[str, int]]
    """Rows by side, origin, strategy and output, of the kinds that there are; the commonest first."""
    rejected: dict[str, tuple[int, str]]
    """By reason: how many, and one piece of evidence."""


def overview(run: Run, stage: str, artifact: Artifact) -> Overview:
    """Count the rows of a stage."""
    manifest = artifact.manifest()
    assert manifest is not None
    by: dict[str, Counter[str]] = {name: Counter() for name in ("side", "origin", "strategy", "output")}
    for row in _read(run, stage, artifact):
        by["side"][row.side] += 1
        by["origin"][row.origin] += 1
        by["strategy"][row.strategy] += bool(row.strategy)
        by["output"][row.output or ""] += bool(run.recipe.labels)
    reasons: dict[str, tuple[int, str]] = {}
    for lost in artifact.rows("rejected"):
        count, evidence = reasons.get(lost["reason"], (0, lost["evidence"]))
        reasons[lost["reason"]] = count + 1, evidence
    counted = {name: dict((+values).most_common()) for name, values in by.items() if +values}
    return Overview(stage, artifact.path, manifest["rows"], counted, reasons)


def some_rows(run: Run, most: int) -> list[Source]:
    """A sample of the rows of the last stage that is done: those whose ids sort first."""
    *_, (stage, artifact) = finished(run).items()
    return sample_rows(_read(run, stage, artifact), most)


def rejects(run: Run, reason: str) -> Iterator[dict[str, Any]]:
    """Rejected rows of every stage, with the stage.

    Raises:
        BadInput: nothing was rejected for this.
    """
    known: set[str] = set()
    for stage, artifact in finished(run).items():
        for row in artifact.rows("rejected"):
            known.add(row["reason"])
            if row["reason"] == reason:
                yield {"stage": stage, **row}
    if reason not in known:
        raise BadInput(f"--rejected {reason}: no row was; rows were for: {', '.join(sorted(known)) or 'nothing'}")


@dataclass(frozen=True, order=True)
class Alike:
    """A row that is like another text."""

    similarity: float
    """Jaccard's, of words and pairs of words, as curate has it."""
    id: str
    side: str
    input: str
    became: str
    """What curate rejected it for; empty where it is kept, or not decided on."""


def near(run: Run, text: str, least: float) -> list[Alike]:
    """Rows that are like a text, or like the row with that id, the likest first.

    Looked through is what curate reads, because copies are just what it drops.
    """
    done = finished(run)
    stage = "label" if "label" in done else "generate"
    same = next((row for row in _read(run, stage, done[stage]) if row.id == text), None)
    wanted = shingles(fold(same.input if same else text))
    rejected = done["curate"].rows("rejected") if "curate" in done else ()
    became = {row["id"]: row["reason"] for row in rejected}
    found = []
    for row in _read(run, stage, done[stage]):
        alike = similarity(wanted, shingles(fold(row.input)))
        if alike >= least and row.id != text:
            found.append(Alike(alike, row.id, row.side, row.input, became.get(row.id, "")))
    return sorted(found, reverse=True)


def _read(run: Run, stage: str, artifact: Artifact) -> Iterator[Source]:
    """The rows of a stage; how far the reading is, is shown."""
    manifest = artifact.manifest()
    assert manifest is not None
    with run.reporter.track(f"read {stage}", manifest["rows"]["accepted"]) as tracker:
        for row in read_sources(artifact):
            tracker.advance()
            yield row
