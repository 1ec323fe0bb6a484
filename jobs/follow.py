"""A job elsewhere, as the run itself would show it here: its lines, its live bar, its events and its exit code.

The run over there writes events beside its lines, whatever was asked for here; they are what the bar is drawn from.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from contextlib import ExitStack
from typing import Any

from ..data.errors import TeacherUnreachable, UnderstudyError
from ..pipeline.progress import Reporter, Tracker
from .server import JobServer

_PROGRESS = re.compile(r"  [\w:-]+: \d+(/\d+)? \w+")
"""The line that stands for a bar where there is no terminal."""

_CODES = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143})
"""What a run ends with on purpose."""


class Screen:
    """Shows the lines of a job.

    Args:
        events: hand its events on, to stdout.
    """

    def __init__(self, reporter: Reporter, events: bool) -> None:
        self._reporter = reporter
        self._events = events
        self._live = sys.stderr.isatty()
        self._bar = ExitStack()
        self._stage: str | None = None
        self._tracker: Tracker | None = None

    def show(self, line: str) -> None:
        """One line, as the job wrote it."""
        event = _event(line)
        if event is None:
            if not (self._live and _PROGRESS.match(line)):
                self._reporter.say(line)
            return
        if self._events:
            print(line, flush=True)
        if event["event"] == "progress":
            self._draw(event)
        else:
            self.clear()

    def clear(self) -> None:
        """Take the bar away."""
        self._bar.close()
        self._tracker = None

    def _draw(self, event: dict[str, Any]) -> None:
        if not self._live:
            return
        if self._tracker is None or event["stage"] != self._stage:
            self.clear()
            self._stage = event["stage"]
            silent = Reporter()  # the events are the job's own
            self._tracker = self._bar.enter_context(silent.track(event["stage"], event["total"], event["unit"]))
            self._tracker.done = event["done"]
            self._tracker.expect(event["total"])  # draws at once
        self._tracker.advance(lambda: str(event["detail"]), to=event["done"])


def follow(server: JobServer, name: str, reporter: Reporter, events: bool) -> int:
    """Show what a job says until it ends, and return the run's own exit code.

    Raises:
        TeacherUnreachable: the cluster lost the job, or we the cluster.
        UnderstudyError: the run did not even start, or was killed.
    """
    screen = Screen(reporter, events)

    async def show() -> None:
        async for line in server.lines(name):
            screen.show(line)

    showing = show()
    try:
        asyncio.run(showing)
    finally:
        showing.close()  # where Ctrl-C came before it began, Python would warn that nobody awaited it
        screen.clear()
    return exit_code(server.job(name))


def exit_code(job: Any) -> int:
    """Of a job that has ended, by Ray's details of it.

    Raises:
        TeacherUnreachable: the node that it ran on is lost.
        UnderstudyError: it did not even start, or was killed.
    """
    name, code = job.submission_id, job.driver_exit_code
    if job.status == "STOPPED":
        return 143
    if code in _CODES:
        return int(code)
    said = (str(job.message).strip().splitlines() or ["nothing is said"])[-1].strip()[:300]
    if code is not None:
        killed = f"was killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with code {code}"
        raise UnderstudyError(f"job {name}: {killed}: {said}; submit again: it goes on where it stopped")
    if job.error_type == "RUNTIME_ENV_SETUP_FAILURE":
        raise UnderstudyError(f"job {name}: a node could not unpack what was sent: {said}; mend the node's environment")
    raise TeacherUnreachable(f"job {name}: the cluster lost it: {said}; submit again: it goes on where it stopped")


def _event(line: str) -> dict[str, Any] | None:
    if not line.startswith('{"event": '):
        return None
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event
