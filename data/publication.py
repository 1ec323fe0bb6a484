"""Something published: named files under one address, seen whole or not at all, and the two kinds of place for it.

A `Place` takes a set of files and leaves a state that a reader can name: a commit with a tag on a hub (`hub.py`), a
folder with a manifest in a bucket or on a disk (`bucket.py`). Publishing the same again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Protocol

Files = Mapping[str, bytes | Path]
"""Content by path: bytes, or where it lies on this disk."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a place says of what was published."""

    where: str
    """An address that a person can open."""
    revision: str
    """The commit, or the folder, that holds exactly these files."""
    sent: int
    """Files that were not there before."""
    kept: int
    """Files that were."""


class Place(Protocol):
    """Where something is published."""

    name: str

    def publish(self, files: Files, tag: str, note: str) -> Published:
        """Make these the files under the tag, all at once; sends only what is not there.

        Args:
            tag: names this state for good.
            note: one line for people who read the history.

        Raises:
            PublishFailed: nothing of it can be seen, or, said so, all of it can; run again.
        """
        ...


def size_of(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def content_of(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def sha256_of(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return sha256(content).hexdigest()
    with open(content, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
