"""What the ledger promises: an acknowledged answer is found again after whatever happens to process, disk or index."""

import asyncio
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from understudy.data.errors import UnderstudyError
from understudy.data.ledger import Ledger, Record
from understudy.data.storage import LocalStorage

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def record(number: int, logprobs: int = 0, text: str = "") -> Record:
    return Record(f"{number:032x}", logprobs, {"answer": {"text": text or f"answer {number}"}, "run": "r"})


_OPEN: list[Ledger] = []


@pytest.fixture(autouse=True)
def _every_ledger_is_closed():
    yield
    while _OPEN:
        _OPEN.pop().close()


def opened(at: Path | LocalStorage) -> Ledger:
    ledger = Ledger(LocalStorage(at) if isinstance(at, Path) else at)
    _OPEN.append(ledger)
    return ledger


async def _append_all(ledger: Ledger, records: list[Record]) -> None:
    await asyncio.gather(*(ledger.append(record) for record in records))


def append(ledger: Ledger, *records: Record) -> None:
    asyncio.run(_append_all(ledger, list(records)))


def filled(root: Path, *records: Record) -> Path:
    """A root whose ledger holds the records in one closed segment; returns the segment."""
    ledger = opened(root)
    append(ledger, *records)
    ledger.close()
    (segment,) = segments(root)
    return segment


def segments(root: Path) -> list[Path]:
    return sorted((root / "ledger" / "segments").iterdir())


def indexes(root: Path) -> list[Path]:
    return sorted((root / "ledger").glob("index-*.sqlite"))


def torn(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((root / "ledger" / "torn").iterdir()))


def keys(ledger: Ledger) -> list[str]:
    return [record.key for record in ledger.records()]


# appending and finding


def test_an_appended_record_is_found_again_by_this_ledger_and_the_next(tmp_path):
    ledger = opened(tmp_path)
    append(ledger, record(1))
    assert ledger.find(record(1).key) == record(1)
    assert ledger.find(record(2).key) is None
    ledger.close()
    later = opened(tmp_path)
    assert later.find(record(1).key) == record(1)
    assert len(later) == 1
    assert list(later.records()) == [record(1)]


def test_a_record_is_in_the_file_before_append_returns(tmp_path):
    async def check() -> None:
        ledger = opened(tmp_path)
        for number in range(3):
            await ledger.append(record(number))
            assert f'"answer {number}"' in segments(tmp_path)[0].read_text().splitlines()[-1]
            assert keys(opened(tmp_path)) == [record(earlier).key for earlier in range(number + 1)]

    asyncio.run(check())


def test_text_of_any_kind_comes_back_as_it_went_in(tmp_path):
    texts = ["line\nline\r\n\u2028", "\0\x1b", "दिल्ली 👍🏽 \U0010ffff", '"\\', " ", "cut in an emoji \ud83d"]
    records = [record(number, text=text) for number, text in enumerate(texts)]
    filled(tmp_path, *records)
    assert list(opened(tmp_path).records()) == records


def test_a_record_of_many_megabytes_is_kept_whole(tmp_path):
    big = record(1, text="x" * 20_000_000)
    filled(tmp_path, record(0), big, record(2))
    later = opened(tmp_path)
    assert later.find(big.key) == big
    assert keys(later) == [record(n).key for n in range(3)]


def test_more_logprobs_serve_a_request_for_fewer_and_not_the_reverse(tmp_path):
    ledger = opened(tmp_path)
    append(ledger, record(1, logprobs=5))
    assert ledger.find(record(1).key, 0) == ledger.find(record(1).key, 5) == record(1, logprobs=5)
    assert ledger.find(record(1).key, 6) is None


@pytest.mark.parametrize("order", [(5, 16), (16, 5)])
@pytest.mark.parametrize("rebuilt", [False, True])
def test_of_two_answers_under_one_key_the_one_with_more_logprobs_is_served(tmp_path, order, rebuilt):
    ledger = opened(tmp_path)
    for logprobs in order:
        append(ledger, record(1, logprobs, text=f"with {logprobs}"))
    ledger.close()
    if rebuilt:
        indexes(tmp_path)[0].unlink()
    later = opened(tmp_path)
    assert later.find(record(1).key, 3) == record(1, 16, text="with 16")
    assert len(later) == 1
    assert len(list(later.records())) == 2


