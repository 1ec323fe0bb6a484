"""Stage: the judged student learns parts of the rows, and a few rows by heart, to tell what holds it back.

The parts are nested, so that they differ in how many rows they have and in nothing else. Each is learnt as the recipe
says, though not in so few steps that it is these which are missing: on the demo, 566 rows in the recipe's 5 epochs have
91.1 right after 45 steps and 95.6 after 306, and all 4,531 rows 97.2 after 355. Tokens are those of all rows, which
have words before anybody labels them, so that every part is learnt by a student of the same shape.

The probe is a few rows, learnt without dropout, noise and soft labels for as long as it takes. A student that cannot
have these right is too small, or does not see what decides. Of 256 messages of banking77 with 77 labels a student of
0.3M parameters has 77.0 right after 80 steps, 98.0 after 160 and 100 after 304; one of 2M has them all after 80.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.artifact import Artifact
from ..data.fingerprint import fraction
from ..data.rows import Example
from ..students.config import UNTRAINED, StudentRecipe
from .context import Run
from .examples import read_examples, sample_rows
from .outcome import Outcome
from .train import all_rows, clear, train_one

if TYPE_CHECKING:
    from ..students.weights import TrainingRows

VERSION = 2

PARTS = (8, 4, 2)
"""An eighth of the rows, a quarter, a half; all of them the student has learnt already."""

FEWEST = 32
"""Rows under which a part says more of luck than of rows."""

PROBE = 256
"""Rows that are learnt by heart."""

STEPS = 300
"""Optimiser steps at least: of the probe, and of a part unless all rows get fewer."""


def curve(run: Run, artifact: Artifact, curated: Artifact) -> Outcome:
    """Train every part into `rows-<n>`, and the probe into `probe`; what is finished is not trained again."""
    run.rest()
    there = sum(1 for _ in read_examples(curated, "train"))
    sizes = part_sizes(there)
    parts = [_learn_part(run, artifact, curated, there, size) for size in sizes]
    probe = _learn_by_heart(run, artifact, curated)
    clear(artifact)
    artifact.storage.delete(f"{artifact.path}/{UNTRAINED}")  # that of the train stage is the one that counts
    return Outcome(
        summary={
            "rows": there,
            "validation_rows": sum(1 for _ in read_examples(curated, "validation")),
            "parts": parts,
            "skipped": [size for share in PARTS if (size := there // share) not in sizes],
            "probe": probe,
        }
    )


def _learn_part(run: Run, artifact: Artifact, curated: Artifact, there: int, size: int) -> dict[str, Any]:
    """The judged student on the first rows of the order, of all that are there."""
    name, student = _judged(run)
    reads, folder = partial(_part, curated.fingerprint, size), f"rows-{size}"
    learner = long_enough(student, size, min(STEPS, steps(student, there)))
    seed = student.train.seeds[0]
    result = train_one(run, learner, reads, f"{artifact.path}/{folder}", seed, f"learn {size} rows")
    run.reporter.say(f"  {size} rows: validation {result['validation_agreement']:.1f}, {result['seconds']:.0f} s")
    return {**result, "rows": size, "folder": folder, "column": f"{name}/{folder}"}


def _learn_by_heart(run: Run, artifact: Artifact, curated: Artifact) -> dict[str, Any]:
    """The share of few rows that the student has right when it has seen nothing else."""
    _, student = _judged(run)
    few = len(sample_rows(read_examples(curated, "train"), PROBE))
    reads, seed = partial(_few, curated.fingerprint), student.train.seeds[0]
    result = train_one(run, unhindered(student, few), reads, f"{artifact.path}/probe", seed, "learn by heart")
    fitted = result["validation_agreement"]
    run.reporter.say(f"  {few} rows by heart: {fitted:.1f}, {result['seconds']:.0f} s")
    return {"rows": few, "fitted": fitted, "steps": result["steps"], "seconds": result["seconds"]}


def _judged(run: Run) -> tuple[str, StudentRecipe]:
    name = run.recipe.judged_student
    assert name is not None, "the stage is there where a student is judged"
    student = run.recipe.students[name]
    return name, student.model_copy(update={"train": student.train.model_copy(update={"report_to": []})})


def _part(curated: str, size: int, run: Run) -> TrainingRows:
    """The first rows of the order, so many."""
    rows = all_rows(curated, run)
    order = part_order(rows.train())
    return replace(rows, train=lambda: (row for row in rows.train() if order[row.id] < size), vocabulary=rows.train)


def _few(curated: str, run: Run) -> TrainingRows:
    """The rows that are learnt by heart, on both sides."""
    rows = all_rows(curated, run)
    few = sample_rows(rows.train(), PROBE)
    return replace(rows, train=partial(iter, few), validation=partial(iter, few), vocabulary=rows.train)


def part_sizes(rows: int) -> list[int]:
    """Rows of the parts that are worth training on, fewest first."""
    return [size for share in PARTS if (size := rows // share) >= FEWEST]


def part_order(rows: Iterable[Example]) -> dict[str, int]:
    """Place of every row, by id: a part is the rows whose place is below its size, so that it holds all smaller ones.

    Rows of one root of the user's stand together, because more of his rows would be of other roots. More rows of a
    teacher that writes would come from the same seeds, so that theirs do not.
    """
    keys = [(fraction("curve", row.id if row.origin == "generated" else row.root), row.id) for row in rows]
    return {row: place for place, (_, row) in enumerate(sorted(keys))}


def unhindered(student: StudentRecipe, rows: int) -> StudentRecipe:
    """The same student, learning so few rows by heart."""
    changes = {"labels": "hard", "dropout": 0.0, "noise": 0.0, "patience": None}
    free = student.model_copy(update={"train": student.train.model_copy(update=changes)})
    return long_enough(free, rows, STEPS)


def long_enough(student: StudentRecipe, rows: int, least: int) -> StudentRecipe:
    """The same student with as many epochs as make so many steps, or its own if they are more."""
    epochs = max(student.train.epochs, math.ceil(least / _steps_an_epoch(student, rows)))
    return student.model_copy(update={"train": student.train.model_copy(update={"epochs": epochs})})


def steps(student: StudentRecipe, rows: int) -> int:
    """Optimiser steps of a training."""
    return student.train.epochs * _steps_an_epoch(student, rows)


def _steps_an_epoch(student: StudentRecipe, rows: int) -> int:
    return math.ceil(rows / student.train.batch)
