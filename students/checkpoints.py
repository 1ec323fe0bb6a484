"""Checkpoints that a training may go on from: those of which everything is there.

A killed process or a full disk may leave any of a checkpoint's files out, or the end of one; so the last thing that is
written into it says how long each of the others is.
"""

from __future__ import annotations

import json
from pathlib import Path

_MARK = "whole"


def checkpoint_of(work: Path, step: int) -> Path:
    """The folder of the checkpoint after so many steps."""
    return work / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """Steps that a checkpoint is after."""
    return int(checkpoint.name.rpartition("-")[2])


def mark_whole(checkpoint: Path) -> None:
    """Say that everything of it is written."""
    (checkpoint / _MARK).write_text(json.dumps(_sizes(checkpoint)))


def last_checkpoint(work: Path) -> Path | None:
    """The newest of which every file is as long as it was written."""
    sound = [mark.parent for mark in work.glob(f"checkpoint-*/{_MARK}") if _is_whole(mark)]
    return max(sound, key=step_of, default=None)


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(checkpoint.iterdir()) if file.name != _MARK}


def _is_whole(mark: Path) -> bool:
    try:
        return bool(json.loads(mark.read_text()) == _sizes(mark.parent))
    except ValueError:  # the mark itself was cut short
        return False
