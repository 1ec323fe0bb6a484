"""Pairs of a student's own answers that a teacher ranks, for the method `preference`.

Every input is answered twice, and the two answers are held against each other in both orders, through the ledger as
all that is asked of a teacher. A pair teaches where the same answer wins twice: what the order alone decides says
nothing. An answer that the task cannot use loses to one that it can, and nobody is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.duplicates import fold
from ..data.errors import NotEnoughData
from ..data.fingerprint import row_id
from ..data.rows import Answer, Example, Failed
from ..data.teacher import Sampling
from ..students.config import Preference, StudentRecipe
from ..teachers.transformers import TransformersTeacher
from .ask import for_each
from .contenders import student_prompt
from .context import Run
from .examples import sample_rows
from .executor import ask_all, run_loop
from .judge import AskJudge, Pair
from .parse import parse

if TYPE_CHECKING:
    from ..students.preference import Ranked

_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer of the student's."""

    text: str
    usable: bool
    """Whether it is of the task's form."""


@dataclass(frozen=True)
class Ranking:
    """What a student is to learn from, and how it came about."""

    pairs: list[Ranked]
    counts: dict[str, int]
    """Of the inputs: asked, alike (nothing to rank), unusable (both answers), undecided, ranked."""


def rank(run: Run, student: StudentRecipe, rows: Iterator[Example], folder: Path, work: Path) -> Ranking:
    """Have a student answer and its teacher rank.

    Args:
        student: with `preference` alone as its method.
        folder: of the student as it answers now.
        work: where its answers are kept, so that a run that goes on asks about the same ones.

    Raises:
        NotEnoughData: no pair has a winner.
        BudgetReached: the cap allows no further request; what was asked is in the ledger.
        TeacherUnreachable: nothing can be ranked now.
    """
    method = student.train.method[0]
    assert isinstance(method, Preference)
    judge = method.teacher or run.recipe.teacher_of("label")
    said = _answers(run, student, method, rows, folder, work / "answered.jsonl")
    by_form = [pair for each in said if (pair := _better_form(*each))]
    contests = [_contest(text, one.text, other.text) for text, one, other in said if _differ(one, other)]
    verdicts = _verdicts(run, judge, contests)
    judged = [pair for contest in contests if (pair := _winner(contest, verdicts))]
    pairs, unusable = by_form + judged, sum(not (one.usable or other.usable) for _, one, other in said)
    counts = {
        "asked": len(said),
        "alike": len(said) - unusable - len(by_form) - len(contests),
        "unusable": unusable,
        "undecided": len(contests) - len(judged),
        "ranked": len(pairs),
    }
    run.reporter.say(
        f"  preference: {len(said)} inputs answered twice, {counts['alike']} alike; of {len(contests)} pairs that "
        f"'{judge}' read in both orders {counts['undecided']} had no winner; {len(pairs)} teach"
    )
    if not pairs:
        raise NotEnoughData(
            f"train: preference has nothing to learn from: of {len(said)} inputs answered twice none has a better "
            "answer; raise train.method.temperature or rows, or remove preference"
        )
    return Ranking(sorted(pairs, key=lambda pair: row_id(pair.input, pair.chosen)), counts)


def _better_form(text: str, one: _Said, other: _Said) -> Ranked | None:
    """The pair, where one answer alone is of the task's form."""
    from ..students.preference import Ranked

    if one.usable == other.usable:
        return None
    better, worse = (one, other) if one.usable else (other, one)
    return Ranked(text, better.text, worse.text)


def _differ(one: _Said, other: _Said) -> bool:
    return one.usable and other.usable and fold(one.text) != fold(other.text)


def _contest(text: str, one: str, other: str) -> tuple[Pair, Pair]:
    """Two answers in both orders."""
    name = row_id("preference", text, one, other)
    return Pair(name, text, one, other), Pair(row_id(name, "back"), text, other, one)


def _verdicts(run: Run, judge: str, contests: Sequence[tuple[Pair, Pair]]) -> dict[str, Any]:
    said: dict[str, Any] = {}

    def keep(pair: Pair, verdict: Any) -> None:
        said[pair.id] = verdict

    both = [pair for contest in contests for pair in contest]
    ask_all(run, AskJudge(judge), partial(iter, both), len(both), keep, title="rank answers")
    return said


def _winner(contest: tuple[Pair, Pair], verdicts: Mapping[str, Any]) -> Ranked | None:
    """The answer that is better in both orders, with the other."""
    from ..students.preference import Ranked

    there, back = contest
    match verdicts[there.id], verdicts[back.id]:
        case ("first", "second"):
            return Ranked(there.input, there.first, there.second)
        case ("second", "first"):
            return Ranked(there.input, there.second, there.first)
    return None


def _answers(
    run: Run, student: StudentRecipe, method: Preference, rows: Iterator[Example], folder: Path, kept: Path
) -> list[tuple[str, _Said, _Said]]:
    """Inputs with two answers each, as they were when the student first gave them."""
    if not kept.exists():
        texts = [row.input for row in sample_rows(rows, method.rows)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(".part")
        with open(unfinished, "w", encoding="utf-8") as file:
            for text, one, other in _answered(run, student, method, texts, folder):
                answers = [[said.text, said.usable] for said in (one, other)]
                file.write(json.dumps({"input": text, "answers": answers}, ensure_ascii=False) + "\n")
        unfinished.replace(kept)
    lines = map(json.loads, kept.read_text(encoding="utf-8").splitlines())
    return [(line["input"], _Said(*line["answers"][0]), _Said(*line["answers"][1])) for line in lines]


def _answered(
    run: Run, student: StudentRecipe, method: Preference, texts: Sequence[str], folder: Path
) -> Iterator[tuple[str, _Said, _Said]]:
    model = TransformersTeacher(folder, batch=_AT_ONCE)
    sampling = Sampling(temperature=method.temperature, max_tokens=student.train.max_length)
    said: dict[tuple[int, int], _Said] = {}
    places = [(number, draw) for number in range(len(texts)) for draw in (0, 1)]
    with run.reporter.track("answer twice", len(places), "answers") as tracker:

        async def ask(place: tuple[int, int]) -> None:
            number, draw = place
            prompt = student_prompt(str(number), texts[number], ())
            said[place] = _read(run, await model.answer(replace(prompt, sample=draw), sampling))
            tracker.advance()

        async def ask_each() -> None:
            await for_each(places, ask, 4 * _AT_ONCE)
            await model.close()

        run_loop(ask_each())
    for number, text in enumerate(texts):
        yield text, said[number, 0], said[number, 1]


def _read(run: Run, answer: Answer | Failed) -> _Said:
    if isinstance(answer, Failed):
        return _Said("", usable=False)
    output = parse(answer, run.recipe)
    return _Said(output, usable=True) if isinstance(output, str) else _Said(answer.text, usable=False)
