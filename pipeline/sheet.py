"""A sheet of inputs to label by hand, which becomes the gold test of a recipe that has none.

The teacher's answer is not on it: whoever has read an answer is drawn to it. First comes one row of each root, then a
second of each; roots stand in the order in which they are held out, whatever the shares of the sides are. So a longer
sheet begins with a shorter one, and its first rows are of roots that no student learns from.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path

from ..data.errors import BadInput, NotEnoughData
from ..data.rows import Source
from ..data.sheet import COLUMNS, LONGEST, delimiter_of, guarded, name_on_sheet
from ..data.sides import DEFAULT_TEST, place_of
from ..data.sources import read_sheet
from .context import Run, check_labels
from .examples import read_sources
from .run import artifacts
from .scorers import check_references
from .verdict import USUAL_DISCORDANCE, rows_needed

_BARE = re.compile(r"[\w/.-]+")
"""What YAML reads as text without quotes."""


@dataclass(frozen=True)
class Sheet:
    """What is on a sheet now."""

    path: Path
    rows: int
    labelled: int
    added: int
    asked: int
    roots: int
    exposed: int
    """Rows whose roots have other rows, from which students learn."""
    needed: int
    """Rows with which a student as good as its teacher passes four times in five."""

    def lines(self, run: Run) -> Iterator[str]:
        """For a terminal: what there is, and what to do with it."""
        yield f"{self.path}: {self.rows} rows, {self.added} of them new, {self.labelled} labelled"
        if self.rows < self.asked:
            yield f"  {self.asked} were asked for, and there are no more"
        yield (
            f"  fill in the column `output`; about {self.needed} rows are needed for a verdict at a margin of "
            f"{run.recipe.evaluate.margin:g} points if the two differ on {USUAL_DISCORDANCE:.0%} of them"
        )
        yield f"  {_next_step(run, self.path)}"
        if shared := _shared(run):
            yield from self._kinship(shared, run.recipe.split.test)

    def _kinship(self, shared: str, test: float | None) -> Iterator[str]:
        """What rows have to do with each other, and with those that are learnt."""
        if test is None:
            yield f"  and set split: {{test: {DEFAULT_TEST}}}, without which other rows of the same {shared} are learnt"
        if self.roots < self.rows:
            yield f"  rows of one {shared} are not independent: the verdict counts {self.roots} roots"
        if self.exposed:
            yield f"  {self.exposed} rows are more than is held out: other rows of their {shared} are learnt"


def write_sheet(run: Run, path: Path, rows: int) -> Sheet:
    """Write a sheet, or add rows at the end of one; what is there stays as it is.

    Raises:
        BadInput: the file is no sheet, cannot be written, or what is filled in can be no answer.
        NotEnoughData: there is no input to label.
    """
    if path.suffix.lower() != ".csv":
        raise BadInput(f"--to {path}: a sheet is a CSV file; let its name end in .csv")
    known = read_sheet(path) if path.exists() else []
    check_labels(known, run.recipe.labels, str(path))
    check_references(known, run.recipe, str(path))
    new = _choose(run, {row.id for row in known}, rows - len(known)) if rows > len(known) else []
    if not known and not new:
        raise NotEnoughData("sample: there is no input to put on a sheet; every row of the input was empty")
    try:
        _append(path, new)
    except OSError as error:
        raise BadInput(f"--to {path}: cannot be written: {error.strerror}; choose another place") from None
    return _counted(run, path, known, new, rows)


def _counted(run: Run, path: Path, known: Sequence[Source], new: Sequence[Source], asked: int) -> Sheet:
    every = [*known, *new]
    share = DEFAULT_TEST if run.recipe.split.test is None else run.recipe.split.test
    return Sheet(
        path,
        rows=len(every),
        labelled=sum(row.output is not None for row in known),
        added=len(new),
        asked=asked,
        roots=len({row.root or place for place, row in enumerate(every)}),
        exposed=sum(bool(row.root) and place_of(row.root) >= share for row in every) if _shared(run) else 0,
        needed=rows_needed(USUAL_DISCORDANCE, run.recipe.evaluate.margin),
    )


def _choose(run: Run, known: Collection[str], count: int) -> list[Source]:
    """The next rows for a sheet; texts are not held in memory but for these."""
    ids: dict[str, set[str]] = defaultdict(set)
    for row in _inputs(run):
        ids[row.root].add(row.id)
    turns = (
        (turn, place_of(root), name)
        for root, names in ids.items()
        for turn, name in enumerate(sorted(names))
        if name not in known
    )
    wanted = [name for _, _, name in nsmallest(count, turns)]
    chosen = set(wanted)
    rows = {row.id: row for row in _inputs(run) if row.id in chosen}
    return [rows[name] for name in wanted]


def _inputs(run: Run) -> Iterable[Source]:
    """The user's own inputs, or those that a teacher wrote, as far as a cell holds them."""
    sources = run.unlabeled() if run.recipe.task.unlabeled is not None else _written(run)
    return (row for row in sources if len(guarded(row.input)) <= LONGEST)


def _written(run: Run) -> Iterable[Source]:
    artifact = artifacts(run)["generate"][1]
    if artifact.manifest() is None:
        raise NotEnoughData(
            f"sample: the teacher has not written its inputs yet; `understudy generate {run.loaded.path}` has it do so"
        )
    return read_sources(artifact)


def _append(path: Path, rows: Sequence[Source]) -> None:
    """Add rows below what is there, in the columns and with the delimiter that the file has by now."""
    if not rows:
        return
    there = path.read_bytes() if path.exists() else f"{','.join(COLUMNS)}\r\n".encode("utf-8-sig")
    header = there.decode("utf-8-sig").splitlines()[0]
    delimiter = delimiter_of(header)
    text = io.StringIO()
    columns = next(csv.reader([header], delimiter=delimiter))
    writer = csv.DictWriter(text, columns, restval="", delimiter=delimiter)  # ends lines in \r\n, and so quotes both
    for row in rows:
        writer.writerow(dict(zip(COLUMNS, (name_on_sheet(row.id, row.root), guarded(row.input), ""), strict=True)))
    gap = b"" if there.endswith((b"\n", b"\r")) else b"\n"
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(there + gap + text.getvalue().encode())
    unfinished.replace(path)


def _next_step(run: Run, path: Path) -> str:
    """How the sheet becomes gold, which depends on the gold that the recipe has."""
    tests, recipe = run.recipe.task.test, run.loaded.path.name
    whole = path.resolve()
    for name, file in tests.items():
        if (run.folder / file).resolve() == whole:
            return f"it is task.test.{name} of {recipe}: the next run counts what is filled in"
    shown = str(whole.relative_to(run.folder) if whole.is_relative_to(run.folder) else whole)
    shown = shown if _BARE.fullmatch(shown) else json.dumps(shown, ensure_ascii=False)
    if tests:
        first = f"the verdict is about the first there, which is '{next(iter(tests))}' now"
        return f"then add `sheet: {shown}` to task.test in {recipe}; {first}"
    return f"then add `test: {{sheet: {shown}}}` to `task` in {recipe}"


def _shared(run: Run) -> str | None:
    """What several rows may have in common, so that one tells of another."""
    unlabeled = run.recipe.task.unlabeled
    if unlabeled is not None:
        return unlabeled.group
    return "seed" if run.recipe.task.seeds else "document"
