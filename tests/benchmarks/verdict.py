"""Is the verdict what it says? Students whose true difference is known are judged again and again.

`python -m tests.benchmarks.verdict` prints one Markdown table: how often a student that is exactly the margin worse
than its teacher passes (5% is what the interval promises), and how often the 90% interval holds the true difference.

Right/wrong rows are drawn by their counts, so that 2,000 experiments of a setting are cheap. Graded scores and rows
that share a root go through the bootstrap, which takes most of the minute that this runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from understudy.pipeline.statistics import Interval, tango
from understudy.pipeline.verdict import score_difference

MARGIN = 2.0
"""Points by which the student is worse, in truth too."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """How rows come about."""

    what: str
    rows: int
    differ: float
    """Share of rows on which the two differ."""
    draw: Callable[[np.random.Generator, int, float], Interval]


def right_or_wrong(random: np.random.Generator, rows: int, differ: float) -> Interval:
    """Rows that stand alone."""
    wins, losses, _ = random.multinomial(rows, _shares(differ))
    return _tango(int(wins), int(losses), rows)


def sharing_roots(random: np.random.Generator, rows: int, differ: float) -> Interval:
    """Five rows to a root, of which most have its fate."""
    roots = rows // 5
    drawn = random.choice([1.0, -1.0, 0.0], (roots, 5), p=_shares(differ))
    alike = random.random((roots, 5)) < 0.7
    fate = random.choice([1.0, -1.0, 0.0], (roots, 1), p=_shares(differ))
    difference = np.where(alike, fate, drawn).ravel()
    return _difference(difference, [row // 5 for row in range(roots * 5)], graded=False)


def graded(random: np.random.Generator, rows: int, differ: float) -> Interval:
    """Scores between right and wrong on the rows that differ."""
    sign = random.choice([1.0, -1.0, 0.0], rows, p=_shares(differ, 2 * MARGIN))  # they differ by half a point each
    return _difference(sign * random.beta(2, 2, rows), list(range(rows)), graded=True)


def _shares(differ: float, points: float = MARGIN) -> tuple[float, float, float]:
    """Of rows on which the student is better, on which the teacher is, and of the rest."""
    gap = points / 100
    return (differ - gap) / 2, (differ + gap) / 2, 1 - differ


def _difference(difference: Scores, roots: list[int], *, graded: bool) -> Interval:
    student, teacher = np.maximum(difference, 0), np.maximum(-difference, 0)
    return score_difference(student, teacher, roots, graded=graded)[0]


@cache
def _tango(wins: int, losses: int, rows: int) -> Interval:
    return tango(wins, losses, rows)


def settings() -> Iterator[Setting]:
    for rows in (50, 100, 200, 500, 1000, 3000):
        for differ in (0.02, 0.05, 0.08, 0.15):
            yield Setting("right or wrong", rows, differ, right_or_wrong)
    for what, draw in (("graded", graded), ("5 rows to a root", sharing_roots)):
        for rows in (200, 1000):
            for differ in (0.05, 0.15):
                yield Setting(what, rows, differ, draw)


def measure(setting: Setting, experiments: int) -> tuple[float, float]:
    """Percent of students at the margin that pass, and of intervals that hold the truth."""
    random = np.random.default_rng([setting.rows, round(100 * setting.differ)])
    truth = -MARGIN
    passed = held = 0
    for _ in range(experiments):
        interval = setting.draw(random, setting.rows, setting.differ)
        passed += interval.low > truth
        held += interval.low <= truth + 1e-9 and truth - 1e-9 <= interval.high
    return 100 * passed / experiments, 100 * held / experiments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000)
    experiments = parser.parse_args().experiments
    print(
        f"{experiments} experiments a setting; the student is truly {MARGIN:g} points worse, the margin is {MARGIN:g}\n"
    )
    print("| rows | | differ on | pass | to reach | interval holds | to reach |\n|---|---|---|---|---|---|---|")
    for setting in settings():
        passed, held = measure(setting, experiments if setting.draw is right_or_wrong else experiments // 2)
        wanted = "88 to 92" if setting.rows >= 200 else ""
        print(
            f"| {setting.what} | {setting.rows:,} | {setting.differ:.0%} | {passed:.1f}% | <= 6% | {held:.1f}% "
            f"| {wanted} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
