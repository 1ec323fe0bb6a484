"""Stage: which labelled rows a student may learn from.

Rows are looked at side by side, test first, so a training row that repeats one held out is the one that is dropped:
nothing that is judged on is learnt from. What costs nothing comes first: filters, agreement, leaks, duplicates. A judge
is asked about what is left. What makes rows easier, agreement and the judge, leaves the test side alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..data.artifact import Artifact
from ..data.duplicates import Duplicates
from ..data.errors import NotEnoughData
from ..data.filters import built
from ..data.rows import Example, Failed, Rejected, Side
from ..data.sources import expand
from .context import Run
from .examples import ExampleWriter, read_examples
from .executor import ask_all
from .leaks import Leaks
from .meaning import Meaning
from .outcome import Outcome, refuse_too_many_failed
from .rubric import SCORES, AskRubric

VERSION = 5

_ORDER: tuple[Side, ...] = ("test", "validation", "calibration", "train")

_HELD_OUT = "held out"
"""What the test side is called beside tests that have names."""

_BLOCK = 1024
"""Rows that are decided on together: for speed only."""


def curate(run: Run, artifact: Artifact, labelled: Artifact) -> Outcome:
    """Drop what may not be learnt from, with the reason; refuse a training side that is empty."""
    sieve = Sieve(run)
    writer = ExampleWriter(artifact)
    sides: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    manifest = labelled.manifest()
    assert manifest is not None

    def keep(row: Example | Rejected | Failed) -> None:
        writer.add(row)
        if isinstance(row, Example):
            sides[row.side] += 1
            outputs[row.output] += 1

    sound: set[str] = set()
    """Ids of rows for the judge."""
    with run.reporter.track("curate", manifest["rows"]["accepted"]) as tracker:
        for side in _ORDER:
            for decided in sieve.decisions(read_examples(labelled, side)):
                tracker.advance()
                if run.recipe.curate.judge and side != "test" and isinstance(decided, Example):
                    sound.add(decided.id)
                else:
                    keep(decided)

    def left() -> Iterator[Example]:
        return (row for side in _ORDER for row in read_examples(labelled, side) if row.id in sound)

    judged = _judge(run, left, len(sound), keep) if sound else {}
    refuse_too_many_failed("curate", writer.counts, run.recipe.max_failed)
    if sides["train"] == 0:
        raise NotEnoughData(f"curate: no row is left to train on ({writer.counts}); add inputs, or loosen curate")
    mix = dict(outputs.most_common(200)) if run.recipe.labels else {}
    summary = {"sides": dict(sides), "labels": mix, **sieve.summary(), **judged}
    return Outcome(writer.close(), writer.counts, summary)


def refuse_what_cannot_be_done(run: Run) -> None:
    """Read what curation needs, before anything is paid for.

    Raises:
        BadInput: a filter, a benchmark or a model cannot be had.
    """
    stage = run.recipe.curate
    built(stage.filters, run.folder)
    for _ in _benchmarks(run):
        pass
    if stage.meaning is not None:
        Meaning(stage.meaning, run.folder)
    if stage.judge is not None:
        AskRubric().prompt(run, Example("", "text", "text", "", "train", "unlabeled"))


class Sieve:
    """All that decides on a row without asking anybody."""

    def __init__(self, run: Run) -> None:
        stage = run.recipe.curate
        self._checks = built(stage.filters, run.folder)
        self._least = stage.agreement
        self._samples = run.recipe.label.samples
        self._known = Duplicates(stage.duplicates)
        self._meaning = Meaning(stage.meaning, run.folder) if stage.meaning else None
        self._leaks = Leaks() if stage.decontaminate else None
        for name, rows in run.gold().items():
            if self._meaning is not None:
                self._meaning.seen([f"gold/{name}/{row.id}" for row in rows], [row.input for row in rows])
            self._known.decide([(f"gold/{name}/{row.id}", row.input) for row in rows])
            for judged in rows:
                self._know(f"gold/{name}", judged.input)
        for name, text in _benchmarks(run):
            self._know(name, text)

    def decisions(self, rows: Iterator[Example]) -> Iterator[Example | Rejected]:
        """What comes of each row of one side, in order."""
        while block := list(islice(rows, _BLOCK)):
            decided = self._first_of_kind([self._unsound(row) or row for row in block])
            if self._meaning is not None:
                decided = self._compared(self._meaning, decided)
            yield from decided

    def _unsound(self, row: Example) -> Rejected | None:
        """What speaks against a row by itself, or beside tests."""
        for reason, check in self._checks.items():
            if evidence := check(row):
                return Rejected(row.id, reason, evidence)
        if row.side == "test":
            return None
        if self._least is not None and row.agreement is not None and row.agreement < self._least:
            votes = f"{row.agreement * self._samples:.0f} of {self._samples}"
            evidence = f"{votes} said '{row.output[:80]}' to '{row.input[:80]}'"
            return Rejected(row.id, "low_agreement", evidence)
        return self._leaks.find(row) if self._leaks else None

    def _first_of_kind(self, decided: list[Example | Rejected]) -> list[Example | Rejected]:
        """The same, without rows that repeat an earlier one."""
        named = [(f"{row.side}/{row.id}", row.input) for row in decided if isinstance(row, Example)]
        copies = iter(self._known.decide(named))
        return [self._kept(row, next(copies)) if isinstance(row, Example) else row for row in decided]

    def _kept(self, row: Example, copy: tuple[str, str] | None) -> Example | Rejected:
        """The row where it is no copy; of the test side, it is a test from here on."""
        if copy is not None:
            kind, other = copy
            return Rejected(row.id, _reason(kind, row, other), f"of {other}: {row.input[:160]}")
        if row.side == "test":
            self._know(_HELD_OUT, row.input)
        return row

    def _compared(self, meaning: Meaning, decided: list[Example | Rejected]) -> list[Example | Rejected]:
        """The same, without rows that mean what an earlier one means."""
        rows = [row for row in decided if isinstance(row, Example)]
        copies = meaning.seen([f"{row.side}/{row.id}" for row in rows], [row.input for row in rows])
        rejected = {
            row.id: Rejected(row.id, _reason("meaning", row, copy[0]), f"{copy[1]:.3f} to {copy[0]}: {row.input[:160]}")
            for row, copy in zip(rows, copies, strict=True)
            if copy is not None
        }
        return [rejected.get(row.id, row) for row in decided]

    def summary(self) -> dict[str, Any]:
        """What was compared with tests, and found there."""
        return {"contamination": self._leaks.summary() if self._leaks else None}

    def _know(self, test: str, text: str) -> None:
        if self._leaks:
            self._leaks.know(test, text)


def _reason(kind: str, row: Example, other: str) -> str:
    """What a copy is rejected for: whether what it repeats is on its own side is told."""
    side = other.partition("/")[0]
    return f"{kind}_duplicate" if side == row.side else f"{kind}_duplicate_of_{side}"


def _benchmarks(run: Run) -> Iterator[tuple[str, str]]:
    """Texts of others' tests, each with the file it is from; files number their rows each for themselves."""
    stage, key = run.recipe.curate.decontaminate, "curate.decontaminate.files"
    for path in stage.files if stage else ():
        for file in expand(path, run.folder, key):
            for row in run.pairs(str(file), key, answered=False):
                yield os.path.relpath(file, run.folder), row.input


def _judge(run: Run, rows: Any, count: int, keep: Any) -> dict[str, Any]:
    """Ask the judge about rows and hand on what it leaves; returns how often each score was given."""
    judge = run.recipe.curate.judge
    assert judge is not None
    scores: Counter[int] = Counter()

    def decide(row: Example, said: int | Rejected | Failed) -> None:
        if not isinstance(said, int):
            keep(said)
            return
        scores[said] += 1
        low = said < judge.minimum
        keep(Rejected(row.id, "judged_low", f"{said} of 5: '{row.output[:80]}' for '{row.input[:80]}'") if low else row)

    ask_all(run, AskRubric(), rows, count, decide, title="curate: judge")
    same = run.teacher_identity(judge.teacher) == run.teacher_identity(run.recipe.teacher_of("label"))
    if same:
        run.reporter.say("  the judge is the labelling teacher itself: it is lenient with what it would say again")
    return {
        "judge": {
            "teacher": f"{judge.teacher}: {run.teacher(judge.teacher).name}",
            "is_the_teacher": same,
            "scores": {score: scores[int(score)] for score in SCORES},
        }
    }
