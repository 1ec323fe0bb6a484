"""A teacher as judge: where no rule can score free text, it says which of two answers is better.

Every answer is held against the reference twice, once in each order, because judges prefer the first (or the second)
whatever it says. An answer that wins in both orders is worth 1, one that loses in both 0, and anything else half: so
the score of a model that is as good as the reference is 50. How often the order alone decided, and how often the longer
answer won, is reported beside the scores.

Source: Zheng et al. 2023, arXiv:2306.05685 (position and length bias, both orders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from ..data.artifact import Artifact, ShardWriter
from ..data.duplicates import fold
from ..data.errors import NotEnoughData
from ..data.fingerprint import row_id
from ..data.rows import Failed, Prompt, Rejected
from .ask import choose
from .context import Run
from .executor import ask_all
from .statistics import share
from .table import TestRows

Preferred = Literal["first", "second", "tie"]

VERDICTS: Mapping[str, Preferred] = {"A": "first", "B": "second", "tie": "tie"}

CONFIG = "judgements"

_MAX_TOKENS = 16

_WORTH: Mapping[tuple[Any, Any], float] = {("first", "second"): 1.0, ("second", "first"): 0.0}
"""Of an answer read first and then second, by what was preferred; any other pair is worth half."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers in the order in which the judge reads them."""

    id: str
    input: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class AskJudge:
    """Which of two answers is better."""

    judge: str
    """Name of the teacher that says so."""

    def teacher(self, run: Run) -> str:
        return self.judge

    async def __call__(self, run: Run, item: Pair) -> Preferred | Rejected | Failed:
        teacher = run.teacher(self.teacher(run))
        said = await choose(teacher, partial(self.prompt, run, item), _MAX_TOKENS, "not_a_verdict")
        return VERDICTS[said] if isinstance(said, str) else said

    def prompt(self, run: Run, item: Pair, draw: int) -> Prompt:
        """What the judge reads."""
        values = {
            "instruction": run.recipe.task.instruction,
            "input": item.input,
            "first": item.first,
            "second": item.second,
        }
        return Prompt(item.id, run.judge_template.render(values), choices=tuple(VERDICTS), sample=draw)


@dataclass(frozen=True)
class Judged:
    """What judging leaves beside the scores."""

    shards: dict[str, list[dict[str, Any]]]
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Contest:
    """One answer against the reference, in both orders."""

    row: int
    model: str
    there: Pair
    """The model's answer first."""
    back: Pair


def judge_tests(run: Run, artifact: Artifact, tests: Sequence[TestRows]) -> Judged:
    """Score every model on every test; a row of which the judge says nothing that can be read is left out for all.

    Raises:
        NotEnoughData: nothing of a test could be judged.
    """
    notes, judge = _Notes(artifact), run.recipe.evaluate.judge
    assert judge, "the recipe names a judge where the scorer is one"
    for test in tests:
        models = [model for model in test.answers if "/seed-" not in model]  # a seed not kept is no candidate
        contests = [contest for model in models for contest in _contests(test, model)]
        pairs = [pair for contest in contests for pair in (contest.there, contest.back)]
        said: dict[str, Preferred | Rejected | Failed] = {}

        def keep(pair: Pair, answer: Any, said: dict[str, Any] = said) -> None:
            said[pair.id] = answer

        ask_all(run, AskJudge(judge), partial(iter, pairs), len(pairs), keep, title=f"judge {test.name}")
        unread = {
            contest.row
            for contest in contests
            if not isinstance(said[contest.there.id], str) or not isinstance(said[contest.back.id], str)
        }
        if test.rows and len(unread) == len(test.rows):
            example = next(iter(said.values()))
            raise NotEnoughData(
                f"evaluate: the judge '{run.recipe.evaluate.judge}' said nothing that can be read of any row of "
                f"'{test.name}', such as {example}; expected A, B or tie: see prompts.judge, or choose another judge"
            )
        for answers in test.answers.values():
            answers.scores = _unasked(answers.outputs, test)
        for contest in contests:
            if contest.row not in unread:
                there, back = said[contest.there.id], said[contest.back.id]
                score = _WORTH.get((there, back), 0.5)
                test.answers[contest.model].scores[contest.row] = score
                notes.add(test, contest, there, back)
        notes.left_out += len(unread)
        _leave_out(test, unread)
    return notes.close(run)


