"""Where a stage's questions are asked and students learn: here, or wherever an executor from `jobs` puts the work.

A stage asks in two passes. The first fills the ledger, anywhere and in whatever order answers come; the second walks
the items in their own order and finds every answer there. That is what makes the rows equal on any number of workers,
and a killed stage resume for free. An executor therefore owes no results, only a filled ledger and the failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .ask import for_each
from .progress import Tracker

if TYPE_CHECKING:
    from ..students.crew import Crew
    from ..students.sft import Show
    from .context import Run

Item_contra = TypeVar("Item_contra", contravariant=True)
Said_co = TypeVar("Said_co", covariant=True)
Item = TypeVar("Item")
Said = TypeVar("Said")


class Asking(Protocol[Item_contra, Said_co]):
    """How one item of a stage is asked: small and picklable, because it travels to where the asking is done."""

    def teacher(self, run: Run) -> str:
        """Name of the teacher that is asked."""
        ...

    async def __call__(self, run: Run, item: Item_contra) -> Said_co:
        """What the teacher says to an item, through the run's ledger."""
        ...


class Learning(Protocol):
    """How one method of a student is learnt: small and picklable, because it travels to where the learning is done."""

    @property
    def path(self) -> str:
        """The student's folder, below the run's root; what it says of itself in the end is in its file `FINISHED`."""
        ...

    def __call__(self, run: Run, show: Show, crew: Crew) -> dict[str, Any]:
        """Learn in this process, alone or among others; goes on where an earlier call stopped."""
        ...


class Executor(Protocol):
    """Does the first pass, and has students learn."""

    def fill(self, run: Run, asking: Asking[Item, Any], items: Iterable[Item], tracker: Tracker) -> None:
        """Ask for every item, in any order; then the ledger has each answer and the run's teacher knows each failure.

        Raises:
            BudgetReached: the cap allows no further request; what was in flight is recorded.
            TeacherUnreachable: nothing more can be answered now.
        """
        ...

    def learn(self, run: Run, learning: Learning, show: Show) -> dict[str, Any]:
        """Learn to the end, on as many workers as there are; returns what the student's training says of itself."""
        ...

    def close(self) -> None:
        """Give back processes and connections."""
        ...


class LocalExecutor:
    """Asks from this process, in one sliding window, and learns in it."""

    def fill(self, run: Run, asking: Asking[Item, Any], items: Iterable[Item], tracker: Tracker) -> None:
        name = asking.teacher(run)
        teacher = run.teacher(name)

        async def ask(item: Item) -> None:
            await asking(run, item)
            tracker.advance(lambda: run.spend.line(teacher.in_flight))

        run_loop(for_each(items, ask, run.window(name)))
        run.ledger.flush()

    def learn(self, run: Run, learning: Learning, show: Show) -> dict[str, Any]:
        from ..students.crew import ALONE

        return learning(run, show, ALONE)

    def close(self) -> None:
        """Nothing to give back."""


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end on uvloop: a request takes a quarter less CPU time there than on asyncio's own loop (measured)."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def ask_all(
    run: Run,
    asking: Asking[Item, Said],
    items: Callable[[], Iterable[Item]],
    total: int,
    each: Callable[[Item, Said], None],
    *,
    title: str,
    unit: str = "rows",
) -> None:
    """Ask for every item, then hand each with what was said to ``each``, in the items' order.

    Args:
        items: read twice, once for each pass.
    """
    teacher = run.teacher(asking.teacher(run))  # reads what earlier runs paid, before anybody pays more
    with run.reporter.track(title, total, unit) as tracker:
        run.executor.fill(run, asking, items(), tracker)

    async def walk() -> None:
        for item in items():
            each(item, await asking(run, item))

    teacher.asking = False
    try:
        run_loop(walk())
    finally:
        teacher.asking = True
