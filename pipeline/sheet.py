"""A sheet of inputs to label by hand, which becomes the gold test of a recipe that has none.

The teacher's answer is not on it: whoever has read an answer is drawn to it. Which rows are chosen is decided by their
ids, so that a longer sheet holds a shorter one. They are rows that are held out already, as far as there are enough.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.errors import BadInput, NotEnoughData
from ..data.fingerprint import fraction
from ..data.rows import Source
from ..data.sources import SHEET_COLUMNS, guarded, read_sheet
from .context import Run, check_labels
from .examples import read_sources
from .run import artifacts
from .verdict import USUAL_DISCORDANCE, rows_needed


@dataclass(frozen=True)
class Sheet:
    """What is on a sheet now."""

    path: Path
    rows: int
    labelled: int
    added: int
    held_out: int
    """Rows whose root no student learns from."""

    def lines(self, run: Run) -> Iterator[str]:
        """For a terminal: what there is, and what to do with it."""
        needed = rows_needed(USUAL_DISCORDANCE, run.recipe.evaluate.margin)
        yield f"{self.path}: {self.rows} rows, {self.added} of them new, {self.labelled} labelled"
        yield (
            f"  fill in the column `output`; about {needed} rows are needed for a verdict at a margin of "
            f"{run.recipe.evaluate.margin:g} points, fewer where the two differ by more"
        )
        yield f"  then, in {run.loaded.path.name}: task: {{test: {{sheet: {self.path.name}}}}}"
        if self.held_out:
            share = f"{self.held_out} of the rows are of roots that are held out"
            yield f"  and split: {{test: 0.2}}, because {share}; without it other rows of these roots would be learnt"


def write_sheet(run: Run, path: Path, rows: int) -> Sheet:
    """Write a sheet, or add rows to one; what was filled in stays.

    Raises:
        BadInput: the file is no sheet, or a label on it is none of the task's.
        NotEnoughData: there is no input to label.
    """
    known = {row.id: row for row in read_sheet(path)} if path.exists() else {}
    labelled = [row for row in known.values() if row.output is not None]
    check_labels(labelled, run.recipe.labels, str(path))
    candidates = _candidates(run)
    if not candidates and not known:
        raise NotEnoughData("sample: there is no input to put on a sheet; add task.unlabeled, or run `generate` first")
    new = [row for row in candidates if row.id not in known][: max(0, rows - len(known))]
    all_rows = [*known.values(), *new]
    _write(path, all_rows)
    held_out = {row.id for row in candidates if row.side == "test"}
    return Sheet(path, len(all_rows), len(labelled), len(new), sum(row.id in held_out for row in all_rows))


def _candidates(run: Run) -> list[Source]:
    """One row of each root, those held out first, in an order that their ids decide."""
    placed = sorted(_inputs(run), key=lambda row: (row.side != "test", fraction("sheet", row.id)))
    found: dict[str, Source] = {}
    for row in placed:
        found.setdefault(row.root, row)
    return list(found.values())


def _inputs(run: Run) -> Iterable[Source]:
    """The user's own inputs, or those that a teacher wrote."""
    if run.recipe.task.unlabeled is not None:
        return run.unlabeled()
    artifact = artifacts(run)["generate"][1]
    return read_sources(artifact) if artifact.manifest() else ()


def _write(path: Path, rows: Iterable[Source]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SHEET_COLUMNS)
    for row in rows:
        writer.writerow([row.id, guarded(row.input), row.output or ""])
    unfinished = path.with_name(f".{path.name}")
    try:
        unfinished.write_text(text.getvalue(), encoding="utf-8-sig", newline="")  # the mark has spreadsheets read UTF-8
        unfinished.replace(path)
    except OSError as error:
        raise BadInput(f"--to {path}: cannot be written: {error.strerror}; choose another place") from None
