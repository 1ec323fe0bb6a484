"""What a run would do and cost: stages left, requests, tokens, dollars, minutes, and the power of the verdict's test.

Without a pilot nobody is asked: tokens are guessed from text (four bytes each) and answers from the labels' lengths. A
pilot asks for some rows, which the run that follows has in its ledger, and puts an interval around what all of them
will cost. What is in the ledger already is not subtracted, nor are answers counted that will be asked for again.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..data.errors import NotEnoughData
from ..data.rows import Answer, Example, Failed, Source
from ..students.config import Preference
from ..teachers.kind import HourlyPrice, Price
from .context import Run
from .executor import Asking, ask_all
from .generate import AskAloud, Written, read_candidates
from .rubric import AskRubric
from .run import artifacts
from .strategies.tasks import TaskStrategy
from .strategies.writer import Exchange, Writer
from .verdict import USUAL_DISCORDANCE, rows_needed

Array = npt.NDArray[np.float64]
Item = TypeVar("Item")
Said = TypeVar("Said")

_BYTES_PER_TOKEN = 4
_SAMPLED = 200
"""Inputs whose prompts are rendered to guess the length of all."""

_TASK_BYTES = 1500
"""Of a Task's own prompt, where nothing else is known."""

_BASELINES = 3
"""Of those, the untrained student among them, that free text has."""


@dataclass(frozen=True)
class Asked:
    """Requests of one stage."""

    stage: str
    requests: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    usd_interval: tuple[float, float] | None = None
    """90% interval, from a pilot."""
    minutes: float | None = None
    """At the pace of the pilot."""

    def line(self) -> str:
        """For a terminal."""
        usd = "no price of tokens given" if self.usd is None else f"about ${self.usd:.2f}"
        if self.usd_interval is not None:
            usd += " ({:.2f} to {:.2f})".format(*self.usd_interval)
        minutes = "" if self.minutes is None else f", about {self.minutes:.1f} minutes"
        return (
            f"  {self.stage}: about {self.requests} requests, {self.input_tokens:,} tokens in and "
            f"{self.output_tokens:,} out, {usd}{minutes}"
        )


@dataclass(frozen=True)
class Piloted:
    """What some requests of a stage took; arrays of shape [requests]."""

    input_tokens: Array
    output_tokens: Array
    seconds: float

    def asked(self, run: Run, stage: str, teacher: str, requests: int) -> Asked:
        """The whole stage, if all its requests are like these."""
        rows, price = len(self.input_tokens), run.recipe.teachers[teacher].price
        usd = interval = None
        if price is not None:
            each = self._costs(price)
            usd = requests * float(each.mean())
            half = 1.645 * requests * float(each.std(ddof=1)) / math.sqrt(rows) if rows > 1 else usd
            interval = (max(0.0, usd - half), usd + half)
        return Asked(
            stage,
            requests,
            round(requests * float(self.input_tokens.mean())),
            round(requests * float(self.output_tokens.mean())),
            usd,
            interval,
            requests * self.seconds / rows / 60,
        )

    def _costs(self, price: Price | HourlyPrice) -> Array:
        """Dollars of each request; by the hour all took as long."""
        if isinstance(price, HourlyPrice):
            return np.full(len(self.input_tokens), price.usd(self.seconds / len(self.input_tokens)))
        return (price.input * self.input_tokens + price.output * self.output_tokens) / 1e6


@dataclass(frozen=True)
class Plan:
    """What is left to do."""

    stages: dict[str, str]
    """`done` or `to do`, by stage."""
    asked: list[Asked] = field(default_factory=list)
    test_rows: int | None = None
    """Gold rows of the verdict's test; None where rows are held out for it."""
    needed_rows: int = 0
    """Rows with which a student as good as its teacher passes four times in five."""

    def as_json(self) -> dict[str, Any]:
        return {
            "stages": self.stages,
            "asked": [asdict(part) for part in self.asked],
            "test_rows": self.test_rows,
            "needed_rows": self.needed_rows,
        }

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield "plan: " + ", ".join(f"{key} {state}" for key, state in self.stages.items())
        for part in self.asked:
            yield part.line()
        have = "held-out rows" if self.test_rows is None else f"{self.test_rows} gold rows"
        differ = f"if the two differ on {USUAL_DISCORDANCE:.0%} of them"
        yield f"  verdict: {have}; about {self.needed_rows} are needed {differ}"


