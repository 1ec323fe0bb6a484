"""Our path in a process of its own: recipe, sources, prompts, ledger and endpoint teacher as a run puts them together.

`ask` is the first pass of the label stage, from the file of inputs until every answer is durable and parsed; `stage` is
`understudy label`: both passes, and the Parquet shards.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

# What a label stage imports on its way, here already: memory is counted from after them.
import aiohttp  # noqa: F401
import jinja2.sandbox  # noqa: F401
import pyarrow.parquet  # noqa: F401

from understudy.data.rows import Answer, Example, Failed, Prompt, Rejected, Source
from understudy.data.storage import LocalStorage
from understudy.data.teacher import Sampling, Teacher
from understudy.pipeline.context import Run
from understudy.pipeline.label import AskLabel
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import run_stages

from .gauge import Gauge, Report, printable


class FirstAnswer:
    """A teacher that notes when its first answer came in."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.name = teacher.name
        self.identity = teacher.identity
        self.close = teacher.close
        self.at = 0.0

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        answer = await self._teacher.answer(prompt, sampling)
        self.at = self.at or time.monotonic()
        return answer


class Counted(AskLabel):
    """The label stage's asking; a row is counted when its answer is durable and parsed."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self.first_at = 0.0
        self.lost = 0

    async def __call__(self, run: Run, item: Source) -> Example | Rejected | Failed:
        row = await super().__call__(run, item)
        self.first_at = self.first_at or time.monotonic()
        self.lost += not isinstance(row, Example)
        self._gauge.count()
        return row


def ask(run: Run, gauge: Gauge) -> Report:
    asking = Counted(gauge)
    recorded = run.teacher(asking.teacher(run))
    recorded.teacher = first = FirstAnswer(recorded.teacher)
    with run.reporter.track("label", gauge.rows) as tracker:
        run.executor.fill(run, asking, run.unlabeled(), tracker)
    return replace(gauge.report(), first_durable_seconds=asking.first_at - first.at, lost=asking.lost)


def stage(run: Run, gauge: Gauge) -> Report:
    run_stages(run, "label")
    return gauge.report()


STEPS = {"ask": ask, "stage": stage}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("step", choices=STEPS)
    given = parser.parse_args()
    gauge = Gauge(given.rows)
    run = Run(load_recipe(given.recipe), LocalStorage(given.root), Reporter())
    report = STEPS[given.step](run, gauge)
    run.close()
    print(json.dumps(printable(report)))


if __name__ == "__main__":
    main()
