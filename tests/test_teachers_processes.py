import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.teachers.processes import attached, first_error

SPAWN = multiprocessing.get_context("spawn")
TRACEBACK = """Some library is installed, but not for this machine.
(Worker pid=7) ERROR 11-25 23:44:29 [worker.py:14] Traceback (most recent call last):
(Worker pid=7) ERROR 11-25 23:44:29 [worker.py:14] torch.cuda.OutOfMemoryError: 7 GiB are missing
Process EngineCore:
Traceback (most recent call last):
  File "core.py", line 1, in run
RuntimeError: a worker did not start
"""
PARENT = """
import multiprocessing, sys, time
from pathlib import Path
from understudy.teachers.processes import attached

log = Path(sys.argv[1])
with attached(log, {}):
    work = ("import time; print('at work', flush=True); time.sleep(600)",)
    child = multiprocessing.get_context("spawn").Process(target=exec, args=work)
    child.start()
while sys.argv[2] == "at work" and not (log.exists() and "at work" in log.read_text()):
    time.sleep(0.05)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_what_a_spawned_process_says_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    log = tmp_path / "Ann's log.txt"

    with attached(log, {}):
        child = SPAWN.Process(target=print, args=("hello",))
        child.start()
        child.join()

    assert child.exitcode == 0
    assert log.read_text() == "hello\n"
    assert capfd.readouterr() == ("", "")


def test_processes_started_afterwards_are_left_alone(tmp_path: Path):
    log = tmp_path / "log"

    with attached(log, {}):
        pass
    child = SPAWN.Process(target=print, args=("hello",))
    child.start()
    child.join()

    assert not log.exists()


def test_variables_are_set_for_the_processes_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHOSEN", "by the user")

    with attached(tmp_path / "log", {"CHOSEN": "by us", "UNKNOWN": "by us"}):
        assert (os.environ["CHOSEN"], os.environ["UNKNOWN"]) == ("by the user", "by us")

    assert os.environ["CHOSEN"] == "by the user"
    assert "UNKNOWN" not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("moment", ["just started", "at work"])
def test_a_process_ends_with_a_parent_that_is_killed(tmp_path: Path, moment: str):
    arguments = [sys.executable, "-c", PARENT, str(tmp_path / "log"), moment]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    for _ in range(100):
        if not running(child):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} outlived its parent")


def running(process: int) -> bool:
    """Whether it still does anything; one that nobody has fetched yet does not."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def test_the_first_error_in_a_log_is_the_one_that_the_others_pass_on(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(TRACEBACK)

    assert first_error(log) == "OutOfMemoryError: 7 GiB are missing"


@pytest.mark.parametrize("text", [None, "", "a warning\n", "no Error here\n"])
def test_a_log_without_an_error_has_none(tmp_path: Path, text: str | None):
    log = tmp_path / "log"
    if text is not None:
        log.write_text(text)

    assert first_error(log) == ""
