"""What the lock promises: one run inside at a time, whoever is killed, stalled or late."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from understudy.data.errors import Locked, UnderstudyError
from understudy.data.lock import Lock
from understudy.data.storage import LocalStorage

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
PATH = "run/lock.json"

_HOLDER = (
    "import sys\nfrom pathlib import Path\n"
    "from understudy.data.lock import Lock\nfrom understudy.data.storage import LocalStorage\n"
    "with Lock(LocalStorage(Path(sys.argv[1])), 'run/lock.json'):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def holder(root: Path) -> subprocess.Popen:
    """A process that holds the lock until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout.readline() == "held\n"
    return process


def content(root: Path) -> dict:
    return json.loads((root / PATH).read_text())


def plant(root: Path, **changes: object) -> None:
    """A lock of this process, with changes."""
    (root / PATH).unlink(missing_ok=True)
    with Lock(LocalStorage(root), PATH):
        fields = content(root)
    (root / PATH).write_text(json.dumps({**fields, **changes}))


def refusal(root: Path) -> str:
    with pytest.raises(Locked) as caught, Lock(LocalStorage(root), PATH):
        pass
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)
    return str(caught.value)


def until(true) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_is_there_while_it_is_held_and_gone_afterwards(tmp_path):
    with Lock(LocalStorage(tmp_path), PATH) as lock:
        held = content(tmp_path)
        assert (held["host"], held["pid"]) == (socket.gethostname(), os.getpid())
        lock.check()
    assert not (tmp_path / PATH).exists()


def test_a_lock_is_given_back_when_the_run_fails(tmp_path):
    with pytest.raises(KeyError), Lock(LocalStorage(tmp_path), PATH):
        raise KeyError
    assert not (tmp_path / PATH).exists()


def test_a_second_run_is_refused_and_told_who_holds_the_lock(tmp_path):
    with Lock(LocalStorage(tmp_path), PATH):
        said = refusal(tmp_path)
        assert re.fullmatch(
            rf"run/lock\.json: held by process {os.getpid()} on {re.escape(socket.gethostname())} "
            r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}; wait for it to end, or stop it: this run loses nothing",
            said,
        )
        assert content(tmp_path)["pid"] == os.getpid()


def test_a_run_is_refused_by_another_process_until_that_one_ends(tmp_path):
    process = holder(tmp_path)
    assert f"held by process {process.pid} on " in refusal(tmp_path)
    process.communicate("", timeout=30)
    with Lock(LocalStorage(tmp_path), PATH):
        assert content(tmp_path)["pid"] == os.getpid()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert content(tmp_path)["expires"] > time.time() + 20
    with Lock(LocalStorage(tmp_path), PATH) as lock:
        lock.check()
        assert content(tmp_path)["pid"] == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_process_that_nobody_has_reaped_holds_nothing(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    with Lock(LocalStorage(tmp_path), PATH):
        pass
    process.communicate(timeout=30)


def test_a_stopped_process_still_holds_its_lock(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGSTOP)
    assert "held by process" in refusal(tmp_path)
    process.send_signal(signal.SIGCONT)
    process.communicate("", timeout=30)
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_id_that_was_used_again_does_not_hold_the_lock(tmp_path):
    plant(tmp_path, started="12")
    with Lock(LocalStorage(tmp_path), PATH):
        pass


def test_a_lock_of_another_host_is_respected_until_it_expires(tmp_path):
    plant(tmp_path, host="elsewhere", expires=time.time() + 60)
    assert re.match(rf"run/lock\.json: held by process {os.getpid()} on elsewhere since .*; wait", refusal(tmp_path))
    plant(tmp_path, host="elsewhere", expires=time.time() - 1)
    with Lock(LocalStorage(tmp_path), PATH, expiry=0.4):
        assert content(tmp_path)["host"] == socket.gethostname()


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_clock_that_is_wrong_decides_nothing_while_the_lock_is_renewed(ahead, tmp_path):
    ended = threading.Event()

    plant(tmp_path, host="elsewhere", expires=time.time() + ahead)
    fields = content(tmp_path)

    def renewed() -> None:
        while not ended.wait(0.02):
            mine = {**fields, "expires": time.time() + ahead}
            LocalStorage(tmp_path).replace(PATH, json.dumps(mine).encode())

    renews = threading.Thread(target=renewed)
    renews.start()
    try:
        with pytest.raises(Locked) as caught, Lock(LocalStorage(tmp_path), PATH, expiry=1):
            pass
    finally:
        ended.set()
        renews.join()

    assert "on elsewhere since" in str(caught.value)
    with Lock(LocalStorage(tmp_path), PATH, expiry=0.4):  # nobody renews it any more
        assert content(tmp_path)["host"] == socket.gethostname()


def test_a_container_of_the_same_name_is_another_host(tmp_path):
    plant(tmp_path, namespace="pid:[1]", pid=2**22 + 1, expires=time.time() + 60)
    assert "held by process 4194305 on " in refusal(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"host": "elsewhere", "pid": 1',
        "[]",
        "7",
        "\0\0\0\0",
        "{}",
        '{"host": 1, "namespace": 2, "pid": "3", "started": 4, "since": 5, "expires": "6"}',
    ],
)
def test_a_lock_that_was_cut_short_or_overwritten_is_taken_over(tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / PATH).write_text(text)
    with Lock(LocalStorage(tmp_path), PATH):
        assert content(tmp_path)["pid"] == os.getpid()
    assert not (tmp_path / PATH).exists()


