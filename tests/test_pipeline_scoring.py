"""From the table of answers to the report's figures: what is compared, and what odd tests make of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.data.artifact import Artifact
from understudy.data.rows import Source
from understudy.data.storage import LocalStorage
from understudy.pipeline.recipe import JobRecipe
from understudy.pipeline.scoring import score_tests
from understudy.pipeline.table import (
    CONFIG,
    Answers,
    ModelFacts,
    TestRows,
    facts_as_json,
    read_table,
    write_table,
)

LABELS = ["billing", "delivery", "other"]
FACTS = {
    "teacher": ModelFacts("teacher", usd_per_1000=0.5),
    "student": ModelFacts("student", 1000, 4000, latency_ms={"p50": 5.0, "p95": 6.0}, per_second=500.0, seeds=[]),
    "untrained": ModelFacts("baseline"),
    "majority": ModelFacts("baseline"),
    "linear": ModelFacts("baseline", latency_ms={"p50": 1.0, "p95": 2.0}),
}


def recipe(student: dict[str, Any] | None = None, **evaluate: Any) -> JobRecipe:
    return JobRecipe.model_validate(
        {
            "name": "t",
            "task": {"kind": "classify", "instruction": "Which?", "labels": LABELS, "unlabeled": "pool.jsonl"},
            "teachers": {"lead": {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}},
            "student": student or {},
            "evaluate": evaluate,
        }
    )


def a_test(wanted: list[str], gold: bool = True, text: str | None = None, **said: list[str | None]) -> TestRows:
    rows = [
        Source(f"r{n}", text or f"message {n}", f"r{n}", "test", "gold" if gold else "unlabeled", output)
        for n, output in enumerate(wanted)
    ]
    test = TestRows("gold" if gold else "held_out", gold, "gold.jsonl", rows)
    for model in FACTS:
        outputs = said.get(model, list(wanted))
        scores = np.array([output == row.output for output, row in zip(outputs, rows, strict=True)], dtype=float)
        test.answers[model] = Answers(outputs, [None] * len(rows), scores)
    return test


def noisy(wanted: list[str], right: float, seed: int) -> list[str | None]:
    draw = random.Random(seed)
    return [label if draw.random() < right else draw.choice(LABELS) for label in wanted]


@pytest.fixture
def wanted() -> list[str]:
    draw = random.Random(0)
    return [draw.choice(LABELS) for _ in range(600)]


def test_how_much_of_the_way_to_the_teacher_training_went_is_told(wanted):
    test = a_test(
        wanted, teacher=noisy(wanted, 0.95, 1), student=noisy(wanted, 0.9, 2), untrained=noisy(wanted, 0.0, 3)
    )

    summary = score_tests(recipe(), [test], FACTS)

    assert summary["retention"]["gold"]["low"] < summary["retention"]["gold"]["value"] < 100
    assert 85 < summary["gap_closed"]["gold"]["low"] < summary["gap_closed"]["gold"]["value"] < 100
    assert summary["difference"]["gold"]["p"] < 0.2
    assert set(summary["against"]) == {"untrained", "majority", "linear"}
    assert summary["against"]["untrained"]["gold"]["p"] < 1e-6


def test_a_student_with_experts_is_held_against_its_control_row_by_row(wanted):
    experts = {"init": {"kind": "moe"}, "control": True}
    facts = {**FACTS, "student-control": ModelFacts("student", 500, 2000, seeds=[])}
    test = a_test(wanted, student=noisy(wanted, 0.9, 2))
    control = [*noisy(wanted, 0.8, 3)[:300], *test.answers["student"].outputs[300:]]
    scores = np.array([said == right for said, right in zip(control, wanted, strict=True)], dtype=float)
    test.answers["student-control"] = Answers(control, [None] * len(wanted), scores)

    summary = score_tests(recipe(student=experts), [test], facts)

    gap = summary["controls"]["student"]["gold"]
    assert gap["value"] == pytest.approx(100 * (test.scores("student") - scores).mean())
    assert gap["low"] > 0
    assert set(summary["against"]) == {"untrained", "majority", "linear"}, "a control is a student, no baseline"


def test_an_untrained_student_as_good_as_the_teacher_closes_no_gap(wanted):
    summary = score_tests(recipe(), [a_test(wanted, teacher=noisy(wanted, 0.9, 1))], FACTS)

    assert summary["gap_closed"] == {}


def test_a_cheaper_baseline_inside_the_margin_is_named(wanted):
    test = a_test(wanted, majority=["other"] * 600)

    named = score_tests(recipe(), [test], FACTS)["good_enough"]

    assert [part["name"] for part in named] == ["linear"], "the untrained student is no baseline that anybody would use"
    slow = {**FACTS, "linear": ModelFacts("baseline", latency_ms={"p50": 50.0, "p95": 60.0})}
    assert score_tests(recipe(), [test], slow)["good_enough"] == []


def test_mistakes_copied_from_the_teacher_are_told_from_new_ones():
    wanted = ["billing"] * 40
    teacher: list[str | None] = ["other"] * 10 + ["delivery"] * 5 + [None] * 5 + ["billing"] * 20
    student: list[str | None] = ["other"] * 12 + ["billing"] * 3 + ["other"] * 7 + ["billing"] * 18

    summary = score_tests(recipe(), [a_test(wanted, teacher=teacher, student=student)], FACTS)

    assert summary["mistakes"] == {"copied": 10, "differ": 2 + 5, "new": 2}
    assert summary["cells"] == {"both right": 18, "teacher only": 2, "student only": 3, "both wrong": 17}


def test_agreement_is_told_as_a_share_of_what_the_teacher_agrees_with_itself(wanted):
    test = a_test(wanted, student=noisy(wanted, 0.85, 2))
    test.again = {row.id: row.output if n % 10 else "nobody says this" for n, row in enumerate(test.rows[:300])}

    ceiling = score_tests(recipe(), [test], FACTS)["ceiling"]["gold"]

    assert (ceiling["rows"], ceiling["value"]) == (300, 90)
    alike = np.mean([a == b for a, b in zip(test.answers["student"].outputs[:300], wanted[:300], strict=True)])
    assert ceiling["reached"] == pytest.approx(100 * alike / 0.9)


def test_without_gold_the_ceiling_is_the_teachers_second_answer(wanted):
    summary = score_tests(recipe(), [a_test(wanted, gold=False, teacher=noisy(wanted, 0.9, 1))], FACTS)

    teacher = summary["models"]["teacher"]["score"]["held_out"]["value"]
    assert summary["ceiling"]["held_out"]["value"] == pytest.approx(teacher)
    assert summary["ceiling"]["held_out"]["reached"] == pytest.approx(100 * 100 / teacher)
    assert summary["mistakes"] is None
    assert summary["verdict"]["reference"] == "teacher"


@pytest.mark.parametrize("rows", [0, 1, 19])
def test_a_test_too_small_for_a_verdict_says_so_and_is_reported_all_the_same(rows: int):
    summary = score_tests(recipe(), [a_test(["billing"] * rows)], FACTS)

    assert summary["verdict"]["decision"] == "not_enough_data"
    assert f"write about {20 - rows} more rows of the gold test" in summary["verdict"]["reason"]
    assert summary["slices"] == []


def test_thirty_rows_that_are_all_alike_of_one_class_and_all_ties_settle_nothing():
    summary = score_tests(recipe(), [a_test(["billing"] * 30, text="the same")], FACTS)

    assert summary["verdict"]["decision"] == "not_enough_data", "30 rows on which nobody differs leave 8 points open"
    assert summary["difference"]["gold"]["value"] == 0
    assert summary["difference"]["gold"]["p"] == 1
    assert summary["models"]["student"]["further"]["gold"]["macro_f1"]["value"] == 100
    assert summary["confusion"]["counts"][0] == [30, 0, 0]


def test_a_teacher_that_answered_nothing_readable_is_wrong_everywhere(wanted):
    summary = score_tests(recipe(), [a_test(wanted, teacher=[None] * 600)], FACTS)

    assert summary["models"]["teacher"]["score"]["gold"]["value"] == 0
    assert summary["retention"] == {}
    assert summary["agreement"]["gold"]["value"] == 0
    assert summary["ceiling"] == {}


def test_a_label_that_nobody_was_taught_counts_against_whoever_misses_it(wanted):
    test = a_test(["other"] * 300 + wanted[:300], student=["billing"] * 300 + list(wanted[:300]))

    summary = score_tests(recipe(), [test], FACTS)

    worst = summary["slices"][0]
    assert (worst["column"], worst["value"]) == ("label", "other")
    assert summary["models"]["student"]["further"]["gold"]["macro_f1"]["value"] < 75


def test_dollars_come_from_a_price_or_from_the_machines_hours(wanted):
    models = score_tests(recipe(usd_per_hour=0.36), [a_test(wanted)], FACTS)["models"]

    assert models["teacher"]["usd_per_1000"] == 0.5
    assert models["student"]["usd_per_1000"] == pytest.approx(1000 * 0.36 / 3600 / 500)
    assert models["majority"]["usd_per_1000"] is None


def test_the_table_is_read_as_it_was_written(tmp_path: Path, wanted):
    tests = [a_test(wanted[:50], teacher=[None, *wanted[1:50]])]
    tests[0].rows = [
        Source(row.id, row.input, "root", "test", "gold", row.output, {"channel": "mail\n<b>"}) for row in tests[0].rows
    ]
    tests[0].answers["student"].confidence = [n / 64 for n in range(50)]
    tests[0].again = {"r3": "billing", "r4": None}
    artifact = Artifact(LocalStorage(tmp_path), "evaluate", "x")
    summary = facts_as_json(tests, FACTS)
    artifact.finish({"shards": {CONFIG: write_table(artifact, tests)}})

    (read,), models = read_table(artifact, summary)

    assert models == FACTS
    assert (read.name, read.gold, read.source, read.again) == ("gold", True, "gold.jsonl", tests[0].again)
    assert sorted(read.rows, key=lambda row: row.id) == sorted(tests[0].rows, key=lambda row: row.id)
    for model, answers in read.answers.items():
        given = {
            row.id: line
            for row, *line in zip(
                tests[0].rows,
                tests[0].answers[model].outputs,
                tests[0].answers[model].confidence,
                tests[0].answers[model].scores,
                strict=True,
            )
        }
        assert {
            row.id: line
            for row, *line in zip(read.rows, answers.outputs, answers.confidence, answers.scores, strict=True)
        } == given