def _contests(test: TestRows, model: str) -> list[_Contest]:
    """Of every row whose answer is there and is not the reference itself."""
    found = []
    for place, (row, said) in enumerate(zip(test.rows, test.answers[model].outputs, strict=True)):
        reference = row.output or ""
        if said is not None and fold(said) != fold(reference):
            name = row_id("judge", test.name, row.id, said)
            there = Pair(name, row.input, said, reference)
            found.append(_Contest(place, model, there, Pair(row_id(name, "back"), row.input, reference, said)))
    return found


def _unasked(outputs: Sequence[str | None], test: TestRows) -> Any:
    """Scores that need no judge: the reference itself is worth half, nothing is worth nothing."""
    return np.array(
        [
            0.5 if said is not None and fold(said) == fold(row.output or "") else 0.0
            for said, row in zip(outputs, test.rows, strict=True)
        ]
    )


def _leave_out(test: TestRows, places: set[int]) -> None:
    kept = [place for place in range(len(test.rows)) if place not in places]
    test.rows = [test.rows[place] for place in kept]
    for answers in test.answers.values():
        answers.outputs = [answers.outputs[place] for place in kept]
        answers.confidence = [answers.confidence[place] for place in kept]
        answers.scores = answers.scores[kept]


class _Notes:
    """Every judgement, and what they say of the judge."""

    def __init__(self, artifact: Artifact) -> None:
        import pyarrow as pa

        names = ("id", "test", "model", "answer", "reference", "answer_first", "answer_second")
        self._writer = ShardWriter(artifact, CONFIG, pa.schema([(name, pa.string()) for name in names]))
        self.left_out = 0
        self._judged = self._flipped = self._first = self._chosen = self._longer = self._decided = 0

    def add(self, test: TestRows, contest: _Contest, there: Any, back: Any) -> None:
        """A contest with what was preferred in either order."""
        self._judged += 1
        self._flipped += there == back != "tie"  # the same place won twice, whoever stood there
        self._chosen += (there != "tie") + (back != "tie")
        self._first += (there == "first") + (back == "first")
        answer, reference = contest.there.first, contest.there.second
        if there != back and "tie" not in (there, back) and len(answer) != len(reference):
            self._decided += 1
            self._longer += (there == "first") == (len(answer) > len(reference))
        names = {"answer_first": there, "answer_second": back, "answer": answer, "reference": reference}
        self._writer.add({"id": test.rows[contest.row].id, "test": test.name, "model": contest.model, **names})

    def close(self, run: Run) -> Judged:
        """Shares in points with 90% intervals."""
        name = run.recipe.evaluate.judge
        assert name is not None
        shares = {
            "flipped": share(self._flipped, self._judged),
            "first_preferred": share(self._first, self._chosen),
            "longer_preferred": share(self._longer, self._decided),
        }
        summary = {
            "teacher": f"{name}: {run.teacher(name).name}",
            "is_the_teacher": run.teacher_identity(name) == run.teacher_identity(run.recipe.teacher_of("label")),
            "pairs": self._judged,
            "left_out": self.left_out,
            **{key: {"value": part.value, "low": part.low, "high": part.high} for key, part in shares.items()},
        }
        order, length = shares["flipped"], shares["longer_preferred"]
        run.reporter.say(
            f"  judge {name}: {self._judged} pairs in both orders; the order alone decided {order.value:.0f}% of them, "
            f"the longer answer won {length.value:.0f}% of the rest"
        )
        if summary["is_the_teacher"]:
            run.reporter.say("  the judge is the teacher itself: the scores say how much an answer sounds like its own")
        return Judged({CONFIG: self._writer.close()}, summary)
