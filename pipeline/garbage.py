"""What lies under a root that no run needs any more.

A run notes which folders its stages have (`<name>/stages.json`), whenever it works on them; what no job's last run
names is left over from recipes as they were before. The ledger is never garbage: it is what was paid for.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from ..data.errors import BadInput
from ..data.storage import Storage

NOTE = "stages.json"

_DAY = 86_400.0
"""Seconds after which a half-written file has no writer any more."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder of a stage, or a file that was never finished."""

    path: str
    bytes: int
    days: float
    """Since it was last written to."""
    why: str


def leftovers(storage: Storage) -> list[Leftover]:
    """What may be removed, by path."""
    used = in_use(storage)
    root = storage.local("")
    found = []
    for folder in sorted(path for path in (root / "stages").glob("*") if path.is_dir()):
        if (path := f"stages/{folder.name}") not in used:
            why = "no job's last run names it" if (folder / "manifest.json").exists() else "unfinished, and in no job"
            found.append(_leftover(path, folder, why))
    for file in sorted(root.rglob(".*")):
        if file.is_file() and not file.name.endswith(".guard") and time.time() - file.stat().st_mtime > _DAY:
            found.append(_leftover(str(file.relative_to(root)), file, "half-written, and left for over a day"))
    return found


def in_use(storage: Storage) -> set[str]:
    """Folders that some job's last run names."""
    return {folder for job in jobs(storage) for folder in json.loads(storage.read(f"{job}/{NOTE}")).values()}


def jobs(storage: Storage) -> list[str]:
    """Names of the jobs that have run on a root.

    Raises:
        BadInput: one has not noted its stages, so that what it needs is not known.
    """
    names = sorted(path.parent.name for path in storage.local("").glob("*/recipe.yaml"))
    for name in names:
        if not storage.local(f"{name}/{NOTE}").exists():
            raise BadInput(f"{storage.local(name)}: has no {NOTE}, so what it needs is not known; run that job again")
    return names


def _leftover(path: str, place: Path, why: str) -> Leftover:
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    newest = max((stat.st_mtime for stat in stats), default=place.stat().st_mtime)
    return Leftover(path, sum(stat.st_size for stat in stats), max(0.0, (time.time() - newest) / _DAY), why)
