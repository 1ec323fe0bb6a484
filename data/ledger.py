"""The ledger: every answer ever paid for, on disk before anybody parses it.

Segments are append-only text, one writer each, one record a line: eight hex digits of CRC-32, a space, JSON. Appends
are committed in groups, at most 50 ms after they were handed in, by one write and one sync. A line that is cut short
was never acknowledged; it is set aside when its writer is dead. A whole line that fails its checksum is counted and
skipped. SQLite as the store was weighed: as fast, but one writer at a time, and no object store.

The index (key to segment and offset) is a cache in SQLite beside the segments: it keeps memory flat at any number of
records, is caught up when the ledger is opened, and is rebuilt from the segments when lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .errors import UnderstudyError
from .fingerprint import canonical
from .storage import Segment, Storage

GROUP_SECONDS = 0.02
"""How long the first record of a group waits for others; with the sync itself well under 50 ms."""

_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One paid answer: under which key, what was asked of whom, and what came back."""

    key: str
    logprobs: int
    """Alternatives per token that were asked for; serves any request for as many or fewer."""
    body: dict[str, Any]
    """`teacher`, `messages`, `sampling`, `sample`, `answer`."""


class Ledger:
    """Reads every segment below a folder and appends to one of its own."""

    def __init__(self, storage: Storage, folder: str = "ledger") -> None:
        self.storage = storage
        self.folder = folder
        self.torn_bytes = 0
        """Bytes set aside when this ledger was opened: answers whose writer died before they were durable."""
        self.damaged_records = 0
        """Whole lines whose checksum did not match; skipped."""
        self._index = _Index(os.fspath(storage.local(f"{folder}/index.sqlite")))
        self._segment: Segment | None = None
        self._segment_path = ""
        self._waiting: list[tuple[Record, bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self.catch_up()

    def __len__(self) -> int:
        return self._index.count()

    def find(self, key: str, logprobs: int = 0) -> Record | None:
        """The answer under ``key``, if it was recorded with at least ``logprobs`` alternatives per token."""
        place = self._index.find(key)
        if place is None or place.logprobs < logprobs:
            return None
        record = _parse(self.storage.read(place.segment, place.offset, place.length))
        if record is None or record.key != key:
            raise UnderstudyError(
                f"{place.segment}: the record at byte {place.offset} does not match its checksum; "
                f"delete {self.folder}/index.sqlite and run again"
            )
        return record

    async def append(self, record: Record) -> None:
        """Return when the record is durable."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, _line(record), durable))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await durable

    def records(self) -> Iterator[Record]:
        """Every sound record, oldest segment first."""
        for path, size in self.storage.list(f"{self.folder}/segments"):
            for _, line in self._lines(path, 0, size):
                if record := _parse(line):
                    yield record

    def catch_up(self) -> None:
        """Index what other writers added, and set aside the torn tails of dead ones."""
        for path, size in self.storage.list(f"{self.folder}/segments"):
            start = self._index.indexed(path)
            if path == self._segment_path or size <= start:
                continue
            end, entries = start, []
            for offset, line in self._lines(path, start, size):
                end = offset + len(line)
                record = _parse(line)
                if record is None:
                    self.damaged_records += 1
                else:
                    entries.append((record.key, offset, len(line), record.logprobs))
                if len(entries) >= 10_000:
                    self._index.add(path, entries, end)
                    entries = []
            self._index.add(path, entries, end)
            if end < size:
                aside = f"{self.folder}/torn/{path.rsplit('/', 1)[-1]}-{end}"
                self.torn_bytes += self.storage.set_aside(path, end, aside)

    def close(self) -> None:
        """Write what is still waiting and close the segment."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._own_segment().append(b"".join(line for _, line, _ in waiting))
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        self._index.close()

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(GROUP_SECONDS)
            group, self._waiting = self._waiting, []
            data = b"".join(line for _, line, _ in group)
            try:
                offset = await asyncio.to_thread(self._own_segment().append, data)
            except OSError as error:
                cause = UnderstudyError(
                    f"{self._segment_path}: cannot be written: {error.strerror}; "
                    "free some space and run again"
                )
                for _, _, durable in group:
                    if not durable.done():
                        durable.set_exception(cause)
                continue
            entries = []
            for record, line, _ in group:
                entries.append((record.key, offset, len(line), record.logprobs))
                offset += len(line)
            self._index.add(self._segment_path, entries, offset)
            for _, _, durable in group:
                if not durable.done():  # its caller was cancelled; the answer is kept all the same
                    durable.set_result(None)

    def _own_segment(self) -> Segment:
        if self._segment is None:
            writer = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            self._segment_path = f"{self.folder}/segments/{stamp}-{writer}.jsonl"
            self._segment = self.storage.segment(self._segment_path)
        return self._segment

    def _lines(self, path: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines with their offsets; an unfinished last one is left out."""
        offset, rest = start, b""
        for position in range(start, size, _BLOCK):
            block = rest + self.storage.read(path, position, min(_BLOCK, size - position))
            *lines, rest = block.split(b"\n")
            for line in lines:
                yield offset, line + b"\n"
                offset += len(line) + 1


def _line(record: Record) -> bytes:
    data = canonical({"key": record.key, "logprobs": record.logprobs, **record.body}).encode()
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _parse(line: bytes) -> Record | None:
    """The record of a line, or None where the checksum does not match."""
    data = line[9:].rstrip(b"\n")
    if line[:8] != b"%08x" % zlib.crc32(data):
        return None
    body = json.loads(data)
    return Record(body.pop("key"), body.pop("logprobs"), body)


@dataclass(frozen=True, slots=True)
class _Place:
    segment: str
    offset: int
    length: int
    logprobs: int


class _Index:
    """Key to place. May be lost at any time: it is made from the segments alone."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            self._open(path)
        except sqlite3.DatabaseError:  # cut short or overwritten: make it again
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path + suffix)
            self._open(path)

    def _open(self, path: str) -> None:
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS segment "
            "(id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, indexed INTEGER NOT NULL)"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS entry (key BLOB PRIMARY KEY, segment INTEGER NOT NULL, "
            "offset INTEGER NOT NULL, length INTEGER NOT NULL, logprobs INTEGER NOT NULL) WITHOUT ROWID"
        )

    def count(self) -> int:
        row = self._db.execute("SELECT count(*) FROM entry").fetchone()
        return int(row[0])

    def indexed(self, path: str) -> int:
        row = self._db.execute("SELECT indexed FROM segment WHERE path = ?", (path,)).fetchone()
        return int(row[0]) if row else 0

    def find(self, key: str) -> _Place | None:
        row = self._db.execute(
            "SELECT path, offset, length, logprobs FROM entry JOIN segment ON segment.id = segment "
            "WHERE key = ?",
            (bytes.fromhex(key),),
        ).fetchone()
        return _Place(*row) if row else None

    def add(self, path: str, entries: list[tuple[str, int, int, int]], indexed: int) -> None:
        """Record places (key, offset, length, logprobs) and how far ``path`` is read, in one transaction.

        Of two answers under one key the one with more log-probabilities stays.
        """
        with self._db:
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
        self._db.close()