# what the disk sees


class Counting(LocalStorage):
    """Counts appends and fails those it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.appends: list[bytes] = []
        self.errors: list[BaseException] = []
        self.written_before_it_fails = 0

    def segment(self, path: str):
        return _CountingSegment(self, super().segment(path))


class _CountingSegment:
    def __init__(self, storage: Counting, segment) -> None:
        self.storage = storage
        self.segment = segment

    def append(self, data: bytes) -> int:
        self.storage.appends.append(data)
        if self.storage.errors:
            if self.storage.written_before_it_fails:
                self.segment.append(data[: self.storage.written_before_it_fails])
            raise self.storage.errors.pop(0)
        return self.segment.append(data)

    def close(self) -> None:
        self.segment.close()


def test_a_hundred_appends_at_once_are_one_write(tmp_path):
    storage = Counting(tmp_path)
    append(opened(storage), *map(record, range(100)))
    assert len(storage.appends) == 1
    assert storage.appends[0].count(b"\n") == 100


def test_a_full_disk_is_one_line_and_the_next_append_works(tmp_path):
    storage = Counting(tmp_path)
    ledger = opened(storage)
    storage.errors = [OSError(28, "No space left on device")]
    with pytest.raises(UnderstudyError) as caught:
        append(ledger, record(1))
    assert re.fullmatch(
        r"ledger/segments/.*\.jsonl: cannot be written: No space left on device; free some space and run again",
        str(caught.value),
    )
    append(ledger, record(2))
    assert ledger.find(record(1).key) is None
    assert ledger.find(record(2).key) == record(2)
    ledger.close()
    assert keys(opened(tmp_path)) == [record(2).key]


@pytest.mark.parametrize("written", [1, 60, -1])
def test_what_a_full_disk_took_half_of_never_touches_what_comes_after(tmp_path, written):
    storage = Counting(tmp_path)
    ledger = opened(storage)
    append(ledger, record(0))
    storage.errors = [OSError(28, "No space left on device")]
    storage.written_before_it_fails = written
    with pytest.raises(UnderstudyError):
        append(ledger, record(1))
    append(ledger, record(2), record(3))
    for number in (0, 2, 3):
        assert ledger.find(record(number).key) == record(number)
    ledger.close()
    indexes(tmp_path)[0].unlink()
    later = opened(tmp_path)
    assert keys(later) == [record(number).key for number in (0, 2, 3)]
    assert later.damaged_records == 0
    assert later.torn_bytes == len(torn(tmp_path)) > 0


def test_appenders_of_a_failed_group_are_all_told_and_none_waits_for_ever(tmp_path):
    storage = Counting(tmp_path)
    ledger = opened(storage)
    storage.errors = [OSError(28, "No space left on device")]

    async def race() -> list[object]:
        appends = [ledger.append(record(number)) for number in range(20)]
        async with asyncio.timeout(30):
            return await asyncio.gather(*appends, return_exceptions=True)

    assert {type(said) for said in asyncio.run(race())} == {UnderstudyError}


class Stopped(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("error", [Stopped("stop"), MemoryError("no memory"), ValueError("a bug")])
def test_whatever_breaks_in_the_writing_thread_reaches_who_waits_and_ends_nothing_else(tmp_path, error):
    storage = Counting(tmp_path)
    ledger = opened(storage)
    storage.errors = [error]

    async def race() -> list[object]:
        async with asyncio.timeout(30):
            said = await asyncio.gather(*(ledger.append(record(n)) for n in range(3)), return_exceptions=True)
            await ledger.append(record(9))
        return said

    assert asyncio.run(race()) == [error] * 3
    assert ledger.find(record(9).key) == record(9)


def test_a_record_handed_in_just_after_a_group_failed_is_told_nothing_of_it(tmp_path, monkeypatch):
    """Whoever waited is told first, and hands in the next record before the event loop hears that the thread ended."""
    storage = Counting(tmp_path)
    ledger = opened(storage)
    storage.errors = [MemoryError("no memory")]
    in_a_thread = asyncio.to_thread

    async def heard_late(call):
        try:
            return await in_a_thread(call)
        finally:
            await asyncio.sleep(0.1)

    monkeypatch.setattr(asyncio, "to_thread", heard_late)

    async def race() -> None:
        async with asyncio.timeout(30):
            with pytest.raises(MemoryError):
                await ledger.append(record(1))
            await ledger.append(record(9))

    asyncio.run(race())
    assert ledger.find(record(9).key) == record(9)


def test_a_disk_too_full_for_the_index_is_one_line_and_loses_no_record(tmp_path):
    """The group is on disk by then: the next ledger must find it, and so must not be told that it was indexed."""
    code = (
        "import asyncio, resource, signal, sys\nfrom pathlib import Path\n"
        "from understudy.data.ledger import *\nfrom understudy.data.storage import LocalStorage\n"
        "async def fill(ledger, numbers):\n"
        "    await asyncio.gather(*(ledger.append(Record(f'{n:032x}', 0, {})) for n in numbers))\n"
        "ledger = Ledger(LocalStorage(Path(sys.argv[1])))\n"
        "asyncio.run(fill(ledger, range(10)))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "wal = Path(sys.argv[1], 'ledger/index-1.sqlite-wal').stat().st_size\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (wal, hard))\n"
        "try:\n"
        "    asyncio.run(fill(ledger, range(10, 20)))\n"
        "    print(sum(ledger.find(f'{n:032x}') is not None for n in range(20)))\n"
        "    asyncio.run(fill(ledger, range(20, 21)))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "asyncio.run(fill(ledger, range(20, 30)))\n"
        "print(sum(ledger.find(f'{n:032x}') is not None for n in range(20, 30)))\n"
        "ledger.close()\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=ENVIRONMENT, timeout=60, capture_output=True, text=True
    )
    said = told.stdout.splitlines()
    assert said[0] == "20", "what is durable is found, indexed or not"
    assert re.fullmatch(r"UnderstudyError .*/index-1\.sqlite: cannot be used: .*; free some space or .*", said[1]), told
    assert said[2] == "10", told.stderr
    later = opened(tmp_path)
    assert [n for n in range(30) if later.find(record(n).key) is None] == []


# stopping


def test_a_cancelled_append_is_recorded_all_the_same(tmp_path):
    async def cancelled(ledger: Ledger) -> None:
        one, two = (asyncio.create_task(ledger.append(record(n))) for n in (1, 2))
        await asyncio.sleep(0)
        one.cancel()
        await two

    ledger = opened(tmp_path)
    asyncio.run(cancelled(ledger))
    assert ledger.find(record(1).key) == record(1)


def test_what_waits_when_a_run_is_cancelled_is_written_when_the_ledger_is_closed(tmp_path):
    async def cancelled(ledger: Ledger) -> None:
        tasks = [asyncio.create_task(ledger.append(record(n))) for n in range(5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)

    ledger = opened(tmp_path)
    asyncio.run(cancelled(ledger))
    ledger.close()
    assert sorted(keys(opened(tmp_path))) == [record(n).key for n in range(5)]


class Slow(Counting):
    """Writes when it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writing = threading.Event()
        self.may_write = threading.Event()

    def segment(self, path: str):
        return _SlowSegment(self, super().segment(path))


