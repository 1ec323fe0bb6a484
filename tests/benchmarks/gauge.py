"""What one leg of a benchmark cost its own process: time, CPU and memory, read where they are spent.

Each leg is a process of its own, so nothing another leg left behind is counted. Memory is read from `/proc`, hence
Linux only: the peak that `getrusage` tells includes what the parent had in memory when it forked.
"""

from __future__ import annotations

import math
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Report:
    """Figures of one leg, from the gauge's start."""

    seconds: float
    steady_per_second: float
    """Rows a second between 10% and 90% of the completions; 0 where not that many were counted."""
    cpu_ms: float
    """User and system milliseconds a row, all threads."""
    mb_quarter: float
    """Resident MiB above those at the start, at a quarter of the rows; 0 where not that many were counted."""
    mb_end: float
    mb_peak: float
    first_durable_seconds: float = 0.0
    """From the first answer that came in until the first row was durable."""
    lost: int = 0
    """Rows without a usable answer."""


class Gauge:
    """Starts when it is made; `count` marks a finished row.

    Args:
        rows: how many there will be.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._done = 0
        self._marks = {math.ceil(rows * share): share for share in (0.1, 0.25, 0.9)}
        self._seconds: dict[float, float] = {}
        self._mb: dict[float, float] = {}
        self._mb_before = _resident_mb()
        self._cpu_before = _cpu_seconds()
        self._began = time.monotonic()

    def count(self) -> None:
        self._done += 1
        if share := self._marks.get(self._done):
            self._seconds[share] = time.monotonic() - self._began
            self._mb[share] = _resident_mb() - self._mb_before

    def report(self) -> Report:
        """What was spent until now."""
        steady = 0.8 * self.rows / (self._seconds[0.9] - self._seconds[0.1]) if 0.9 in self._seconds else 0.0
        return Report(
            seconds=time.monotonic() - self._began,
            steady_per_second=steady,
            cpu_ms=1000 * (_cpu_seconds() - self._cpu_before) / self.rows,
            mb_quarter=self._mb.get(0.25, 0.0),
            mb_end=_resident_mb() - self._mb_before,
            mb_peak=_peak_mb() - self._mb_before,
        )


def printable(report: Report) -> dict[str, float]:
    """The report as JSON holds it."""
    return {name: round(value, 6) for name, value in asdict(report).items()}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**10