def plan(run: Run, pilot: int = 0) -> Plan:
    """Look at what is there and count what is not.

    Args:
        pilot: rows to ask for and to reckon from; 0 asks nobody and spends nothing.
    """
    states = {key: "done" if artifact.manifest() else "to do" for key, (_, artifact) in artifacts(run).items()}
    recipe = run.recipe
    gold = run.gold()
    asked = []
    sample = list(islice(run.unlabeled(), pilot or _SAMPLED))
    if states.get("generate") == "to do" and recipe.generate is not None:
        tried, written = _pilot_generate(run, pilot) if pilot else (None, [])
        asked.append(_generate(run, tried))
        sample = (written + sample)[: pilot or _SAMPLED]
    rows = recipe.generate.rows if recipe.generate is not None else 0
    measured = None
    if states["label"] == "to do":
        count = rows + sum(1 for _ in run.unlabeled())
        measured = _pilot_label(run, sample) if pilot else None
        asked.append(_label(run, "label", count * recipe.label.samples, sample, measured))
    if states["curate"] == "to do" and recipe.curate.judge is not None:
        most = rows + sum(row.side != "test" for row in run.unlabeled())
        asked.append(_rubric(run, recipe.curate.judge.teacher, most, sample))
    for name, student in recipe.students.items():
        for method in student.train.method if states[f"train:{name}"] == "to do" else ():
            if isinstance(method, Preference):
                pairs = min(method.rows, rows + sum(row.side == "train" for row in run.unlabeled()))
                requests = 2 * pairs * len(student.train.seeds)
                teacher = method.teacher or recipe.teacher_of("label")
                asked.append(_compared(run, f"train {name}", teacher, requests, sample))
    if states.get("evaluate") == "to do" and gold:
        judged = [row for test in gold.values() for row in test]
        twice = min(recipe.evaluate.second_opinions, len(next(iter(gold.values()))))
        requests = len(judged) * recipe.label.samples + twice
        asked.append(_label(run, "evaluate", requests, judged[:_SAMPLED], measured))
    if states.get("evaluate") == "to do" and recipe.evaluate.judge is not None:
        judged = [row for test in gold.values() for row in test]
        asked.append(_judge(run, recipe.evaluate.judge, len(judged), judged[:_SAMPLED] or sample))
    test_rows = len(next(iter(gold.values()))) if gold else None
    return Plan(states, asked, test_rows, rows_needed(USUAL_DISCORDANCE, recipe.evaluate.margin))


def _pilot_generate(run: Run, rows: int) -> tuple[Piloted, list[Source]]:
    """Have the first candidates written; also what came of them."""
    candidates = read_candidates(run)
    written: list[Source] = []

    def answers(said: tuple[Written, list[Exchange]]) -> list[Answer | Failed]:
        row, exchanges = said
        written.extend([row] if isinstance(row, Source) else [])
        return [exchange.said for exchange in exchanges]

    return _timed(run, AskAloud(), [candidates[number] for number in range(rows)], answers), written


def _pilot_label(run: Run, sample: list[Source]) -> Piloted:
    return _timed(run, _AskOnce(), sample, lambda answer: [answer])


class _AskOnce:
    """The first draw of a row, as it was said."""

    def teacher(self, run: Run) -> str:
        return run.recipe.teacher_of("label")

    async def __call__(self, run: Run, item: Source) -> Answer | Failed:
        return await run.labeler().ask(item, 0)


def _timed(
    run: Run, asking: Asking[Item, Said], items: list[Item], answers: Callable[[Said], list[Answer | Failed]]
) -> Piloted:
    """Ask for items and count.

    Raises:
        NotEnoughData: nothing was answered, so there is nothing to reckon from.
    """
    heard: list[Answer] = []

    def keep(_: Item, said: Said) -> None:
        heard.extend(answer for answer in answers(said) if isinstance(answer, Answer))

    started = time.perf_counter()
    ask_all(run, asking, partial(iter, items), len(items), keep, title="pilot")
    seconds = time.perf_counter() - started
    if not heard:
        raise NotEnoughData(f"plan: none of {len(items)} rows of the pilot was answered; try `understudy preview`")
    tokens = np.array([[answer.input_tokens, answer.output_tokens] for answer in heard], dtype=float)
    return Piloted(tokens[:, 0], tokens[:, 1], seconds)


