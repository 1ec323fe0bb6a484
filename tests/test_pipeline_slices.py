"""Slices, confusion and calibration: where a student is behind, and whether that may be chance."""

from __future__ import annotations

import random

import numpy as np
import pytest

from understudy.data.rows import Source
from understudy.pipeline.calibration import calibration
from understudy.pipeline.confusion import confusion, macro_f1
from understudy.pipeline.slices import MOST, slices
from understudy.pipeline.table import Answers, TestRows


def made(
    wanted: list[str], said: dict[str, list[str | None]], *, columns: list[dict[str, str]] | None = None, words: int = 5
) -> TestRows:
    rows = [
        Source(
            f"r{n}",
            " ".join(["word"] * (words + n % 7)),
            f"r{n}",
            "test",
            "gold",
            output,
            (columns or [{}] * n + [{}])[n],
        )
        for n, output in enumerate(wanted)
    ]
    test = TestRows("gold", True, "gold.jsonl", rows)
    for model, outputs in said.items():
        scores = np.array([output == row.output for output, row in zip(outputs, rows, strict=True)], dtype=float)
        test.answers[model] = Answers(outputs, [None] * len(rows), scores)
    return test


def test_the_slice_where_the_student_loses_comes_first_and_survives_the_correction():
    wanted = ["a", "b", "c"] * 100
    weak = ["c" if label == "b" and n < 150 else label for n, label in enumerate(wanted)]
    test = made(wanted, {"teacher": list(wanted), "small": weak})

    found = slices(test, "small", ["a", "b", "c"], graded=False)

    worst = found[0]
    assert (worst["column"], worst["value"], worst["rows"]) == ("label", "b", 100)
    assert worst["difference"]["value"] == -50
    assert worst["p_holm"] < 0.001
    assert {part["column"] for part in found} == {"label", "length"}
    assert [part["difference"]["value"] for part in found] == sorted(part["difference"]["value"] for part in found)


def test_slices_of_two_equal_models_are_rarely_called_different():
    draw = random.Random(0)
    flagged = 0
    for _ in range(100):
        wanted = [draw.choice("abcdefghij") for _ in range(400)]
        noisy = {name: [label if draw.random() < 0.9 else "x" for label in wanted] for name in ("teacher", "small")}
        test = made(wanted, noisy)  # type: ignore[arg-type]
        flagged += any(part["p_holm"] < 0.05 for part in slices(test, "small", list("abcdefghijx"), graded=False))

    assert flagged <= 9, "each run has some 13 slices; uncorrected, one in two would be flagged"


def test_a_column_of_ten_thousand_values_is_told_as_its_frequent_ones_and_a_rest():
    wanted = ["a", "b"] * 6000
    columns = [{"customer": f"c{n % 10_000}" if n >= 2000 else f"big{n % 150}"} for n in range(12_000)]
    test = made(wanted, {"teacher": list(wanted), "small": list(wanted)}, columns=columns)

    found = [part for part in slices(test, "small", [], graded=False) if part["column"] == "customer"]

    assert len(found) == MOST + 1
    rest = next(part for part in found if part["value"].startswith("("))
    assert rest["value"].endswith("other values)")
    assert sum(part["rows"] for part in found) == 12_000


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_rows_that_are_all_alike_have_no_slices(rows: int):
    test = made(["a"] * rows, {"teacher": ["a"] * rows, "small": ["a"] * rows})
    test.rows = [Source(row.id, "same", row.root, "test", "gold", "a") for row in test.rows]

    assert slices(test, "small", ["a", "b"], graded=False) == []


def test_macro_f1_agrees_with_sklearn_and_its_interval_holds_the_truth():
    from sklearn.metrics import f1_score

    draw = random.Random(1)
    labels = list("abcdef")
    wanted = [draw.choices(labels, [50, 20, 10, 10, 5, 5])[0] for _ in range(800)]
    said = [label if draw.random() < 0.8 else draw.choice(labels) for label in wanted]
    test = made(wanted, {"small": said})  # type: ignore[dict-item]

    interval = macro_f1(test, "small", labels)

    assert interval.value == pytest.approx(100 * f1_score(wanted, said, average="macro"))
    assert interval.low < interval.value < interval.high < interval.low + 12


def test_an_unreadable_answer_costs_its_label_and_stands_in_no_cell():
    test = made(["a", "a", "b"], {"small": ["a", None, "b"]})

    assert confusion(test, "small", ["a", "b"]) == {"test": "gold", "labels": ["a", "b"], "counts": [[1, 0], [0, 1]]}
    assert macro_f1(test, "small", ["a", "b"]).value == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert confusion(made([], {"small": []}), "small", ["a", "b"]) is None


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated():
    draw = np.random.default_rng(0)
    sure = draw.uniform(0.3, 1.0, 4000)
    test = made(["a"] * 4000, {"small": ["a"] * 4000})
    test.answers["small"] = Answers(["a"] * 4000, list(sure), (draw.random(4000) < sure).astype(float))

    honest = calibration(test, "small")
    test.answers["small"].confidence = [min(1.0, value + 0.2) for value in sure]
    boasting = calibration(test, "small")

    assert honest is not None
    assert boasting is not None
    assert honest["error"] < 3 < 12 < boasting["error"]
    assert [part["rows"] for part in honest["bins"]] == [400] * 10
    assert honest["brier"] < boasting["brier"]


def test_a_model_that_says_nothing_of_its_confidence_has_no_diagram():
    test = made(["a"] * 100, {"small": ["a"] * 100})

    assert calibration(test, "small") is None
