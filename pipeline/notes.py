"""What a root knows of its jobs beside what they wrote: where each recipe stands, and which folders its stages have.

A run notes it before it makes a folder, so that `gc` can tell what is needed, and `ledger forget` which inputs to look
through. It is about places, which are in no fingerprint and in nothing that is published.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..data.storage import Storage, holds

NOTE = "stages.json"


@dataclass(frozen=True)
class Note:
    """Of the last run of a job."""

    recipe: Path
    set: dict[str, Any]
    """What the command line changed in the recipe."""
    stages: dict[str, str]
    """The folder of each, done or not."""
    finished: dict[str, str] = field(default_factory=dict)
    """The same of the last run that came to its end: what the next one is compared with."""


def read_note(storage: Storage, job: str) -> Note | None:
    """None where the job has none, or one that was not written by this version."""
    try:
        note = json.loads(storage.read(f"{job}/{NOTE}"))
        return Note(Path(note["recipe"]), note["set"], note["stages"], note.get("finished", {}))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_note(storage: Storage, job: str, note: Note) -> None:
    content = {**asdict(note), "recipe": str(note.recipe)}
    storage.replace(f"{job}/{NOTE}", json.dumps(content, indent=2, ensure_ascii=False).encode())


def jobs(storage: Storage) -> list[str]:
    """Names of the jobs that have run on a root."""
    return [
        job for job in storage.folders("") if any(holds(storage, f"{job}/{name}") for name in ("recipe.yaml", NOTE))
    ]
