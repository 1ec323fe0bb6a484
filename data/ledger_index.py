"""Where each answer of the ledger stands: key to segment and offset, in SQLite beside the segments."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UnderstudyError


@dataclass(frozen=True, slots=True)
class Place:
    """A record in a segment."""

    segment: str
    offset: int
    length: int
    logprobs: int


_NOT_SERVED = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
"""What SQLite says where the disk, not the file, is at fault."""


class StaleIndex(UnderstudyError):
    """The index is damaged, or says what the segments do not."""


class LedgerIndex:
    """Key to place. May be lost at any time: it is made from the segments alone.

    An index that cannot be trusted is left for a new file under a new name, because other processes may have it open,
    and SQLite breaks where a file in use is replaced under its name.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._turn = threading.Lock()
        named = (re.fullmatch(r"index-(\d+)\.sqlite(-wal|-shm)?", path.name) for path in folder.iterdir())
        self.generation = max((int(match[1]) for match in named if match), default=0)
        if not self._path.exists():  # never there, or lost but for what a killed writer left beside it
            self._leave()
        try:
            with self._use():
                self._open()
        except StaleIndex:
            self.start_anew()

    @property
    def _path(self) -> Path:
        return self._folder / f"index-{self.generation}.sqlite"

    def start_anew(self) -> None:
        """Leave this file, and everything in it, for an empty one."""
        with self._use():
            self._db.close()
            self._leave()
            self._open()

    def _leave(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        self.generation += 1

    def _open(self) -> None:
        if (
            not self._path.exists()
        ):  # made under another name, because two that make one file at once lock each other out
            newborn = self._folder / f".{os.urandom(8).hex()}"
            with contextlib.closing(_connect(newborn)) as db:
                _prepare(db)
            with contextlib.suppress(FileExistsError):
                os.link(newborn, self._path)
            newborn.unlink()
        self._db = _connect(self._path)
        _prepare(self._db)

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        """One thread at a time; an index that is not what we made is told from a disk that does not serve."""
        with self._turn:
            try:
                yield
            except sqlite3.ProgrammingError:  # used after it was closed
                raise
            except (sqlite3.DatabaseError, UnicodeDecodeError, OverflowError, OSError) as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if isinstance(error, OSError) or code in _NOT_SERVED:
                    raise UnderstudyError(
                        f"{self._path}: cannot be used: {error}; free some space or mend its permissions, and run again"
                    ) from None
                raise StaleIndex(f"{self._path}: damaged: {error}; run again") from None

    def count(self) -> int:
        with self._use():
            return int(self._db.execute("SELECT count(*) FROM entry").fetchone()[0])

    def indexed(self, path: str) -> int:
        with self._use():
            row = self._db.execute("SELECT indexed FROM segment WHERE path = ?", (path,)).fetchone()
        return self._sound(row, int)[0] if row else 0

    def find(self, key: str) -> Place | None:
        with self._use():
            row = self._db.execute(
                "SELECT path, offset, length, logprobs FROM entry JOIN segment ON segment.id = segment WHERE key = ?",
                (bytes.fromhex(key),),
            ).fetchone()
        return Place(*self._sound(row, str, int, int, int)) if row else None

    def add(self, path: str, entries: Sequence[tuple[str, int, int, int]], indexed: int) -> None:
        """Record places (key, offset, length, logprobs) and how far ``path`` is read, in one transaction.

        Of two answers under one key the one with more log-probabilities stays.
        """
        with self._use(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT INTO segment (path, indexed) VALUES (?, ?) "
                "ON CONFLICT (path) DO UPDATE SET indexed = max(indexed, excluded.indexed)",
                (path, indexed),
            )
            segment = self._db.execute("SELECT id FROM segment WHERE path = ?", (path,)).fetchone()[0]
            self._db.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "segment = excluded.segment, offset = excluded.offset, length = excluded.length, "
                "logprobs = excluded.logprobs WHERE excluded.logprobs > logprobs",
                [(bytes.fromhex(k), segment, at, length, n) for k, at, length, n in entries],
            )

    def close(self) -> None:
        with self._turn:
            self._db.close()

    def _sound(self, row: tuple[Any, ...], *kinds: type) -> tuple[Any, ...]:
        """The row, if it holds what was put into it: SQLite checks neither pages nor types when it reads."""
        if [type(value) for value in row] != list(kinds):
            raise StaleIndex(f"{self._path}: damaged: a row does not hold what was put into it; run again")
        return row


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")
    db.execute(
        "CREATE TABLE IF NOT EXISTS segment "
        "(id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, indexed INTEGER NOT NULL)"
    )
    db.execute(
        "CREATE TABLE IF NOT EXISTS entry (key BLOB PRIMARY KEY, segment INTEGER NOT NULL, "
        "offset INTEGER NOT NULL, length INTEGER NOT NULL, logprobs INTEGER NOT NULL) WITHOUT ROWID"
    )