def _label(run: Run, stage: str, requests: int, sample: list[Source], measured: Piloted | None) -> Asked:
    if measured is not None:
        return measured.asked(run, stage, run.recipe.teacher_of("label"), requests)
    labeler = run.labeler()
    lengths = [
        sum(len(message.content.encode()) for message in labeler.prompt(source, 0).messages)
        for source in sample or [Source("plan", "x" * 80, "plan", "train", "unlabeled")]
    ]
    each = sum(lengths) / len(lengths) / _BYTES_PER_TOKEN
    labels = list(run.recipe.labels)
    answer = max(map(len, labels)) / _BYTES_PER_TOKEN + 1 if labels else run.recipe.label.max_tokens / 2
    return _asked(run, stage, run.recipe.teacher_of("label"), requests, each, answer)


def _judge(run: Run, teacher: str, rows: int, sample: list[Source]) -> Asked:
    """Every answer but the reference itself in both orders: the teacher's, each student's and each baseline's."""
    models = 1 + len(run.recipe.students) + _BASELINES
    return _compared(run, "judge", teacher, 2 * models * rows, sample)


def _compared(run: Run, stage: str, teacher: str, requests: int, sample: list[Source]) -> Asked:
    """Two answers to an input side by side, in one order."""
    texts = sum(len(row.input.encode()) + 2 * len((row.output or "").encode()) for row in sample)
    each = (len(run.judge_template.text.encode()) + texts / max(1, len(sample))) / _BYTES_PER_TOKEN
    return _asked(run, stage, teacher, requests, each, 1)


def _rubric(run: Run, teacher: str, rows: int, sample: list[Source]) -> Asked:
    """Every row that nothing else rejects, but inputs held out for the test; counted as if nothing did."""
    some = [
        Example(row.id, row.input, row.output or "", row.root, row.side, row.origin)
        for row in sample or [Source("plan", "x" * 80, "plan", "train", "unlabeled")]
    ]
    prompts = (AskRubric().prompt(run, row) for row in some)
    each = sum(len(message.content.encode()) for prompt in prompts for message in prompt.messages) / len(some)
    return _asked(run, "curate", teacher, rows, each / _BYTES_PER_TOKEN, 1)


def _generate(run: Run, measured: Piloted | None) -> Asked:
    stage = run.recipe.generate
    assert stage is not None
    teacher = run.recipe.teacher_of("generate")
    shares = stage.shares("strategy", [])
    each = [one.requests() if isinstance(one, TaskStrategy) else 1 for one in stage.strategies]
    requests = round(stage.rows * 1.1 * sum(map(operator.mul, shares.values(), each)))
    if measured is not None:
        return measured.asked(run, "generate", teacher, requests)
    return _asked(run, "generate", teacher, requests, _read_to_write(run), 40)


def _read_to_write(run: Run) -> float:
    """Tokens of a writing prompt, as far as templates say; a Task has its own, and is taken to be as long."""
    stage = run.recipe.generate
    assert stage is not None
    writer = Writer(run, run.teacher(run.recipe.teacher_of("generate")))
    tasks = {name for name, one in zip(stage.names, stage.strategies, strict=True) if isinstance(one, TaskStrategy)}
    candidates = read_candidates(run)
    some = [candidate for number in range(_SAMPLED) if (candidate := candidates[number]).strategy not in tasks]
    sizes = [sum(len(message.content.encode()) for message in writer.prompt(one).messages) for one in some]
    return (sum(sizes) / len(sizes) if sizes else _TASK_BYTES) / _BYTES_PER_TOKEN


def _asked(run: Run, stage: str, teacher: str, requests: int, each: float, answer: float) -> Asked:
    price = run.recipe.teachers[teacher].price
    tokens = round(requests * each), round(requests * answer)
    usd = None
    if isinstance(price, Price):  # how many hours it takes is for a pilot to say
        usd = (price.input * tokens[0] + price.output * tokens[1]) / 1e6
    return Asked(stage, requests, *tokens, usd)
