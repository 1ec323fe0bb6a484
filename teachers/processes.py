"""Processes that a library starts for us: what they print goes to a file, and they end when we do, however we end.

A process that outlives a killed parent keeps its GPU, and the run that should go on finds no memory: vLLM's engine
does (0.31, measured). multiprocessing lets nobody between it and a new process but as the interpreter it starts, so
that is what a script stands in for. A watchdog process was weighed: it knows the ids only once all have started.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

_SCRIPT = """#!/bin/sh
exec {python} -c '
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != {parent}: sys.exit()  # too late to be told
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
' "$@" >>{log} 2>&1
"""
_ERROR = re.compile(r"(?:^|\] )(?:\w+\.)*(\w*(?:Error|Exception): .+)", re.MULTILINE)


@contextmanager
def attached(log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """What multiprocessing spawns meanwhile writes to ``log`` and ends with the thread that spawned it.

    Args:
        environment: variables for the processes, where the user has not set them.
    """
    script = log.with_suffix(".sh")
    python, place = shlex.quote(sys.executable), shlex.quote(str(log))
    script.write_text(_SCRIPT.format(python=python, parent=os.getpid(), log=place))
    script.chmod(0o700)
    resource_tracker.ensure_running()  # it serves the whole process, and must not end with a thread
    added = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(added)
    multiprocessing.set_executable(str(script))
    try:
        yield
    finally:
        multiprocessing.set_executable(sys.executable)
        for name in added:
            del os.environ[name]


def first_error(log: Path) -> str:
    """The first error that a traceback in the log ends with: later ones only pass it on. Empty where there is none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    found = _ERROR.search(text)
    return found[1].strip() if found else ""
