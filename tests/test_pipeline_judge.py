"""A teacher as judge: both orders, what the order and the length decided, and what cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from understudy.data.artifact import Artifact
from understudy.data.errors import NotEnoughData
from understudy.data.rows import Source
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.judge import Judged, judge_tests
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.table import Answers, TestRows

from .endpoint import Endpoint, Reply, says

PAIR = re.compile(r"Answer A:\n(.*?)\n\nAnswer B:\n(.*?)\n\nWhich", re.DOTALL)


def prefers(better: Callable[[str, str], str]) -> Callable[[dict], Reply]:
    """A judge that says what ``better`` makes of the two answers, in the order it reads them."""

    def reply(body: dict) -> Reply:
        match = PAIR.search(body["messages"][-1]["content"])
        assert match is not None
        return says(better(match[1], match[2]))

    return reply


def quality(first: str, second: str) -> str:
    ours, theirs = (int(re.sub(r"\D", "", text)) for text in (first, second))
    return "tie" if ours == theirs else "A" if ours > theirs else "B"


@contextmanager
def judging(folder: Path, endpoint: Endpoint, **judge: object) -> Iterator[Run]:
    lead = {"kind": "openai", "model": "lead", "base_url": endpoint.base_url}
    recipe = {
        "name": "t",
        "task": {"kind": "generate", "instruction": "Reply.", "unlabeled": "pool.jsonl", "scorer": "judge"},
        "teachers": {"lead": lead, "other": {**lead, "model": "other"} | judge},
        "label": {"teacher": "lead"},
        "evaluate": {"judge": "other"},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    run = Run(load_recipe(folder / "recipe.yaml"), LocalStorage(folder / "root"), Reporter(quiet=True))
    try:
        yield run
    finally:
        run.close()


def contest(**said: list[str | None]) -> TestRows:
    """Rows whose reference is of quality 5, and models whose answers say how good they are."""
    count = len(next(iter(said.values())))
    rows = [Source(f"r{n}", f"question {n}", f"r{n}", "test", "gold", "reference 5") for n in range(count)]
    answers = {name: Answers(outputs, [None] * count) for name, outputs in said.items()}
    return TestRows("gold", True, "gold.jsonl", rows, answers)


def judged(folder: Path, test: TestRows, better: Callable[[str, str], str], **judge: object) -> tuple[Judged, Endpoint]:
    with Endpoint(then=prefers(better)) as endpoint, judging(folder, endpoint, **judge) as run:
        return judge_tests(run, Artifact(run.storage, "evaluate", "x"), [test]), endpoint


def test_an_answer_is_worth_what_it_wins_in_both_orders(tmp_path):
    test = contest(teacher=["good 7", "bad 3", "same 5", "Reference  5!", None])

    found, endpoint = judged(tmp_path, test, quality)

    assert test.scores("teacher").tolist() == [1, 0, 0.5, 0.5, 0]
    assert len(endpoint.requests) == 2 * 3, "the reference itself and a missing answer need no judge"
    assert found.summary["pairs"] == 3
    assert found.summary["flipped"]["value"] == 0
    assert found.summary["is_the_teacher"] is False
    assert found.summary["teacher"].startswith("other: other")


def test_a_judge_that_goes_by_the_order_decides_nothing_and_is_found_out(tmp_path):
    test = contest(teacher=["good 7"] * 20)

    found, _ = judged(tmp_path, test, lambda first, second: "A")

    assert test.scores("teacher").tolist() == [0.5] * 20
    assert found.summary["flipped"]["value"] == 100
    assert found.summary["first_preferred"]["value"] == 100
    assert found.summary["longer_preferred"]["value"] == 0, "nothing was decided by length"


def test_a_judge_that_goes_by_length_is_found_out(tmp_path):
    test = contest(teacher=["a long-winded answer 1", "x 9"] * 10)

    found, _ = judged(tmp_path, test, lambda first, second: "A" if len(first) > len(second) else "B")

    assert test.scores("teacher").tolist() == [1, 0] * 10
    assert found.summary["longer_preferred"]["value"] == 100
    assert found.summary["flipped"]["value"] == 0


def test_a_row_that_the_judge_talks_around_is_left_out_for_every_model(tmp_path):
    test = contest(teacher=["good 7", "unclear 8", "bad 3"], small=["good 6", "good 6", "good 6"])

    found, _ = judged(
        tmp_path,
        test,
        lambda first, second: "Both have merit." if "unclear" in first + second else quality(first, second),
    )

    assert [row.id for row in test.rows] == ["r0", "r2"]
    assert test.scores("teacher").tolist() == [1, 0]
    assert test.scores("small").tolist() == [1, 1]
    assert test.answers["small"].outputs == ["good 6", "good 6"]
    assert found.summary["left_out"] == 1


def test_a_judge_that_says_nothing_that_can_be_read_is_named_with_what_it_said(tmp_path):
    with pytest.raises(NotEnoughData, match=r"^evaluate: the judge 'other' said nothing .* of any row of 'gold', .*"):
        judged(tmp_path, contest(teacher=["good 7"] * 3), lambda first, second: "I cannot say.")


def test_the_teacher_as_its_own_judge_is_told_from_another(tmp_path):
    found, _ = judged(tmp_path, contest(teacher=["good 7"]), quality, model="lead")

    assert found.summary["is_the_teacher"] is True


def test_judging_again_asks_for_nothing(tmp_path):
    test = contest(teacher=["good 7", "bad 3"])
    with Endpoint(then=prefers(quality)) as endpoint, judging(tmp_path, endpoint) as run:
        for _ in range(2):
            judge_tests(run, Artifact(run.storage, "evaluate", "x"), [test])

        assert len(endpoint.requests) == 4