class _SlowSegment(_CountingSegment):
    def append(self, data: bytes) -> int:
        self.storage.writing.set()
        assert self.storage.may_write.wait(30)
        return self.segment.append(data)


def test_a_run_cancelled_while_its_group_is_written_leaves_no_gap_in_the_index(tmp_path):
    storage = Slow(tmp_path)
    ledger = opened(storage)

    async def cancelled() -> None:
        task = asyncio.create_task(ledger.append(record(1)))
        await asyncio.to_thread(storage.writing.wait, 30)
        task.cancel()
        ledger._flusher.cancel()
        await asyncio.gather(task, ledger._flusher, return_exceptions=True)
        storage.may_write.set()

    asyncio.run(cancelled())
    append(ledger, record(2))
    ledger.close()
    later = opened(tmp_path)
    assert later.find(record(1).key) == record(1)
    assert later.find(record(2).key) == record(2)


def test_what_another_thread_flushes_wakes_whoever_waits_for_it(tmp_path):
    """An actor flushes at the end of one shard while another's rows wait."""
    ledger = opened(tmp_path)

    async def both() -> None:
        for number in range(20):
            waits = asyncio.create_task(ledger.append(record(number)))
            await asyncio.sleep(0)  # handed in
            await asyncio.to_thread(ledger.flush)
            await asyncio.wait_for(waits, 10)

    asyncio.run(both())

    assert keys(ledger) == [record(number).key for number in range(20)], "each of them once"


