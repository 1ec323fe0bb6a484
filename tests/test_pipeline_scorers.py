"""Scorers: what an answer is worth against its reference."""

from __future__ import annotations

import json

import pytest

from understudy.data.errors import BadInput, UnderstudyError
from understudy.data.rows import Source
from understudy.pipeline.recipe import JobRecipe
from understudy.pipeline.scorers import Scorer, check_references, field_f1, numeric, scorer_of


def rows(*references: str) -> list[Source]:
    return [Source(f"r{n}", "?", f"r{n}", "test", "gold", reference) for n, reference in enumerate(references)]


def recipe(task: dict, **sections: object) -> JobRecipe:
    given = {"instruction": "Do.", "unlabeled": "pool.jsonl", **task}
    teachers = {"lead": {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}}
    return JobRecipe.model_validate({"name": "n", "task": given, "teachers": teachers, **sections})


EXTRACT = {"kind": "extract", "schema": {"type": "object"}}


def test_a_label_is_right_or_wrong_and_no_readable_answer_is_wrong():
    score = scorer_of(recipe({"kind": "classify", "labels": ["a", "b"]}))
    assert score is not None

    assert score(["a", "b", None], rows("a", "a", "a")).tolist() == [1, 0, 0]
    assert (score.name, score.graded) == ("accuracy", False)


def test_free_text_is_equal_after_folding():
    score = scorer_of(recipe({"kind": "generate"}))
    assert score is not None

    assert score(["The  Answer!", "another"], rows("the answer", "answer")).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("said", "reference", "worth"),
    [
        ('{"a": 1, "b": "x"}', '{"b": "x", "a": 1.0}', 1),
        ('{"a": 1, "b": "x"}', '{"a": 1}', 2 / 3),
        ('{"a": 1}', '{"a": 1, "b": "x"}', 2 / 3),
        ('{"a": 1}', '{"a": "1"}', 0),
        ('{"a": true}', '{"a": 1}', 0),
        ('{"a": null}', "{}", 1),
        ('{"items": ["x", "y", "y"]}', '{"items": ["y", "x", "x"]}', 2 / 3),
        ('{"a": {"b": 1}}', '{"a": {"c": 1}}', 0),
        ("not json", '{"a": 1}', 0),
        ("{}", '{"a": 1}', 0),
    ],
)
def test_fields_are_counted_with_their_values(said: str, reference: str, worth: float):
    assert field_f1(said, reference) == pytest.approx(worth)
    assert field_f1(reference, said) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("said", "reference", "worth"),
    [
        ("So 3 + 4 = 7.", "7", 1),
        ("about 1,250.50 dollars", "#### 1250.5", 1),
        ("7 apples, no: 8", "7", 0),
        ("-3e2", "-300", 1),
        ("none", "7", 0),
        ("0.1", "0.10000001", 1),
    ],
)
def test_the_last_number_counts(said: str, reference: str, worth: float):
    assert numeric(said, reference) == worth


def test_the_longest_common_run_of_words_is_scored_by_the_published_library():
    pytest.importorskip("rouge_score")
    score = scorer_of(recipe({"kind": "generate", "scorer": "rouge_l"}))
    assert score is not None
    assert score.graded

    worth = score(["the cat sat", "the cat sat on the mat"], rows("the cat sat on the mat", "the cat sat on the mat"))

    assert worth.tolist() == pytest.approx([2 / 3, 1])


def _raise(said: str, reference: str) -> float:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (_raise, r"^evaluate: scorer 'mine' gave row r1 ZeroDivisionError: division by zero$"),
        (lambda a, b: float("nan"), r"^evaluate: scorer 'mine' gave row r1 nan; expected a number from 0 to 1$"),
        (lambda a, b: 1.5, r"gave row r1 1\.5; expected a number from 0 to 1$"),
    ],
)
def test_a_scorer_that_fails_is_named_with_the_row(score, message: str):
    with pytest.raises(UnderstudyError, match=message):
        Scorer("mine", True, score)([None, "x"], rows("a", "b"))


def test_a_right_or_wrong_scorer_gives_no_halves():
    with pytest.raises(UnderstudyError, match=r"gave row r0 0\.5; expected 0 or 1$"):
        Scorer("mine", False, lambda a, b: 0.5)(["x"], rows("a"))


def test_a_reference_that_no_answer_can_match_is_refused():
    with pytest.raises(BadInput, match=r"^gold: row 2: the output 'seven' holds no number, and task.scorer is numeric"):
        check_references(rows("7", "seven"), recipe({"kind": "generate", "scorer": "numeric"}), "gold")
    with pytest.raises(BadInput, match=r"^gold: row 1: the output 'Rome' is not JSON; write one JSON object$"):
        check_references(rows("Rome"), recipe(EXTRACT), "gold")
    check_references(rows(json.dumps({"a": 1})), recipe(EXTRACT), "gold")


def test_a_judge_is_named_where_one_is_needed_and_nowhere_else():
    task = {"kind": "generate", "scorer": "judge"}

    assert scorer_of(recipe(task, evaluate={"judge": "lead"})) is None
    with pytest.raises(ValueError, match=r"says no `judge`, and task.scorer is judge; choose one of lead"):
        recipe(task)
    with pytest.raises(ValueError, match="'boss' is no teacher of this recipe; defined: lead"):
        recipe(task, evaluate={"judge": "boss"})
    with pytest.raises(ValueError, match=r"is not asked unless task.scorer is judge"):
        recipe({"kind": "generate"}, evaluate={"judge": "lead"})
