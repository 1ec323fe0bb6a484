from __future__ import annotations

import re

import numpy as np
import pytest

from understudy.pipeline.statistics import Interval, tango
from understudy.pipeline.verdict import judge, rows_needed, score_difference


def scores(wins: int, losses: int, rows: int) -> tuple[list[float], list[float], list[int]]:
    """Student's and teacher's right/wrong scores with so many rows that only one has right, and a root per row."""
    both = rows - wins - losses
    return [1.0] * wins + [0.0] * losses + [1.0] * both, [0.0] * wins + [1.0] * losses + [1.0] * both, list(range(rows))


def test_a_student_whose_interval_lies_above_the_margin_passes():
    verdict = judge(*scores(120, 130, 3080), 2.0, graded=False)

    assert verdict.decision == "pass"
    assert verdict.reason == (
        "student minus teacher is -0.3 points (90% interval -1.2 to +0.5, Tango, 3080 rows); "
        "its lower end is above -2.0"
    )
    assert (verdict.rows, verdict.roots, verdict.margin, verdict.method) == (3080, 3080, 2.0, "Tango")
    assert verdict.difference == tango(120, 130, 3080)


def test_a_student_whose_interval_lies_below_the_margin_fails():
    verdict = judge(*scores(20, 160, 2000), 2.0, graded=False)

    assert verdict.decision == "fail"
    assert verdict.reason.endswith("its upper end is below -2.0")


def test_an_interval_across_the_margin_decides_nothing_and_says_how_many_rows_would():
    verdict = judge(*scores(10, 12, 200), 2.0, graded=False)

    assert verdict.decision == "not_enough_data"
    assert verdict.difference.low < -2.0 < verdict.difference.high
    assert verdict.reason.endswith(
        "its lower end is not above -2.0; with the two differing on 11.0% of rows, "
        f"about {rows_needed(0.11, 2.0)} rows would be needed if they are truly equal"
    )


def test_enough_rows_for_equal_models_but_not_for_these_is_said_as_such():
    verdict = judge(*scores(60, 110, 3080), 2.0, graded=False)

    assert verdict.decision == "not_enough_data"
    needed = int(re.search(r"if the difference stays where it is, about (\d+) rows", verdict.reason)[1])
    assert needed > 3080


def test_a_difference_on_the_margin_is_not_promised_to_be_settled():
    verdict = judge(*scores(0, 100, 5000), 2.0, graded=False)

    assert verdict.decision == "not_enough_data"
    assert verdict.reason.endswith("a difference this close to the margin is not settled by more rows")


def test_ends_are_printed_finely_enough_to_see_on_which_side_of_the_margin_they_lie():
    student, teacher, roots = scores(10, 12, 200)
    low = judge(student, teacher, roots, 2.0, graded=False).difference.low

    above = judge(student, teacher, roots, round(-low + 0.01, 2), graded=False)
    below = judge(student, teacher, roots, round(-low - 0.01, 2), graded=False)

    assert (above.decision, below.decision) == ("pass", "not_enough_data")
    for verdict in (above, below):
        shown = float(re.search(r"interval (\S+) to", verdict.reason)[1])
        assert (shown > -verdict.margin) == (verdict.difference.low > -verdict.margin)
        assert f"above {-verdict.margin:g}" in verdict.reason


@pytest.mark.parametrize("margin", [0.5, 2.0, 5.0, 20.0])
def test_the_decision_follows_from_the_printed_interval_alone(margin: float):
    for losses in range(0, 200, 7):
        verdict = judge(*scores(10, losses, 400), margin, graded=False)
        if verdict.difference.low > -margin:
            assert verdict.decision == "pass"
        elif verdict.difference.high < -margin:
            assert verdict.decision == "fail"
        else:
            assert verdict.decision == "not_enough_data"


def test_no_rows_is_not_enough_data():
    verdict = judge([], [], [], 2.0, graded=False)

    assert (verdict.decision, verdict.reason) == ("not_enough_data", "there are no test rows to judge on")
    assert verdict.difference == Interval(0, -100, 100)


@pytest.mark.parametrize(("wins", "losses", "rows"), [(0, 0, 1), (1, 0, 1), (0, 1, 1), (19, 0, 19), (0, 19, 19)])
def test_under_twenty_rows_nothing_passes_and_nothing_fails(wins: int, losses: int, rows: int):
    verdict = judge(*scores(wins, losses, rows), 2.0, graded=False)

    assert verdict.decision == "not_enough_data"
    what = "row" if rows == 1 else "rows"
    assert verdict.reason.startswith(f"{rows} {what} cannot carry a verdict, at least 20 are needed; student minus")


@pytest.mark.parametrize("graded", [False, True])
def test_a_thousand_rows_of_one_root_are_not_enough_data(graded: bool):
    student, teacher, _ = scores(0, 900, 1000)

    verdict = judge(student, teacher, ["seed"] * 1000, 2.0, graded=graded)

    assert verdict.decision == "not_enough_data"
    assert verdict.reason.startswith("1 root cannot carry a verdict, at least 20 are needed")
    assert (verdict.rows, verdict.roots) == (1000, 1)