def test_closing_waits_for_the_group_that_is_being_written(tmp_path):
    storage = Slow(tmp_path)
    ledger = opened(storage)
    loop = asyncio.new_event_loop()

    async def left_alone() -> None:
        asyncio.create_task(ledger.append(record(1))).add_done_callback(lambda task: task.cancelled())
        await asyncio.to_thread(storage.writing.wait, 30)

    loop.run_until_complete(left_alone())
    threading.Timer(0.1, storage.may_write.set).start()
    ledger.close()
    assert keys(opened(tmp_path)) == [record(1).key]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_a_full_disk_at_the_very_end_is_one_line_too(tmp_path):
    storage = Counting(tmp_path)
    ledger = opened(storage)

    async def cancelled() -> None:
        task = asyncio.create_task(ledger.append(record(1)))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(cancelled())
    storage.errors = [OSError(28, "No space left on device")]
    with pytest.raises(UnderstudyError, match="cannot be written: No space left on device; free some space"):
        ledger.close()
    ledger.close()


# killed writers

_WRITER = (
    "import asyncio, sys\nfrom pathlib import Path\n"
    "from understudy.data.ledger import Ledger, Record\nfrom understudy.data.storage import LocalStorage\n"
    "first = int(sys.argv[2])\n"
    "async def go():\n"
    "    ledger = Ledger(LocalStorage(Path(sys.argv[1])))\n"
    "    async def one(n):\n"
    "        await ledger.append(Record(f'{n:032x}', 0, {'answer': {'text': 'x' * (n * 7919 % 5000)}}))\n"
    "        print(f'{n}\\n', end='', flush=True)\n"
    "    for block in range(first, first + int(sys.argv[3]), 40):\n"
    "        await asyncio.gather(*(one(n) for n in range(block, block + 40)))\n"
    "asyncio.run(go())\n"
)


def writer(root: Path, first: int, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", _WRITER, str(root), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def killed(process: subprocess.Popen, after: int) -> list[int]:
    """What a writer acknowledged: ``after`` numbers, and those that it still said while the kill was on its way."""
    said = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    with process:
        said += process.stdout.readlines()  # communicate would leave out what readline has in hand
    return [int(line) for line in said if line.endswith("\n")]


@pytest.mark.parametrize("acknowledged", [1, 41, 130, 333])
def test_whatever_a_killed_writer_acknowledged_is_found(tmp_path, acknowledged):
    process = writer(tmp_path, 0, 100_000)
    said = killed(process, acknowledged)
    assert process.returncode == -signal.SIGKILL
    ledger = opened(tmp_path)
    for number in said:
        assert ledger.find(record(number).key).body == {"answer": {"text": "x" * (number * 7919 % 5000)}}
    assert ledger.damaged_records == 0
    assert len(list(ledger.records())) == len(ledger) >= len(said)


@pytest.mark.slow
def test_of_many_writers_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path):
    rng = random.Random(7)
    said: list[int] = []
    for turn in range(6):
        writers = [writer(tmp_path, 1_000_000 * (2 * turn + which), 100_000) for which in range(2)]
        for process in writers:
            said += killed(process, rng.randrange(1, 200))
    ledger = opened(tmp_path)
    assert [number for number in said if ledger.find(record(number).key) is None] == []
    assert len(set(said)) == len(said)
    ledger.close()
    shutil.rmtree(tmp_path / "ledger" / "torn", ignore_errors=True)
    for index in (tmp_path / "ledger").glob("index-*"):
        index.unlink()
    rebuilt = opened(tmp_path)
    assert [number for number in said if rebuilt.find(record(number).key) is None] == []
    assert (rebuilt.damaged_records, rebuilt.torn_bytes) == (0, 0)


