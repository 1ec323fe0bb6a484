"""What lies under a root that no run needs any more.

What no job's last run names is left over from recipes as they were before. The ledger's answers are never garbage: they
are what was paid for.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from functools import partial

from ..data.errors import BadInput
from ..data.storage import Storage, holds
from .changes import learnt_from
from .notes import NOTE, jobs, read_note

_DAY = 86_400.0
"""Seconds; after one a half-written file has no writer any more."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder of a stage, or something that was never finished."""

    path: str
    bytes: int
    days: float
    """Since it was last written to."""
    why: str


def leftovers(storage: Storage) -> list[Leftover]:
    """What may be removed."""
    folders = storage.folders("stages")
    used = in_use(storage)  # read after the folders: a run notes a folder before it makes it
    found = []
    for path in folders:
        if path not in used:
            finished = holds(storage, f"{path}/manifest.json")
            why = "no job's last run names it" if finished else "unfinished, and in no job"
            found.append(_leftover(storage, path, why))
    for path in storage.leftovers():
        with contextlib.suppress(FileNotFoundError):  # its writer is done with it
            left = _leftover(storage, path, "half-written or half-removed, and left for over a day")
            found += [left] if left.days > 1 else []
    found += [
        _leftover(storage, path, "the end of a killed writer's file, which is no whole answer")
        for path, _ in storage.list("ledger/torn")
    ]
    return found


def in_use(storage: Storage) -> set[str]:
    """Folders that some job's last run names, and the rows that its students were trained on.

    Raises:
        BadInput: one has not noted its stages, so that what it needs is not known.
    """
    used: set[str] = set()
    for job in jobs(storage):
        note = read_note(storage, job)
        if note is None:
            where = storage.place(job)
            raise BadInput(f"{where}: has no {NOTE}, so what it needs is not known; run that job again")
        used.update(note.stages.values())
        used.update(path for path in map(partial(learnt_from, storage), note.stages.values()) if path)
    return used


def _leftover(storage: Storage, path: str, why: str) -> Leftover:
    size, newest = storage.measure(path)
    return Leftover(path, size, max(0.0, (time.time() - newest) / _DAY), why)
