"""A Task over many rows: a sliding window, and draws that no window changes.

`process` of a Task is blocking code that may ask several times, and what it draws it draws from the generators that
the whole program shares. A thread per row was weighed: the draws of rows in flight would mix. Here `process` starts
from the seed of its row, is left where it asks for an answer that is not there yet, and runs again from the start once
it is. Nothing else runs on the loop meanwhile, one loaded Task serves all rows, and a row that waits costs no thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.random import mtrand

from ...data.errors import BadInput, BudgetReached, UnderstudyError
from ...data.rows import Answer, Failed, Rejected
from .library import Task, TextClassification, UltraFeedback
from .llm import ASKER, Request, TeacherLLM

Item = TypeVar("Item")
Row = TypeVar("Row")
Strategy = Callable[[Item], Coroutine[Any, Any, Row | Rejected | Failed]]
"""Makes one row of another; safe to call many times at once."""

_GENERATOR = np.random.MT19937(0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row for a Task."""

    id: str
    columns: Mapping[str, Any]
    seed: int = 0
    """Decides all that the Task draws, and is the index of the first draw that it asks a teacher for."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a Task made of a candidate."""

    id: str
    rows: tuple[dict[str, Any], ...]
    """The candidate's columns with the Task's own, a row per generation unless the Task groups them."""


async def run_task(
    task: Task, candidates: Iterable[Candidate], *, window: int = 64
) -> AsyncIterator[Output | Rejected | Failed]:
    """Run a Task with a `TeacherLLM` over candidates, in the order they are done.

    A candidate stands on all its answers: where one fails it is `Failed`, where one is cut short or not in the Task's
    form it is `Rejected`. Draws that may fail by themselves are candidates of their own.

    Args:
        window: candidates in flight; speed only, never the rows.

    Raises:
        BadInput: the Task takes no rows or has another LLM, or what a `TeacherLLM` refuses.
        UnderstudyError: whatever the teacher raises.
    """
    async for row in arriving(candidates, ready(task), window=window):
        yield row


async def arriving(
    items: Iterable[Item], work: Strategy[Item, Row], *, window: int = 64
) -> AsyncIterator[Row | Rejected | Failed]:
    """What ``work`` makes of every item, in the order it is done; the first error stops all.

    Only where the budget is reached, what is in flight is waited for: it will be billed, so it has to be recorded.

    Args:
        window: items in flight; speed only, never the rows.
    """
    source = iter(items)
    done: asyncio.Queue[asyncio.Task[Row | Rejected | Failed]] = asyncio.Queue()
    running: set[asyncio.Task[Row | Rejected | Failed]] = set()
    try:
        while True:
            for item in islice(source, window - len(running)):
                running.add(started := asyncio.create_task(work(item)))
                started.add_done_callback(done.put_nowait)
            if not running:
                return
            ended = await done.get()
            running.remove(ended)
            yield ended.result()
    except BudgetReached:
        await asyncio.gather(*running, return_exceptions=True)
        raise
    finally:
        for left in running:
            left.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def ready(task: Task) -> Strategy[Candidate, Output]:
    """Load a Task for use here: with the structure it wants by default, and without its log.

    Raises:
        BadInput: it takes no rows, or has another LLM.
    """
    if not isinstance(task, Task) or not isinstance(task.llm, TeacherLLM):
        found = f"{type(task).__name__} with {type(task.llm).__name__}"
        raise BadInput(f"run_task: found {found}; expected a Task that takes rows, with a TeacherLLM")
    if task.use_default_structured_output and not task.llm.structured_output:
        # distilabel would do the same, and refuse first where the package `outlines` is missing
        task.llm.structured_output = {"schema": task.get_structured_output()}
    with _drawing_from(0):  # some Tasks seed the shared generators
        task.load()
    task._logger = logging.getLogger(__name__)
    task._logger.setLevel(logging.ERROR)  # what it would log about a row, the row says
    return lambda candidate: _Run(task, candidate).result()


class _Pause(BaseException):
    """Leaves `process` where an answer is missing; no Task takes it for an error of its own."""

    def __init__(self, request: Request) -> None:
        self.request = request