def test_two_processes_that_write_at_once_lose_nothing_and_see_each_other(tmp_path):
    mine = opened(tmp_path)
    writers = [writer(tmp_path, 1_000 * number, 200) for number in range(1, 4)]
    append(mine, *map(record, range(200)))
    for process in writers:
        assert len(process.communicate(timeout=60)[0].splitlines()) == 200
        assert process.returncode == 0
    expected = {f"{1_000 * which + n:032x}" for which in range(4) for n in range(200)}
    assert {key for key in expected if mine.find(key)} == expected
    later = opened(tmp_path)
    assert sorted(keys(later)) == sorted(expected)
    assert (len(later), later.torn_bytes, later.damaged_records) == (800, 0, 0)
    assert len(segments(tmp_path)) == 4


def test_a_dozen_processes_can_open_a_new_root_at_once(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from understudy.data.ledger import Ledger\nfrom understudy.data.storage import LocalStorage\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "Ledger(LocalStorage(Path(sys.argv[1])))\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )
        for _ in range(12)
    ]  # fmt: skip
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[1] for process in started] == [""] * 12
    assert [path.name for path in indexes(tmp_path)] == ["index-1.sqlite"]


# torn and damaged segments


def test_a_segment_cut_at_any_byte_keeps_its_whole_records_and_sets_the_rest_aside(tmp_path):
    records = [record(number, text="x" * (number * 37 % 200)) for number in range(40)]
    whole = filled(tmp_path / "whole", *records).read_bytes()
    ends = [match.end() for match in re.finditer(b"\n", whole)]
    rng = random.Random(3)
    for cut in [0, 1, ends[0] - 1, ends[0], ends[-1] - 1, len(whole), *rng.sample(range(len(whole)), 50)]:
        root = tmp_path / str(cut)
        (root / "ledger" / "segments").mkdir(parents=True, exist_ok=True)
        segment = root / "ledger" / "segments" / "s.jsonl"
        segment.write_bytes(whole[:cut])
        complete = [end for end in ends if end <= cut]
        ledger = opened(root)
        assert keys(ledger) == [record.key for record in records[: len(complete)]]
        assert all(ledger.find(record.key) == record for record in records[: len(complete)])
        assert len(ledger) == len(complete)
        rest = whole[max(complete, default=0) : cut]
        assert ledger.torn_bytes == len(rest)
        assert ledger.damaged_records == 0
        assert segment.read_bytes() + (torn(root) if rest else b"") == whole[:cut]
        ledger.close()
        again = opened(root)
        assert (again.torn_bytes, len(again)) == (0, len(complete))
        again.close()
        shutil.rmtree(root)


def test_the_tail_of_a_living_writer_is_left_to_it(tmp_path):
    storage = LocalStorage(tmp_path)
    line = filled(tmp_path / "other", record(1)).read_bytes()
    segment = storage.segment("ledger/segments/alive.jsonl")
    segment.append(line[:30])
    ledger = opened(tmp_path)
    assert (ledger.torn_bytes, len(ledger)) == (0, 0)
    assert not (tmp_path / "ledger" / "torn").exists()
    segment.append(line[30:])
    ledger.catch_up()
    assert ledger.find(record(1).key) == record(1)
    segment.close()


