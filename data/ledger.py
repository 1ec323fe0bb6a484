"""The ledger: every answer ever paid for, on disk before anybody parses it.

Segments are append-only text, one writer each, one record a line: eight hex digits of CRC-32, a space, JSON. Appends
are committed in groups, milliseconds after they were handed in, by one write and one sync. A line that is cut short
was never acknowledged; it is set aside when its writer is dead. A whole line that fails its checksum is counted and
skipped. A segment that could not be written to takes no more: the next group opens another. SQLite as the store was
weighed: as fast, but one writer at a time, and no object store.

The index (key to segment and offset) is a cache in SQLite beside the segments: it keeps memory flat at any number of
records, is caught up when the ledger is opened, and is made again from the segments when it is lost, damaged, or says
what they do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import UnderstudyError
from .fingerprint import packed
from .storage import Segment, Storage

GROUP_SECONDS = 0.004
"""How long the first record of a group waits for others: its place in the window waits with it, and a group of its own
for every record would double the CPU time of a request."""

_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One paid answer: under which key, what was asked of whom, and what came back."""

    key: str
    """Hex digits."""
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
        """Whole lines whose checksum did not match, as far as they were indexed here; skipped."""
        self._index = _Index(storage.local(folder))
        self._writing = threading.RLock()
        """Held while a segment and the index are changed together, which may be in any thread."""
        self._segment: Segment | None = None
        self._segment_path = ""
        self._waiting: list[_Waiting] = []
        self._fresh: dict[str, Record] = {}
        """What is durable and not in the index yet."""
        self._fault: UnderstudyError | None = None
        """Why the index could not take a group whose answers are durable; raised at the next append."""
        self._flusher: asyncio.Task[None] | None = None
        self.catch_up()

    def __len__(self) -> int:
        return self._index.count()

    def find(self, key: str, logprobs: int = 0) -> Record | None:
        """The answer under ``key``, if it was recorded with at least ``logprobs`` alternatives per token."""
        if (fresh := self._fresh.get(key)) and fresh.logprobs >= logprobs:
            return fresh
        generation = self._index.generation
        try:
            return self._look_up(key, logprobs)
        except _Stale:
            self._reindex(generation)
            return self._look_up(key, logprobs)

    async def append(self, record: Record) -> None:
        """Return when the record is durable.

        Raises:
            UnderstudyError: it could not be written, or an earlier one could not be indexed.
        """
        if fault := self._fault:
            self._fault = None
            raise fault
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(record, _line(record), durable))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await durable

    def records(self) -> Iterator[Record]:
        """Every sound record, oldest segment first."""
        for path, size in self._segments():
            for _, line in self._lines(path, 0, size):
                if record := _parse(line):
                    yield record

    def catch_up(self) -> None:
        """Index what other writers added, and set aside the torn tails of dead ones."""
        generation = self._index.generation
        try:
            self._catch_up()
        except _Stale:
            self._reindex(generation)

    def close(self) -> None:
        """Write what is still waiting and close the segment."""
        waiting, self._waiting = self._waiting, []
        try:
            if waiting:
                self._commit(waiting)
        finally:
            with self._writing:  # a group that a stopped run left to its thread is finished first
                self._leave_segment()
                self._index.close()

    def _look_up(self, key: str, logprobs: int) -> Record | None:
        place = self._index.find(key)
        if place is None or place.logprobs < logprobs:
            return None
        try:
            record = _parse(self.storage.read(place.segment, place.offset, place.length))
        except (OSError, ValueError):  # no such segment, or no such place in it
            record = None
        if record is None or (record.key, record.logprobs) != (key, place.logprobs):
            raise _Stale(f"{self.folder}: the index disagrees with {place.segment} at byte {place.offset}; run again")
        return record

    def _catch_up(self) -> None:
        with self._writing:
            for path, size in self._segments():
                start = self._index.indexed(path)
                if start > size:
                    raise _Stale(f"{path}: {start} bytes are indexed and {size} are there; run again")
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
                if end > start:
                    self._index.add(path, entries, end)
                if end < size:
                    aside = f"{self.folder}/torn/{path.rsplit('/', 1)[-1]}-{end}"
                    self.torn_bytes += self.storage.set_aside(path, end, size, aside)

    def _reindex(self, generation: int) -> None:
        """Make the index again, unless another thread has done so since ``generation``."""
        with self._writing:
            if self._index.generation == generation:
                self._index.start_anew()
                self.damaged_records = 0
                self._catch_up()

    async def _flush(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                await asyncio.sleep(GROUP_SECONDS)
                group, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._commit, group, asyncio.get_running_loop())
                except UnderstudyError as error:
                    _settle(group, error)
                else:
                    _settle(group, None)
        except BaseException as error:  # nobody may wait for ever; what was not written yet, close() writes
            _settle([*group, *self._waiting], error)
            if isinstance(error, asyncio.CancelledError):
                raise

    def _commit(self, group: Sequence[_Waiting], loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Write, sync and index a group: in a thread, because no cancellation may come between the three.

        Args:
            loop: where the group waits. It is told once the group is durable: a busy loop lets a thread run for each
                step of the index by and by only, which kept 512 places waiting for a third of their time.
        """
        with self._writing:
            try:
                self._write(group, loop)
            except BaseException:
                self._leave_segment()  # how far it goes is not known; the next ledger reads on from where it is indexed
                raise

    def _write(self, group: Sequence[_Waiting], loop: asyncio.AbstractEventLoop | None) -> None:
        try:
            offset = self._own_segment().append(b"".join(waiting.line for waiting in group))
        except OSError as error:
            raise UnderstudyError(
                f"{self._segment_path}: cannot be written: {error.strerror}; free some space and run again"
            ) from None
        self._fresh |= {waiting.record.key: waiting.record for waiting in group}
        if loop is not None:
            loop.call_soon_threadsafe(_settle, group, None)
        entries = []
        for waiting in group:
            entries.append((waiting.record.key, offset, len(waiting.line), waiting.record.logprobs))
            offset += len(waiting.line)
        generation = self._index.generation
        try:
            self._index.add(self._segment_path, entries, offset)
        except _Stale:
            self._reindex(generation)
        except UnderstudyError as error:
            self._fault = error
            raise
        for waiting in group:
            self._fresh.pop(waiting.record.key, None)

    def _own_segment(self) -> Segment:
        if self._segment is None:
            writer = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
            self._segment_path = f"{self.folder}/segments/{stamp}-{writer}.jsonl"
            self._segment = self.storage.segment(self._segment_path)
        return self._segment

    def _leave_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            with contextlib.suppress(OSError):
                segment.close()

    def _segments(self) -> Iterator[tuple[str, int]]:
        return self.storage.list(f"{self.folder}/segments")

    def _lines(self, path: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines with their offsets; an unfinished last one is left out."""
        offset, rest = start, b""
        for position in range(start, size, _BLOCK):
            block = rest + self.storage.read(path, position, min(_BLOCK, size - position))
            *lines, rest = block.split(b"\n")
            for line in lines:
                yield offset, line + b"\n"
                offset += len(line) + 1


@dataclass(frozen=True, slots=True)
class _Waiting:
    record: Record
    line: bytes
    durable: asyncio.Future[None]


def _settle(group: Sequence[_Waiting], error: BaseException | None) -> None:
    """Tell everybody who waits for a group what became of it; those who were cancelled meanwhile are left alone."""
    for waiting in group:
        if waiting.durable.done():
            continue
        if error is None:
            waiting.durable.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            waiting.durable.cancel()
        else:
            waiting.durable.set_exception(error)


def _line(record: Record) -> bytes:
    data = packed({"key": record.key, "logprobs": record.logprobs, **record.body})
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _parse(line: bytes) -> Record | None:
    """The record of a line, or None where the checksum does not match."""
    data = line[9:-1]
    if not data or line != b"%08x %b\n" % (zlib.crc32(data), data):
        return None
    body = json.loads(data)
    return Record(body.pop("key"), body.pop("logprobs"), body)


@dataclass(frozen=True, slots=True)
class _Place:
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


class _Stale(UnderstudyError):
    """The index is damaged, or says what the segments do not."""


class _Index:
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
        except _Stale:
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
                raise _Stale(f"{self._path}: damaged: {error}; run again") from None

    def count(self) -> int:
        with self._use():
            return int(self._db.execute("SELECT count(*) FROM entry").fetchone()[0])

    def indexed(self, path: str) -> int:
        with self._use():
            row = self._db.execute("SELECT indexed FROM segment WHERE path = ?", (path,)).fetchone()
        return self._sound(row, int)[0] if row else 0

    def find(self, key: str) -> _Place | None:
        with self._use():
            row = self._db.execute(
                "SELECT path, offset, length, logprobs FROM entry JOIN segment ON segment.id = segment WHERE key = ?",
                (bytes.fromhex(key),),
            ).fetchone()
        return _Place(*self._sound(row, str, int, int, int)) if row else None

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
            raise _Stale(f"{self._path}: damaged: a row does not hold what was put into it; run again")
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