class _Run:
    """A candidate on its way through a Task: what it asked so far, in order, and what it was told."""

    def __init__(self, task: Task, candidate: Candidate) -> None:
        self.id = candidate.id
        self.seed = candidate.seed
        self._task = task
        self._columns = candidate.columns
        self._known: list[tuple[Request, list[Answer]]] = []
        self._calls = 0

    async def result(self) -> Output | Rejected | Failed:
        while True:
            try:
                rows = self._process()
            except _Pause as pause:
                if unusable := await self._learn(pause.request):
                    return unusable
            except UnderstudyError:
                raise
            except Exception as error:  # a Task raises what it likes
                found = f"{type(error).__name__}: {error}"[:200]
                if self._known:
                    return Rejected(self.id, "unparsable", found)
                return Failed(self.id, "template", f"{self._task.name} cannot make a prompt of the row: {found}")
            else:
                return self._judged(rows)

    def answers(self, request: Request) -> list[Answer]:
        if self._calls == len(self._known):
            raise _Pause(request)
        asked, answers = self._known[self._calls]
        self._calls += 1
        if asked != request:
            found = f"row {self.id}: the Task asks something else when it is run again"
            raise BadInput(f"{found}; expected one that draws from `random` and `numpy.random` only")
        return answers

    def _process(self) -> list[dict[str, Any]]:
        """The Task's rows, from the start."""
        self._calls = 0
        columns = deepcopy(dict(self._columns))  # Tasks write into them
        token = ASKER.set(self)
        try:
            with _drawing_from(self.seed):
                return list(next(self._task.process_applying_mappings([columns])))
        finally:
            ASKER.reset(token)

    async def _learn(self, request: Request) -> Rejected | Failed | None:
        """Ask, and keep the answers where all can be used."""
        answers: list[Answer] = []
        for answer in await request.ask():
            if isinstance(answer, Failed):
                return replace(answer, id=self.id)
            if answer.finish_reason == "length":
                return Rejected(self.id, "cut_short", answer.text[-200:])
            answers.append(answer)
        self._known.append((request, answers))
        return None

    def _judged(self, rows: list[dict[str, Any]]) -> Output | Rejected:
        said = [answer.text for answer in self._known[-1][1]] if self._known else [""]
        own = {name: value for name, value in self._columns.items() if name not in self._task.get_outputs()}
        for position, row in enumerate(rows):
            row.update(own)  # of a reply in JSON some Tasks make a column of every key
            if reason := _fault(self._task, row):
                return Rejected(self.id, reason, said[position % len(said)][:200])
        return Output(self.id, tuple(rows))


def _fault(task: Task, row: Mapping[str, Any]) -> str:
    """Why the output of a Task cannot be used; empty where it can.

    Over a reply in another form Tasks do not raise: they leave a column empty, or full of something else.
    """

    def column(name: str) -> Any:
        return row.get(task.output_mappings.get(name) or task.input_mappings.get(name) or name)

    for name in (name for name, required in task.get_outputs().items() if required):
        parts = list(_leaves(row.get(name)))
        if not parts or any(part is None for part in parts):
            return "unparsable"
        if any(isinstance(part, str) and not part.strip() for part in parts):
            return "empty"
    if isinstance(task, TextClassification):
        labels = column("labels") if task.group_generations else [column("labels")]
        if any(isinstance(label, list) != (task.n > 1) for label in labels):
            return "unparsable"
        if task.available_labels and any(label not in list(task.available_labels) for label in _leaves(labels)):
            return "not_a_label"
    if isinstance(task, UltraFeedback):
        ratings = list(_leaves(column("ratings")))
        generations = task.num_generations if task.group_generations else 1
        if len(ratings) != generations * len(column("generations")) or any(one not in range(1, 6) for one in ratings):
            return "unparsable"
    return ""


def _leaves(value: Any) -> Iterator[Any]:
    """What is in a list of lists; a value by itself."""
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """The shared generators start at a seed; whoever draws afterwards goes on where they were.

    numpy's is exchanged, in 2 us: to copy its state and to set it back takes 220. What is lost is the second half of
    a pair of legacy normals.
    """
    state, generator = random.getstate(), mtrand.get_bit_generator()
    random.seed(seed)
    mtrand.set_bit_generator(_GENERATOR)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        mtrand.set_bit_generator(generator)
        random.setstate(state)