def test_every_flipped_bit_of_a_segment_is_noticed_and_costs_only_its_own_lines(tmp_path):
    records = [record(number) for number in range(6)]
    whole = filled(tmp_path / "whole", *records).read_bytes()
    rng = random.Random(5)
    for place in rng.sample(range(len(whole) - 1), 60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        root = tmp_path / str(place)
        (root / "ledger" / "segments").mkdir(parents=True)
        (root / "ledger" / "segments" / "s.jsonl").write_bytes(flipped)
        ledger = opened(root)
        sound = list(ledger.records())
        assert all(record in records for record in sound)
        assert 4 <= len(sound) <= 5
        assert ledger.damaged_records in (1, 2)
        assert [ledger.find(record.key) for record in sound] == sound
        ledger.close()


@pytest.mark.parametrize("line", [b"\n", b"00000000 \n", b"00000000\n", b"not a record\n", b"\0" * 100 + b"\n"])
def test_a_line_that_is_no_record_is_counted_and_skipped(tmp_path, line):
    segment = filled(tmp_path, record(1))
    segment.write_bytes(line + segment.read_bytes())
    for index in indexes(tmp_path):
        index.unlink()
    ledger = opened(tmp_path)
    assert ledger.damaged_records == 1
    assert ledger.find(record(1).key) == record(1)


def test_an_answer_damaged_after_it_was_indexed_is_asked_again_and_then_found(tmp_path):
    segment = filled(tmp_path, *map(record, range(5)))
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b"answer 2", b"answer 3"))
    ledger = opened(tmp_path)
    assert ledger.find(record(2).key) is None
    assert ledger.damaged_records == 1
    assert all(ledger.find(record(n).key) == record(n) for n in (0, 1, 3, 4))
    append(ledger, record(2))
    assert ledger.find(record(2).key) == record(2)
    ledger.close()
    assert opened(tmp_path).find(record(2).key) == record(2)


def test_a_segment_that_was_taken_away_is_missing_and_no_error(tmp_path):
    segment = filled(tmp_path, record(1))
    segment.rename(tmp_path / "elsewhere")
    ledger = opened(tmp_path)
    assert ledger.find(record(1).key) is None
    assert len(ledger) == 0


def test_a_segment_put_back_from_an_older_copy_is_indexed_as_it_is(tmp_path):
    segment = filled(tmp_path, *map(record, range(5)))
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:2]))
    ledger = opened(tmp_path)
    assert len(ledger) == 2
    assert [n for n in range(5) if ledger.find(record(n).key)] == [0, 1]


# the index