@pytest.mark.parametrize("graded", [False, True])
def test_thirty_equal_rows_do_not_prove_equality(graded: bool):
    verdict = judge([1] * 30, [1] * 30, list(range(30)), 2.0, graded=graded)

    assert verdict.decision == "not_enough_data"
    assert verdict.difference == Interval(0, pytest.approx(-8.27, abs=0.01), pytest.approx(8.27, abs=0.01))
    assert f"about {rows_needed(0, 2.0)} rows" in verdict.reason


def test_as_many_equal_rows_as_are_asked_for_pass():
    enough = rows_needed(0, 2.0)

    assert judge([1] * enough, [1] * enough, list(range(enough)), 2.0, graded=False).decision == "pass"
    assert judge([1] * (enough - 1), [1] * (enough - 1), list(range(enough - 1)), 2.0, graded=False).decision != "pass"


def test_ties_in_few_roots_do_not_pass_however_many_rows_they_have():
    roots = [row // 40 for row in range(1000)]

    verdict = judge([1] * 1000, [1] * 1000, roots, 2.0, graded=False)

    assert verdict.decision == "not_enough_data"
    assert verdict.method == "root bootstrap widened to Tango over roots"
    assert "1000 rows of 25 roots" in verdict.reason
    assert verdict.difference.low == judge([1] * 25, [1] * 25, list(range(25)), 2.0, graded=False).difference.low


def test_rows_that_share_a_root_widen_the_interval():
    random = np.random.default_rng(0)
    per_root = random.choice([-1, 0, 1], 300, p=[0.08, 0.86, 0.06])
    student, teacher = np.repeat(per_root >= 0, 5), np.repeat(per_root <= 0, 5)

    apart = judge(student, teacher, list(range(1500)), 2.0, graded=False)
    together = judge(student, teacher, [row // 5 for row in range(1500)], 2.0, graded=False)

    assert (apart.method, together.method) == ("Tango", "root bootstrap")
    width = apart.difference.high - apart.difference.low
    assert together.difference.high - together.difference.low > 2 * width
    assert (together.rows, together.roots) == (1500, 300)


@pytest.mark.parametrize(("per_root", "alike"), [(2, 0.0), (2, 1.0), (40, 0.0), (40, 1.0)])
def test_a_student_at_the_margin_seldom_passes_on_rows_that_share_roots(per_root: int, alike: float):
    random = np.random.default_rng(1)
    roots = [root for root in range(25) for _ in range(per_root)]
    passed = 0
    for _ in range(300):
        drawn = random.choice([1, -1, 0], (25, per_root), p=[0.025, 0.075, 0.9])
        copied = np.where(random.random((25, 1)) < alike, drawn[:, :1], drawn).ravel()
        passed += judge(copied >= 0, copied <= 0, roots, 5.0, graded=False).decision == "pass"

    assert passed / 300 <= 0.075


def test_graded_scores_are_judged_by_the_bootstrap():
    random = np.random.default_rng(0)
    teacher = random.uniform(0.5, 1, 1500)
    student = np.clip(teacher + random.normal(0, 0.1, 1500), 0, 1)

    verdict = judge(student, teacher, list(range(1500)), 2.0, graded=True)

    assert (verdict.decision, verdict.method) == ("pass", "root bootstrap")
    assert verdict.difference.value == pytest.approx(100 * (student - teacher).mean())


@pytest.mark.parametrize(
    ("student", "graded", "message"),
    [
        ([1, 0, float("nan")], False, "row 2: no score of the student; expected 0 or 1"),
        ([1, None, 1], True, "row 1: no score of the student; expected a number from 0 to 1"),
        ([1, 0.5, 1], False, "row 1: score 0.5 of the student; expected 0 or 1"),
        ([1.5, 0, 1], True, "row 0: score 1.5 of the student; expected a number from 0 to 1"),
    ],
)
def test_a_score_that_is_none_is_refused_by_row(student: list[float], graded: bool, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        judge(student, [1, 1, 1], ["a", "b", "c"], 2.0, graded=graded)


def test_the_teachers_scores_are_checked_too():
    with pytest.raises(ValueError, match="row 0: no score of the teacher"):
        judge([1], [None], ["a"], 2.0, graded=False)  # type: ignore[list-item]


def test_scores_and_roots_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 student scores, 2 teacher scores, 1 roots"):
        judge([1, 1], [1, 0], ["a"], 2.0, graded=False)


def test_the_difference_to_another_model_is_had_without_a_margin():
    student, other, roots = scores(30, 10, 400)

    interval, method = score_difference(student, other, roots, graded=False)

    assert (interval.value, method) == (5.0, "Tango")


def test_rows_needed_matches_what_truly_equal_models_reach():
    random = np.random.default_rng(0)
    rows = rows_needed(0.08, 2.0)
    passed = 0
    for _ in range(400):
        drawn = random.choice([1, -1, 0], rows, p=[0.04, 0.04, 0.92])
        passed += judge(drawn >= 0, drawn <= 0, list(range(rows)), 2.0, graded=False).decision == "pass"

    assert rows == 1237
    assert 0.75 <= passed / 400 <= 0.85