def test_a_lock_is_renewed_while_it_is_held(tmp_path):
    with Lock(LocalStorage(tmp_path), PATH, expiry=0.2) as lock:
        first = content(tmp_path)["expires"]
        until(lambda: content(tmp_path)["expires"] > first + 0.4)  # it would have run out twice
        lock.check()


def test_a_lock_that_was_taken_over_is_noticed_before_the_next_renewal(tmp_path):
    with Lock(LocalStorage(tmp_path), PATH) as lock:
        plant(tmp_path / "other")
        taken = (tmp_path / "other" / PATH).read_bytes()
        (tmp_path / PATH).write_bytes(taken)
        with pytest.raises(Locked) as caught:
            lock.check()
        with pytest.raises(Locked):
            lock.check()
    assert str(caught.value) == (
        "run/lock.json: taken over by another run, or removed, while this one was stalled; "
        "this one stops: everything paid for is in the ledger"
    )
    assert (tmp_path / PATH).read_bytes() == taken


def test_a_lock_that_was_removed_is_noticed_and_not_made_again(tmp_path):
    with Lock(LocalStorage(tmp_path), PATH) as lock:
        (tmp_path / PATH).unlink()
        with pytest.raises(Locked, match="taken over by another run, or removed"):
            lock.check()
    assert not (tmp_path / PATH).exists()


def test_a_lock_whose_folder_was_removed_is_noticed(tmp_path):
    with Lock(LocalStorage(tmp_path), PATH, expiry=0.05) as lock:
        LocalStorage(tmp_path).delete("run")
        until(lambda: not lock._thread.is_alive())
        with pytest.raises(Locked, match="taken over by another run, or removed"):
            lock.check()


def test_leaving_never_removes_a_lock_that_somebody_else_took_over(tmp_path):
    with Lock(LocalStorage(tmp_path), PATH):
        (tmp_path / PATH).write_text("theirs")
    assert (tmp_path / PATH).read_text() == "theirs"


def test_a_stalled_run_loses_its_lock_to_another_host_and_leaves_it_alone(tmp_path):
    stalled = holder(tmp_path)
    stalled.send_signal(signal.SIGSTOP)
    held = content(tmp_path)
    (tmp_path / PATH).write_text(json.dumps({**held, "host": "here once", "expires": time.time() - 1}))
    with Lock(LocalStorage(tmp_path), PATH, expiry=0.4) as lock:
        stalled.send_signal(signal.SIGCONT)
        stalled.communicate("", timeout=30)
        assert stalled.returncode == 0
        lock.check()
        assert content(tmp_path)["pid"] == os.getpid()


class Full(LocalStorage):
    """A disk that takes no renewal for a while."""

    full = False

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        if self.full:
            raise UnderstudyError(f"{path}: cannot be written: No space left on device; free some space")
        return super().swap(path, old, new)


def test_a_full_disk_does_not_end_the_renewals(tmp_path):
    storage = Full(tmp_path)
    with Lock(storage, PATH, expiry=0.1) as lock:
        storage.full = True
        before = content(tmp_path)
        threading.Event().wait(0.2)
        lock.check()
        assert content(tmp_path) == before
        storage.full = False
        until(lambda: content(tmp_path)["expires"] > before["expires"])
        storage.full = True
        (tmp_path / PATH).write_text("theirs")
        with pytest.raises(Locked):
            lock.check()


_RACER = (
    "import os, sys, time\nfrom pathlib import Path\n"
    "from understudy.data.errors import Locked\n"
    "from understudy.data.lock import Lock\nfrom understudy.data.storage import LocalStorage\n"
    "root, turns = Path(sys.argv[1]), int(sys.argv[2])\n"
    "storage, counter = LocalStorage(root), root / 'counter'\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "while turns:\n"
    "    try:\n"
    "        with Lock(storage, 'run/lock.json') as lock:\n"
    "            os.close(os.open(root / 'inside', os.O_CREAT | os.O_EXCL))\n"
    "            counter.write_text(str(int(counter.read_text()) + 1))\n"
    "            lock.check()\n"
    "            os.unlink(root / 'inside')\n"
    "            turns -= 1\n"
    "            if not turns and os.getpid() % 3 == 0: os._exit(0)  # leaves its lock behind\n"
    "    except Locked:\n"
    "        time.sleep(0.002)\n"
)


@pytest.mark.slow
def test_of_twenty_processes_that_race_exactly_one_is_inside_at_any_time(tmp_path):
    (tmp_path / "counter").write_text("0")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), "5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for _ in range(20)
    ]
    for process in racers:
        assert process.stdout.readline() == "ready\n"
    for process in racers:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120)[1] for process in racers] == [""] * 20
    assert (tmp_path / "counter").read_text() == "100"