def spoil(how: str, root: Path) -> None:
    (index,) = indexes(root)
    size = index.stat().st_size
    match how:
        case "lost":
            index.unlink()
        case "empty":
            index.write_bytes(b"")
        case "cut":
            os.truncate(index, size // 2)
        case "cut to a page":
            os.truncate(index, 4096)
        case "garbage":
            index.write_bytes(random.Random(1).randbytes(size))
        case "garbage below the header":
            index.write_bytes(index.read_bytes()[:4096] + random.Random(1).randbytes(size - 4096))
        case "another database":
            index.unlink()
            with sqlite3.connect(index) as other:
                other.execute("CREATE TABLE entry (something TEXT)")
            other.close()
        case "wrong places":
            with sqlite3.connect(index) as other:
                other.execute("UPDATE entry SET offset = offset + 1")
            other.close()
        case "wrong types":
            with sqlite3.connect(index) as other:
                other.execute("UPDATE entry SET offset = 'x', length = 1 << 62")
            other.close()
        case "wrong lengths":
            with sqlite3.connect(index) as other:
                other.execute("UPDATE entry SET offset = -1, length = 1 << 62")
            other.close()


SPOILT = [
    "lost", "empty", "cut", "cut to a page", "garbage", "garbage below the header", "another database", "wrong places",
    "wrong types", "wrong lengths",
]  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_an_index_that_is_no_good_is_made_again(tmp_path, how):
    filled(tmp_path, *map(record, range(300)))
    spoil(how, tmp_path)
    ledger = opened(tmp_path)
    for number in range(300):
        assert ledger.find(record(number).key) == record(number)
    assert len(ledger) == 300
    append(ledger, record(300))
    ledger.close()
    later = opened(tmp_path)
    assert later.find(record(300).key) == record(300)
    assert len(later) == 301
    assert len(indexes(tmp_path)) == 1


@pytest.mark.parametrize("how", ["garbage below the header", "wrong places"])
def test_an_index_that_breaks_under_a_running_ledger_is_made_again(tmp_path, how):
    filled(tmp_path, *map(record, range(2000)))
    ledger = opened(tmp_path)
    append(ledger, record(2000))
    ledger._index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger._index._db.execute("PRAGMA cache_size=0")
    spoil(how, tmp_path)
    append(ledger, record(2001))
    for number in range(2002):
        assert ledger.find(record(number).key) == record(number)
    append(ledger, record(2002))
    assert ledger.find(record(2002).key) == record(2002)


def test_random_bits_flipped_in_the_index_never_give_a_wrong_answer_or_an_error(tmp_path):
    filled(tmp_path / "whole", *map(record, range(500)))
    rng = random.Random(11)
    for turn in range(25):
        root = shutil.copytree(tmp_path / "whole", tmp_path / str(turn))
        (index,) = indexes(root)
        data = bytearray(index.read_bytes())
        for _ in range(rng.choice([1, 20])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        index.write_bytes(data)
        ledger = opened(root)
        for number in range(0, 500, 3):
            assert ledger.find(record(number).key) in (None, record(number))
        ledger.close()
        shutil.rmtree(root)


def test_an_index_made_anew_by_one_process_leaves_the_other_working(tmp_path):
    filled(tmp_path, *map(record, range(50)))
    one, two = opened(tmp_path), opened(tmp_path)
    append(one, record(50))
    two._index.start_anew()
    two.catch_up()
    append(one, record(51))
    append(two, record(52))
    for ledger, numbers in ((one, range(52)), (two, [*range(51), 52])):
        assert [n for n in numbers if ledger.find(record(n).key) != record(n)] == []
        ledger.close()
    later = opened(tmp_path)
    assert [n for n in range(53) if later.find(record(n).key) != record(n)] == []


def test_what_a_killed_writer_left_beside_a_lost_index_does_not_come_back(tmp_path):
    said = killed(writer(tmp_path, 0, 100_000), 100)
    indexes(tmp_path)[0].unlink()
    assert list((tmp_path / "ledger").glob("index-*-wal"))
    ledger = opened(tmp_path)
    assert [number for number in said if ledger.find(record(number).key) is None] == []
    assert not (tmp_path / "ledger" / "index-1.sqlite-wal").exists()


def test_an_index_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "ledger" / "index-1.sqlite").mkdir(parents=True)
    with pytest.raises(UnderstudyError) as caught:
        opened(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/ledger/index-1.sqlite: cannot be used: unable to open database file; "
        "free some space or mend its permissions, and run again"
    )


@pytest.mark.slow
def test_the_keys_of_200_000_records_are_not_held_in_memory(tmp_path):
    """A dictionary of 200,000 keys with their places takes about 40 MB."""
    ledger = opened(tmp_path)
    line = filled(tmp_path / "other", record(0)).read_bytes()
    (tmp_path / "ledger" / "segments").mkdir(exist_ok=True)
    path = tmp_path / "ledger" / "segments" / "s.jsonl"
    path.write_bytes(line * 10)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for start in range(0, 200_000, 10_000):
            entries = [(f"{n:032x}", 0, len(line), 0) for n in range(start, start + 10_000)]
            ledger._index.add("ledger/segments/s.jsonl", entries, len(line))
            del entries
        ledger.find(record(0).key)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ledger) == 200_000
    assert after - before < 2_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 40_000  # kilobytes; SQLite's pages with it
