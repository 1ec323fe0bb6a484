"""The ledger: every answer ever paid for, on disk before anybody parses it.

Segments are append-only text, one writer each, one record a line: eight hex digits of CRC-32, a space, JSON. Appends
are committed in groups, milliseconds after they were handed in, by one write and one sync; in an object store every
second or 256 answers, without anybody waiting for it, so that a kill may lose that much. A line that is cut short
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
import socket
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import Locked, UnderstudyError
from .fingerprint import packed
from .ledger_index import LedgerIndex, StaleIndex
from .storage import Segment, Storage

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
        self._index = LedgerIndex(storage.local(folder))
        self._writing = threading.RLock()
        """Held while a segment and the index are changed together, which may be in any thread."""
        self._segment: Segment | None = None
        self._segment_path = ""
        self._waiting: deque[_Waiting] = deque()
        """Handed in, and in no segment yet; several threads take from it."""
        self._fresh: dict[str, Record] = {}
        """What is durable and not in the index yet."""
        self._fault: BaseException | None = None
        """Why a group that nobody waits for was not written, or one that is durable not indexed; raised at the next
        append."""
        self._flusher: asyncio.Task[None] | None = None
        self._full = asyncio.Event()
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
        except StaleIndex:
            self._reindex(generation)
            return self._look_up(key, logprobs)

    async def append(self, record: Record) -> None:
        """Return when the record is durable; where the storage's groups do not wait, when it is handed in.

        Raises:
            UnderstudyError: it could not be written, or an earlier one could not be indexed.
        """
        if fault := self._fault:
            self._fault = None
            raise fault
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] | None = loop.create_future() if self.storage.group.waits else None
        self._waiting.append(_Waiting(record, _line(record), durable))
        if self._flusher is None or self._flusher.done() or self._flusher.get_loop() is not loop:
            self._full = asyncio.Event()
            self._flusher = asyncio.create_task(self._flush(self._full))
        if len(self._waiting) == self.storage.group.records:
            self._full.set()
        if durable is None:
            self._fresh[record.key] = record
        else:
            await durable

    def flush(self) -> None:
        """Write what waits; then all that was handed in is durable. May be called in any thread."""
        if error := self._commit():
            raise error

    def records(self, *, damaged: bool = False) -> Iterator[Record]:
        """Every sound record, oldest segment first.

        Args:
            damaged: lines that fail their checksum too, each as a record whose body is `{"damaged": text}`.
        """
        for path, size in self.segments():
            for _, line in self._lines(path, 0, size):
                if record := _parse(line):
                    yield record
                elif damaged:
                    yield _damaged(line)

    def segments(self) -> Iterator[tuple[str, int]]:
        """Path and bytes of every segment, oldest first."""
        return self.storage.list(f"{self.folder}/segments")

    def check_idle(self) -> None:
        """Raise `Locked` where somebody else is writing, whatever lock he holds or does without."""
        for path, _ in self.segments():
            if path != self._segment_path and not self.storage.idle(path):
                raise Locked(f"{path}: a command that asks teachers is writing to it; wait for it to end")

    def erase(self, matches: Callable[[Record], bool]) -> None:
        """Leave of each record that matches what it cost, and nothing of a damaged line that does.

        A segment is replaced in one step, so a kill leaves the old one or the new one. No request finds what is left:
        its key says nothing, because a key would confirm a guess of what was asked.

        Raises:
            Locked: somebody else is writing.
        """
        with self._writing:
            self._leave_segment()
            self.check_idle()
            changed = False
            for path, size in self.segments():
                lines = (line for _, line in self._lines(path, 0, size))
                if any(_without(line, matches) != line for line in lines):
                    self._rewrite(path, size, matches)
                    changed = True
            if changed:
                self._index.start_anew()
                self._catch_up()

    def _rewrite(self, path: str, size: int, matches: Callable[[Record], bool]) -> None:
        """Put a segment in its own place without what matches, one line in memory at a time."""
        rewritten = self.storage.local(f"{self.folder}/.{os.urandom(8).hex()}")
        with open(rewritten, "wb") as file:
            file.writelines(_without(line, matches) for _, line in self._lines(path, 0, size))
        self.storage.put_file(rewritten, path)

    def catch_up(self) -> None:
        """Index what other writers added, and set aside the torn tails of dead ones."""
        generation = self._index.generation
        try:
            self._catch_up()
        except StaleIndex:
            self._reindex(generation)

    def close(self) -> None:
        """Write what is still waiting and close the segment."""
        try:
            self.flush()
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
            raise StaleIndex(
                f"{self.folder}: the index disagrees with {place.segment} at byte {place.offset}; run again"
            )
        return record

    def _catch_up(self) -> None:
        with self._writing:
            for path, size in self.segments():
                start = self._index.indexed(path)
                if start > size:
                    raise StaleIndex(f"{path}: {start} bytes are indexed and {size} are there; run again")
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

    async def _flush(self, full: asyncio.Event) -> None:
        try:
            while self._waiting:
                await self._gathered(full)
                error = await asyncio.to_thread(self._commit)
                if error and not self.storage.group.waits:  # what could not be written is tried again by close()
                    self._fault = error
                    return
        except BaseException as error:  # nobody may wait for ever; what was not written yet, close() writes
            _settle(list(self._waiting), error)
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _gathered(self, full: asyncio.Event) -> None:
        """Return when a group is to be committed."""
        group = self.storage.group
        if group.records is None:
            await asyncio.sleep(group.seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(full.wait(), group.seconds)
        full.clear()

    def _commit(self) -> BaseException | None:
        """Write, sync and index what waits: in a thread, because no cancellation may come between the three.

        It is taken under the lock, so that whoever returns from here knows that all before him is durable too.

        Returns:
            What went wrong, of which whoever waited for this group was told. It is no exception here, because those
            who hand in a record after this group must not be told of it.
        """
        with self._writing:
            if not (group := [self._waiting.popleft() for _ in range(len(self._waiting))]):
                return None
            try:
                self._write(group)
            except BaseException as error:
                self._leave_segment()  # how far it goes is not known; the next ledger reads on from where it is indexed
                _tell(group, error)
                return error
        return None

    def _write(self, group: Sequence[_Waiting]) -> None:
        try:
            path, offset = self._own_segment().append(b"".join(waiting.line for waiting in group))
        except OSError as error:
            if not self.storage.group.waits:
                self._waiting.extendleft(reversed(group))
            raise UnderstudyError(
                f"{self._segment_path}: cannot be written: {error.strerror}; free some space and run again"
            ) from None
        self._fresh |= {waiting.record.key: waiting.record for waiting in group}
        # Told before the index has it: a busy loop lets a thread run for each step of the index by and by only, which
        # kept 512 places waiting for a third of their time.
        _tell(group, None)
        entries = []
        for waiting in group:
            entries.append((waiting.record.key, offset, len(waiting.line), waiting.record.logprobs))
            offset += len(waiting.line)
        generation = self._index.generation
        try:
            self._index.add(path, entries, offset)
        except StaleIndex:
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
    durable: asyncio.Future[None] | None
    """None where nobody waits."""


def _tell(group: Sequence[_Waiting], error: BaseException | None) -> None:
    """Settle a group from a thread, where each of it waits."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
    for waiting in group:
        if waiting.durable is not None:
            by_loop.setdefault(waiting.durable.get_loop(), []).append(waiting)
    for loop, some in by_loop.items():
        with contextlib.suppress(RuntimeError):  # it is closed, and nobody waits
            loop.call_soon_threadsafe(_settle, some, error)


def _settle(group: Iterable[_Waiting], error: BaseException | None) -> None:
    """Tell everybody who waits for a group what became of it; those who were cancelled meanwhile are left alone."""
    for waiting in group:
        if waiting.durable is None or waiting.durable.done():
            continue
        if error is None:
            waiting.durable.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            waiting.durable.cancel()
        else:
            waiting.durable.set_exception(error)


def _without(line: bytes, matches: Callable[[Record], bool]) -> bytes:
    """The line as it is, or what is left of it where it matches."""
    record = _parse(line)
    if not matches(record or _damaged(line)):
        return line
    return _line(_emptied(record)) if record else b""


def _emptied(record: Record) -> Record:
    """What was paid to whom, and for how much text."""
    body = {name: record.body[name] for name in ("teacher", "run", "usd", "at") if name in record.body}
    tokens = {name: record.body["answer"][name] for name in ("input_tokens", "output_tokens")}
    return Record(os.urandom(16).hex(), 0, body | {"forgotten": tokens})


def _damaged(line: bytes) -> Record:
    return Record("", 0, {"damaged": line.decode(errors="replace")})


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
