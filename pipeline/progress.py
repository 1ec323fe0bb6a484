"""What a run says while it works: lines and a live bar for people on stderr, one JSON event a line for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_EVERY_SECONDS = 5.0
"""Between two progress lines where there is no terminal; between two JSON events it is a fifth of that."""


class Reporter:
    """Says things once, in the form that was asked for.

    Args:
        events: write JSON events to stdout.
        quiet: say nothing to people.
    """

    def __init__(self, *, events: bool = False, quiet: bool = False) -> None:
        self._events = events
        self._quiet = quiet
        self.listeners: list[Callable[[str, Mapping[str, Any]], None]] = []
        """Told every event, whether or not programs asked for them."""

    def say(self, text: str) -> None:
        """A line for people."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def event(self, kind: str, **fields: Any) -> None:
        """A line for programs; nothing unless events were asked for."""
        for listen in self.listeners:
            listen(kind, fields)
        if self._events:
            print(json.dumps({"event": kind, **fields}, ensure_ascii=False), flush=True)

    @contextmanager
    def track(self, stage: str, total: int | None, unit: str = "rows") -> Iterator[Tracker]:
        """Show how far a stage is, live in a terminal, else a line now and then."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description:<10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task(stage, total=total, detail="")

                def draw(done: int, detail: str, total: int | None = total) -> None:
                    bar.update(task, completed=done, detail=detail, total=total)

                yield Tracker(self, stage, total, unit, draw)
        else:
            yield Tracker(self, stage, total, unit, None)


class Tracker:
    """Counts the finished items of one stage."""

    def __init__(self, reporter: Reporter, stage: str, total: int | None, unit: str, draw: Any) -> None:
        self.done = 0
        self._reporter = reporter
        self._stage = stage
        self._total = total
        self._unit = unit
        self._draw = draw
        self._first: tuple[float, int] | None = None
        self._drawn = self._said = self._sent = time.monotonic()

    def expect(self, total: int) -> None:
        """Say how many items there will be, once that is known."""
        self._total = total
        if self._draw is not None:
            self._draw(self.done, "", total)

    def advance(self, detail: Callable[[], str] = str, *, by: int = 1, to: int | None = None) -> None:
        """``by`` more items are finished, or ``to`` of them are.

        Args:
            detail: what else to show; asked only when something is shown.
        """
        self.done = self.done + by if to is None else to
        now = time.monotonic()
        self._first = self._first or (now, self.done)
        if now - self._drawn < 0.1:
            return
        self._drawn = now
        words = detail()
        rate = self._rate(now)
        shown = ", ".join(filter(None, (f"{rate:.0f} {self._unit}/s" if rate else "", words)))
        if self._draw is not None:
            self._draw(self.done, shown, self._total)
        elif now - self._said > _EVERY_SECONDS:
            self._said = now
            of = f"/{self._total}" if self._total else ""
            left = f"{(self._total - self.done) / rate:.0f} s left" if rate and self._total else ""
            self._reporter.say(
                f"  {self._stage}: " + ", ".join(filter(None, (f"{self.done}{of} {self._unit}", shown, left)))
            )
        if now - self._sent > _EVERY_SECONDS / 5:
            self._sent = now
            self._reporter.event(
                "progress", stage=self._stage, done=self.done, total=self._total, unit=self._unit, detail=words
            )

    def _rate(self, now: float) -> float:
        """Items a second since the first was finished, before which models load; 0 while nobody knows."""
        if self._first is None or now <= self._first[0]:
            return 0.0
        return (self.done - self._first[1]) / (now - self._first[0])
