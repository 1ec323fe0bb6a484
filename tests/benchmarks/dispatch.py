"""The path from rows to answers, measured beside a bare asyncio loop in the same run.

`python -m tests.benchmarks.dispatch` prints one Markdown table. It needs Linux, and the mock endpoint of the shared
tools. How busy the machine was is told with the figures: a share of the bare loop survives that, a rate does not.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence

from .rows import ROWS, Line, Plan
from .server import TOOL

_WIDTHS = (64, 10, 30, 20, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=ROWS, help="measure one row of the table")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a median is taken of (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round, an eighth of the rows: is all in order?")
    parser.add_argument("--million", action="store_true", help="measure memory on 1,000,000 rows too")
    given = parser.parse_args()
    if not TOOL.exists():
        print(f"{TOOL}: no such file, so there is no endpoint to measure against; skipped", file=sys.stderr)
        return
    plan = Plan(1 if given.quick else given.rounds, 1 / 8 if given.quick else 1.0, given.million)
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, Python {platform.python_version()}"
    print(f"{machine}; rounds: {plan.rounds}\n")
    _print(("", "bare loop", "ours", "to reach", "met"))
    _print(["-" * width for width in _WIDTHS])
    for name, measure in ROWS.items():
        if given.only in (None, name):
            for line in measure(plan):
                _print(_cells(line))


def _cells(line: Line) -> Sequence[str]:
    met = {None: "", True: "yes", False: "no"}[line.met]
    return (line.what, line.bare, line.ours, line.goal, met)


def _print(cells: Sequence[str]) -> None:
    print("|", " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)), "|", flush=True)


if __name__ == "__main__":
    main()
