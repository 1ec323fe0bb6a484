from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from ruamel.yaml import YAML

from understudy.data.errors import UnderstudyError
from understudy.pipeline.card import model_card
from understudy.pipeline.charts import Scale
from understudy.pipeline.planes import curve, reliability
from understudy.pipeline.proof import verdict_lines
from understudy.pipeline.report import check_report, first_line, render_page, report_files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


def write_report(report: dict, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in report_files(report).items():
        (folder / name).write_bytes(content)


def score(value: float) -> dict[str, Any]:
    return {"metric": "accuracy", "value": value, "low": value - 1, "high": value + 0.9}


def model(kind: str, value: float, **facts: Any) -> dict[str, Any]:
    empty = {
        "parameters": None,
        "bytes": None,
        "memory": None,
        "latency_ms": None,
        "per_second": None,
        "tokens_per_second": None,
        "usd_per_1000": None,
    }
    further = {"gold": {"macro_f1": {"value": value, "low": max(value - 2, 0.0), "high": value + 0.5}}}
    return {"kind": kind, "score": {"gold": score(value)}, "further": further, **empty, **facts}


def row(number: int, cell: str, **fields: Any) -> dict[str, Any]:
    teacher = "billing" if cell in ("both right", "teacher only") else "other"
    student = "billing" if cell in ("both right", "student only") else "delivery"
    given = {"id": f"row{number}", "input": f"message number {number}", "reference": "billing", "teacher": teacher}
    return {**given, "student": student, "confidence": number / 100, "cell": cell, **fields}


@pytest.fixture
def report() -> dict[str, Any]:
    """A whole report of a student that passed."""
    cells = ["teacher only"] * 12 + ["both wrong"] * 8 + ["student only"] * 6 + ["both right"] * 4
    return {
        "name": "support-triage",
        "created": "2030-01-02T03:04:05+00:00",
        "verdict": {
            "decision": "pass",
            "reason": "student minus teacher is -0.3 points",
            "test": "gold",
            "reference": "gold",
            "student": "small",
        },
        "margin": 2.0,
        "tests": {"gold": {"rows": 3000, "roots": 2500, "source": "test.jsonl", "gold": True}},
        "models": {
            "teacher": model("teacher", 92.1, usd_per_1000=0.021),
            "small": model(
                "student",
                91.8,
                parameters=1_912_320,
                bytes=7_649_280,
                memory=612_000_000,
                latency_ms={"p50": 4.1, "p95": 6.8},
                seeds=[{"seed": seed, "validation": 90.0 + seed, "score": {"gold": 91.0 + seed}} for seed in (0, 1)],
            ),
            "linear": model("baseline", 87.9, parameters=2_414_720, bytes=9_999_263),
            "majority": model("baseline", 1.3),
        },
        "difference": {"gold": {"value": -0.3, "low": -1.2, "high": 0.5, "method": "Tango", "p": 0.61}},
        "against": {"linear": {"gold": {"value": 3.9, "low": 3.1, "high": 4.8, "method": "Tango", "p": 0.0001}}},
        "controls": {},
        "retention": {"gold": {"value": 99.7, "low": 98.7, "high": 100.5}},
        "gap_closed": {"gold": {"value": 99.6, "low": 98.6, "high": 100.6}},
        "agreement": {"gold": {"value": 94.0, "low": 93.1, "high": 94.8}},
        "ceiling": {"gold": {"value": 97.7, "low": 95.7, "high": 98.7, "rows": 300, "reached": 96.2}},
        "good_enough": [],
        "slices": [
            {
                "column": column,
                "value": value,
                "rows": rows,
                "student": 90.0 + gap,
                "teacher": 90.0,
                "difference": {"value": gap, "low": gap - 2, "high": gap + 2, "method": "Tango"},
                "p": p,
                "p_holm": min(1.0, 3 * p),
            }
            for column, value, rows, gap, p in (
                ("label", "billing", 943, -6.0, 0.002),
                ("length", "over 12 words", 1000, -1.0, 0.2),
                ("channel", "mail", 500, 1.5, 0.4),
            )
        ],
        "calibration": {
            "small": {
                "error": 2.1,
                "brier": 0.06,
                "bins": [{"confidence": 50 + 5 * n, "right": 48 + 5.2 * n, "rows": 300} for n in range(10)],
            }
        },
        "curve": {
            "student": "small",
            "test": "gold",
            "points": [
                {"rows": rows, "value": value, "low": value - 1, "high": value + 1}
                for rows, value in ((625, 81.0), (1250, 86.5), (2500, 89.8), (5000, 91.8))
            ],
            "fit": {"floor": 6.0, "scale": 3154.0, "rate": 0.853},
            "next": {"rows": 5000, "gain": {"value": 0.9, "low": 0.4, "high": 1.6}, "usd": 0.31},
        },
        "capacity": {
            "rows": 256,
            "fitted": 100.0,
            "validation": 93.0,
            "ceiling": 97.7,
            "decision": "too_little_data",
            "reason": "it fits the 256 rows of the probe, and answers rows it has not seen less well",
        },
        "mistakes": {"copied": 150, "differ": 36, "new": 60},
        "judge": None,
        "payback_requests": 14_300,
        "rows": {
            "generate": {
                "requested": 5600,
                "accepted": 5000,
                "rejected": {"near_duplicate": 450, "too_short": 50},
                "failed": {"timeout": 15},
                "pending": 85,
            }
        },
        "strategies": {
            "self-instruct": {
                "share": 2 / 3,
                "rows": {"requested": 3700, "accepted": 3400, "rejected": {}, "failed": {}, "pending": 300},
                "written_for": {"rows": 3400, "other": 51},
            },
            "documents": {
                "share": 1 / 3,
                "rows": {"requested": 9, "accepted": 2, "rejected": {"empty": 7}, "failed": {}, "pending": 0},
                "written_for": None,
            },
        },
        "contamination": {
            "compared": 4000,
            "tests": {
                "gold/gold": {
                    "texts": 3000,
                    "found": {"same": 2, "near": 31, "inside": 5},
                    "pairs": [{"kind": "near", "row": "where is my order now", "text": "where is my order"}],
                }
            },
        },
        "spend": {
            "requests": 9120,
            "from_ledger": 1240,
            "input_tokens": 1_824_000,
            "output_tokens": 36_480,
            "usd": 0.3,
            "by_stage": {"label": {"requests": 6120, "usd": 0.2}, "evaluate": {"requests": 3000, "usd": 0.1}},
        },
        "seconds": {"generate": 312.4, "evaluate": 9.5},
        "confusion": {
            "test": "gold",
            "labels": ["billing", "delivery", "other"],
            "counts": [[900, 40, 3], [10, 980, 0], [1, 2, 1060]],
        },
        "errors": [row(number, cell) for number, cell in enumerate(cells)],
        "cells": {"both right": 2700, "teacher only": 12, "student only": 6, "both wrong": 282},
        "provenance": {
            "teacher": "lead: org/model@main",
            "recipe_fingerprint": "0123456789abcdef",
            "stages": {"generate": "fedcba9876543210"},
            "versions": {"understudy": "0.1.0"},
            "seeds": {"small": [0, 1]},
            "machine": {"cores": 2},
        },
        "notes": ["Inputs: 5000 unlabeled."],
    }


def paired(gap: float) -> dict[str, Any]:
    return {"value": gap, "low": gap - 0.8, "high": gap + 0.9, "method": "root bootstrap", "p": 0.0001}


def slice_of(column: str, value: str, rows: int, gap: float, p: float) -> dict[str, Any]:
    half = 3.0 if p < 0.05 else 120 / rows**0.5
    low, high = max(gap - half, -100.0), min(gap + half, 100.0)
    difference = {"value": gap, "low": low, "high": high, "method": "Tango"}
    shares = {"student": 90.0 + min(gap, 10), "teacher": 90.0}
    return {"column": column, "value": value, "rows": rows, **shares, "difference": difference, "p": p, "p_holm": p}


def crowded(report: dict[str, Any]) -> dict[str, Any]:
    """The same run with everything there is: 77 labels with long names, 178 slices, 300 rows, two tests, a judge."""
    labels = [f"label_{number:02}_about_a_card_payment_that_was_not_recognised" for number in range(77)]
    other = "a_second_test_whose_name_is_rather_long_and_has_no_spaces_in_it"
    interval = {"value": 12.0, "low": 10.1, "high": 14.2}
    gaps = [(97 * number % 77 - 40) / 5 for number in range(77)]
    slices = [
        slice_of("label", label, 40, gap, 0.001 if gap < -7 else 1.0) for label, gap in zip(labels, gaps, strict=True)
    ]
    slices += [slice_of("customer_id", f"c-{number}", 9 + number, (number % 23 - 11) / 4, 1.0) for number in range(100)]
    slices.append(slice_of("customer_id", "(9,900 other values)", 2000, 1.9, 0.01))
    cells = ["teacher only", "both wrong", "student only", "both right"]
    names = ["untrained", "neighbour", "a_baseline_with_a_long_name"]
    models = report["models"] | {
        name: model("baseline", value) for name, value in zip(names, (1.4, 84.0, 91.0), strict=True)
    }
    for number, facts in enumerate(models.values()):
        facts["score"][other], facts["further"][other] = score(70 + number), facts["further"]["gold"]
        facts |= {"usd_per_1000": 2.0 / 10**number, "per_second": 9.5 * 4**number}
    against = {
        name: {"gold": paired(91.8 - facts["score"]["gold"]["value"]), other: paired(-1.2)}
        for name, facts in models.items()
        if facts["kind"] == "baseline"
    }
    confused = [[100 * (i == j) + (i * j + i) % 11 // 10 * (i % 5) for j in range(77)] for i in range(77)]
    stages = ("generate", "label", "curate", "train:small", "evaluate")
    return report | {
        "tests": report["tests"] | {other: {"rows": 420, "roots": 420, "source": "handwritten.jsonl", "gold": True}},
        "models": models,
        "difference": report["difference"]
        | {other: {"value": -8.1, "low": -10.4, "high": -5.9, "method": "Tango", "p": 1e-9}},
        "against": against,
        "agreement": report["agreement"] | {other: {"value": 81.0, "low": 79.0, "high": 83.0}},
        "good_enough": [{"name": "a_baseline_with_a_long_name", "value": -1.1, "low": -1.8, "high": -0.4}],
        "slices": sorted(slices, key=lambda part: part["difference"]["value"]),
        "calibration": {
            "teacher": report["calibration"]["small"],
            "small": {
                "error": 6.4,
                "brier": 0.11,
                "bins": [{"confidence": 96 + n / 3, "right": 85 + 1.5 * n, "rows": 40 + 60 * n} for n in range(10)],
            },
        },
        "judge": {
            "teacher": "lead: org/model@main",
            "is_the_teacher": True,
            "pairs": 5210,
            "left_out": 3,
            "flipped": interval,
            "first_preferred": {"value": 57.2, "low": 56.0, "high": 58.4},
            "longer_preferred": {"value": 66.0, "low": 63.5, "high": 68.4},
        },
        "rows": {name: report["rows"]["generate"] for name in stages},
        "seconds": {name: 12.5 * 3**number for number, name in enumerate(stages)},
        "confusion": {"test": "gold", "labels": labels, "counts": confused},
        "errors": [
            row(
                number, cells[number % 4], input=f"message {number}: " + "why was my card refused? " * (number % 30 + 1)
            )
            | {"reference": labels[number % 77], "teacher": labels[number % 76], "student": labels[number % 75]}
            for number in range(300)
        ],
        "notes": [f"A note of some length, number {number}, that says what was done." for number in range(4)],
    }


class Page(HTMLParser):
    """Tags with their attributes, the text, and what the scripts and links of a page are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r" (?=[.,;:)])|(?<=\() ", "", " ".join(" ".join(self.words).split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def text_of(report: dict[str, Any]) -> str:
    return Page(render_page(report)).text


def test_a_report_is_written_for_programs_and_for_people(report: dict[str, Any], tmp_path: Path):
    write_report(report, tmp_path / "new")

    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["card.md", "report.html", "report.json"]
    assert json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8")) == report
    assert (tmp_path / "new" / "report.html").stat().st_size < 100_000


def test_the_page_needs_nothing_but_itself(report: dict[str, Any]):
    page = Page(render_page(report))

    assert not [attributes for _, attributes in page.tags if {"src", "srcset", "data", "action"} & set(attributes)]
    assert all(str(attributes["href"]).startswith("#") for attributes in page.all("a"))
    assert page.all("link") == []
    policy = page.all("meta")[1]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


@pytest.mark.parametrize(
    ("decision", "reference", "expected"),
    [
        ("pass", "gold", "PASS: small may stand in for the teacher"),
        ("fail", "gold", "FAIL: small may not stand in for the teacher"),
        ("not_enough_data", "gold", "NOT ENOUGH DATA: whether small may stand in for the teacher is not settled"),
        (
            "pass",
            "teacher",
            "PASS: small may stand in for the teacher (no gold: measured against the teacher's own answers)",
        ),
    ],
)
def test_the_first_line_is_the_verdict_in_words_and_colour(
    report: dict[str, Any], decision: str, reference: str, expected: str
):
    report["verdict"] |= {"decision": decision, "reference": reference}

    page = Page(render_page(report))

    assert first_line(report) == expected
    assert page.text.index(expected) == len(f"support-triage: {decision.replace('_', ' ')} ")  # next to the title
    assert page.all("header")[0]["class"] == f"verdict {decision}"


@pytest.mark.parametrize(
    ("decision", "baselines", "expected"),
    [
        ("pass", ["linear"], "may stand in for the teacher; so may linear, which costs less: no student is needed"),
        ("pass", ["linear", "neighbour"], "; so may linear and neighbour, which cost less: no student is needed"),
        (
            "fail",
            ["linear"],
            "FAIL: small may not stand in for the teacher; but linear may, which costs less: no student",
        ),
        (
            "not_enough_data",
            ["a", "b", "c"],
            "is not settled; but a, b and c may, which cost less: no student is needed",
        ),
    ],
)
def test_the_first_line_says_where_nobody_needs_a_student(
    report: dict[str, Any], decision: str, baselines: list[str], expected: str
):
    report["verdict"]["decision"] = decision
    report["good_enough"] = [{"name": name, "value": -0.5, "low": -1.4, "high": 0.4} for name in baselines]

    assert expected in first_line(report)
    assert verdict_lines(report)[0] == first_line(report)
    assert f"{baselines[0]} minus teacher is \N{MINUS SIGN}0.50 (\N{MINUS SIGN}1.40 to +0.40)" in text_of(report)


def test_the_figures_have_their_intervals_and_their_chances(report: dict[str, Any]):
    text = text_of(report)

    assert "Difference \N{MINUS SIGN}0.30 \N{MINUS SIGN}1.20 to +0.50, p = 0.61" in text
    assert "Keeps of the teacher's score 99.7% 98.7 to 100.5" in text
    assert "Of the way from untrained to teacher 99.6% 98.6 to 100.6" in text
    assert "linear +3.9 +3.1 to +4.8 < 0.001 Tango" in text
    assert "teacher teacher 92.1 91.1 to 93.0 92.1 90.1 to 92.6" in text, "macro F1 beside the score"


def test_agreement_is_held_against_what_the_teacher_itself_reaches(report: dict[str, Any]):
    said = "94.0% as the teacher does; the teacher agrees with itself on 97.7%: 96% of what can be reached"
    assert said in text_of(report)

    report["ceiling"] = {}
    assert "94.0% as the teacher does." in text_of(report)


def test_mistakes_are_told_apart(report: dict[str, Any]):
    page = Page(render_page(report))

    assert "150 copied (61%): the teacher gives the same wrong answer" in page.text
    assert "60 new (24%): the teacher is right" in page.text
    bars = [bar for bar in page.all("rect") if bar["class"] in ("copied", "differ", "new")]
    assert sum(float(str(bar["width"]).rstrip("%")) for bar in bars) == pytest.approx(100, abs=0.01)


def test_slices_are_marked_where_the_difference_is_more_than_chance(report: dict[str, Any]):
    text = text_of(report)

    assert "behind the teacher beyond chance on 1 of 3 parts of gold: label billing (\N{MINUS SIGN}6.0)" in text
    assert "behind 0.006 0.002 alone 943" in text
    assert text.count(" behind ") == 2
    report["slices"] = report["slices"][1:]
    assert "On none of 2 parts of gold is the student behind the teacher beyond chance." in text_of(report)


def test_a_page_lists_a_thousand_slices_and_says_how_many_it_leaves_out(report: dict[str, Any]):
    report["slices"] = [slice_of("customer", f"c-{number}", 9, number / 100, 1.0) for number in range(1500)]

    html = render_page(report)

    assert html.count('<tr data-column="customer">') == 1000
    assert "500 slices with smaller losses are in report.json only." in Page(html).text
    assert len(html) < 1_500_000


def test_the_learning_curve_doubles_with_every_step_and_says_what_comes_next(report: dict[str, Any]):
    plane = curve(report)
    text = text_of(report)

    assert plane is not None
    steps = [dot["x"] for dot in plane["dots"] + plane["ahead"]]
    assert [round(b - a, 1) for a, b in pairwise(steps)] == [23.5] * 4
    assert steps[-1] == 97
    heights = [dot["value"] for dot in plane["dots"]]
    assert heights == sorted(heights, reverse=True), "a better score stands higher"
    assert plane["line"].count("L") == 48
    assert "5,000 more rows are expected to be worth +0.9 points (90% interval +0.4 to +1.6) and to cost $0.31." in text
    assert "is what it says of 10,000 rows" in text


def test_a_learning_curve_that_nothing_fits_is_drawn_without_a_line(report: dict[str, Any]):
    report["curve"] |= {"fit": None, "next": None}

    text = text_of(report)

    assert "No falling curve fits these scores" in text
    assert "more rows are expected" not in text


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        ("too_small", "The student is too small"),
        ("too_little_data", "The student has too little data"),
        ("at_the_ceiling", "The student is at the ceiling"),
    ],
)
def test_what_holds_the_student_back_is_a_decision_with_its_numbers(report: dict[str, Any], decision: str, said: str):
    report["capacity"]["decision"] = decision

    text = text_of(report)

    assert f"{said} It fits the 256 rows of the probe, and answers rows it has not seen less well." in text
    assert "fits 256 rows it was trained on alone 100.0%" in text
    assert "answers rows it has not seen as the teacher did 93.0%" in text
    assert "the teacher answers as it did before 97.7%" in text
    report["capacity"]["ceiling"] = None
    assert "the teacher answers as it did before" not in text_of(report)


def test_a_model_that_is_too_sure_stands_under_the_diagonal(report: dict[str, Any]):
    report["calibration"]["small"]["bins"] = [
        {"confidence": 80.0, "right": 60.0, "rows": 100},
        {"confidence": 90.0, "right": 95.0, "rows": 25},
    ]

    (plane,) = reliability(report)
    sure, unsure = plane["dots"]

    assert sure["y"] > sure["diagonal"]
    assert sure["side"] == "over"
    assert unsure["y"] < unsure["diagonal"]
    assert unsure["side"] == "under"
    assert sure["radius"] > unsure["radius"]
    assert "2.1 points off on average (expected calibration error), Brier 0.060; 2 dots of 25 to 100 rows." in text_of(
        report
    )


@pytest.mark.parametrize(
    ("requests", "dollars", "said"),
    [
        (14_300, 0.001, "small pays for itself after 14,300 requests"),
        (None, 0.5, "small costs no less than the teacher, so it never pays for itself"),
        (None, None, "When the student pays for itself is not known"),
    ],
)
def test_when_the_student_pays_for_itself_is_said(
    report: dict[str, Any], requests: int | None, dollars: float | None, said: str
):
    report["payback_requests"] = requests
    report["models"]["small"] |= {"usd_per_1000": dollars, "per_second": 512.3}

    text = text_of(report)

    assert said in text
    assert "label 6,120 requests, $0.20" in text
    assert "Answers a second small 512" in text
    assert "Dollars per 1,000 answers teacher $0.021" in text


def test_a_judge_that_is_the_teacher_is_warned_of_before_anything_else(report: dict[str, Any]):
    report = crowded(report)

    text = text_of(report)

    assert text.index("The judge is the teacher itself:") < text.index("Student minus teacher")
    assert "Changed its mind with the order 12.0% 10.1 to 14.2 of pairs" in text
    assert "the answer read first 57.2% (56.0 to 58.4)" in text
    assert "the longer answer 66.0% (63.5 to 68.4)" in text
    report["judge"]["is_the_teacher"] = False
    assert "The judge is the teacher itself" not in text_of(report)


def test_the_card_has_the_scores_where_a_hub_looks_for_them(report: dict[str, Any], tmp_path: Path):
    write_report(crowded(report), tmp_path)

    card = ModelCard.load(tmp_path / "card.md")

    assert card.data.library_name == "transformers"
    assert card.data.license is None, "whose the answers are is not known"
    first, further, *_ = card.data.eval_results
    assert (first.task_type, first.dataset_name, first.dataset_type) == (
        "text-classification",
        "support-triage: gold",
        "support-triage-gold",
    )
    assert (first.metric_type, first.metric_value, first.metric_name) == ("accuracy", 91.8, "accuracy (%)")
    assert (further.metric_type, further.metric_name) == ("f1", "macro F1 (%)")
    assert len(card.data.eval_results) == 4, "two measures on two tests"
    assert card.data.model_name == "support-triage small"


def test_the_card_says_what_the_page_says(report: dict[str, Any]):
    text = model_card(crowded(report)).replace("\\", "")

    assert first_line(crowded(report)) in text
    assert "| small | 91.8 | 90.8 to 92.7 | 91.8 (89.8 to 92.3) | 1,912,320 | 7.6 MB | 4.1 | 6.8 | 38 | $0.20 |" in text
    assert "| teacher | gold | \N{MINUS SIGN}0.30 | \N{MINUS SIGN}1.20 to +0.50 | 0.61 | Tango |" in text
    assert "| linear | gold | +3.90 | +3.10 to +4.80 | &lt; 0.001 | root bootstrap |" in text
    assert "the teacher agrees with itself on 97.7%: 96% of what can be reached" in text
    assert text.count("| label: ") == 5, "the worst five slices"
    assert "**The judge is the teacher itself**" in text
    assert "5,000 more rows are expected to be worth +0.9 points" in text
    assert "Recipe: `0123456789abcdef`" in text


@pytest.mark.parametrize("name", ["no", "1_000", "0o7", "a: [b", "---", 'it\'s "so"', "x\n---\ny", "# x", "~", HOSTILE])
def test_names_stay_names_in_the_front_matter_of_the_card(report: dict[str, Any], name: str):
    report["name"] = report["verdict"]["test"] = name
    report["tests"] = {name: report["tests"]["gold"]}
    for facts in report["models"].values():
        facts["score"], facts["further"] = {name: facts["score"]["gold"]}, {}

    text = model_card(report)
    said = " ".join(name.split())

    (result,) = ModelCard(text).data.eval_results
    assert result.dataset_name == f"{said}: {said}"
    assert ModelCard(text).data.model_name == f"{said} small"
    assert YAML(typ="safe").load(text.split("---\n")[1])["model-index"][0]["name"] == f"{said} small"


def test_what_strangers_wrote_is_neither_markdown_nor_html_on_the_card(report: dict[str, Any]):
    odd = "[a](b) | `c` **d** $e$ <b>\n# f \ud83d"
    report["slices"][0]["value"] = report["notes"][0] = report["capacity"]["reason"] = odd

    body = model_card(report).split("---\n", 2)[2]

    said = r"\[a\](b) \| \`c\` \*\*d\*\* \$e\$ &lt;b&gt; \# f"
    assert body.count(said) == 3
    assert not re.search(r"<\w", body)


def test_a_run_without_a_student_has_a_card_without_scores_of_one(report: dict[str, Any]):
    report |= {"verdict": None, "difference": {}, "slices": [], "curve": None, "capacity": None, "mistakes": None}
    del report["models"]["small"]

    card = ModelCard(model_card(report))

    assert card.data.eval_results is None
    assert "NOT JUDGED: the recipe has no student" in card.text
    assert "| teacher | 92.1 |" in card.text


def test_what_strangers_wrote_stays_text(report: dict[str, Any]):
    report["name"] = HOSTILE
    report["models"]["teacher"]["score"][HOSTILE] = score(50)
    report["tests"][HOSTILE] = {"rows": 3, "roots": 3, "source": HOSTILE, "gold": False}
    report["confusion"]["labels"][0] = HOSTILE
    report["notes"] = [HOSTILE]
    report["models"]["small"]["seeds"][0]["score"][HOSTILE] = 50
    report["errors"] = [row(1, "both wrong", id=HOSTILE, input=HOSTILE, teacher=HOSTILE, student=HOSTILE)]
    report["rows"]["generate"]["rejected"] = {HOSTILE: 500}
    report["contamination"]["tests"][HOSTILE] = report["contamination"]["tests"].pop("gold/gold")
    report["contamination"]["tests"][HOSTILE]["pairs"] = [{"kind": "near", "row": HOSTILE, "text": HOSTILE}]

    html = render_page(report)
    page = Page(html)

    assert [tag.get("type") for tag in page.all("script")] == ["application/json", None]
    assert page.all("img") == []
    assert page.text.count("document.title") >= 8
    data = re.search(r'<script type="application/json" id="confusion-data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert not set(data[1]) & set("<>&")
    assert json.loads(data[1])["labels"][0] == HOSTILE


def test_a_report_without_the_optional_pieces_is_a_page_too(report: dict[str, Any], tmp_path: Path):
    report |= {"confusion": None, "errors": [], "rows": {}, "seconds": {}, "notes": [], "against": {}}
    report |= {"retention": {}, "agreement": {}, "gap_closed": {}, "ceiling": {}, "slices": [], "calibration": {}}
    report |= {"curve": None, "capacity": None, "mistakes": None, "payback_requests": None, "contamination": None}
    report["spend"]["usd"] = None
    del report["cells"], report["models"]["small"]["seeds"]
    report["models"]["small"] |= {"parameters": None, "bytes": None, "latency_ms": None}

    write_report(report, tmp_path)

    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "no price given" in page.text
    sections = {attributes.get("id") for attributes in page.all("h2")}
    assert sections == {"difference", "scores", "models", "cost", "provenance"}


@pytest.mark.parametrize(
    "field",
    [
        *(
            "verdict",
            "curve",
            "capacity",
            "mistakes",
            "judge",
            "payback_requests",
            "confusion",
            "difference",
            "against",
            "controls",
        ),
        *("retention", "gap_closed", "agreement", "ceiling", "calibration", "rows", "seconds"),
        *("slices", "errors", "notes", "good_enough"),
    ],
)
def test_any_piece_of_a_report_may_be_missing(report: dict[str, Any], field: str):
    report = crowded(report)
    nothing: dict[type, Any] = {dict: {}, list: []}
    null = field in ("verdict", "curve", "capacity", "mistakes", "judge", "confusion")
    report[field] = None if null else nothing.get(type(report[field]))

    check_report(report)

    assert render_page(report).endswith("</html>")
    assert model_card(report).startswith("---\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda report: [
            facts["score"]["gold"].update(value=100, low=100, high=100) for facts in report["models"].values()
        ],
        lambda report: [part["difference"].update(value=0, low=0, high=0) for part in report["slices"]],
        lambda report: [part["difference"].update(value=-100, low=-100, high=-100) for part in report["slices"]],
        lambda report: [part.update(value=50, low=50, high=50) for part in report["curve"]["points"]],
        lambda report: report["curve"].update(fit=None, test="another"),
        lambda report: report["curve"]["next"].update(usd=None),
        lambda report: report["ceiling"]["gold"].update(reached=None),
        lambda report: report["mistakes"].update(copied=0, differ=0, new=0),
        lambda report: report["calibration"]["small"].update(bins=[]),
        lambda report: report["judge"].update(pairs=0, first_preferred={"value": 0, "low": 0, "high": 100}),
        lambda report: report["models"]["small"].update(usd_per_1000=0, per_second=0),
        lambda report: report["spend"].update(usd=0, by_stage={}),
        lambda report: report.update(margin=1e-6),
        lambda report: report.update(margin=90.0),
    ],
)
def test_values_at_their_ends_are_drawn(report: dict[str, Any], change: Any):
    report = crowded(report)
    change(report)

    check_report(report)

    assert render_page(report).endswith("</html>")


def test_a_run_without_students_is_reported_as_not_judged(report: dict[str, Any], tmp_path: Path):
    report |= {"verdict": None, "difference": {}, "against": {}, "retention": {}, "agreement": {}}
    report |= {"gap_closed": {}, "ceiling": {}, "slices": [], "calibration": {}, "curve": None, "capacity": None}
    report |= {"confusion": None, "errors": []}
    del report["models"]["small"]

    write_report(report, tmp_path)

    assert first_line(report) == "NOT JUDGED: the recipe has no student"


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (
            *(1.2, 0.3, 2.1),
            "The experts of small are worth +1.2 points (90% interval +0.3 to +2.1) on gold, beside the dense "
            "small-control (1.91M parameters beside 900k); that is worth their room.",
        ),
        (
            *(-1.2, -2.1, -0.3),
            "The experts of small do harm: -1.2 points (90% interval -2.1 to -0.3) on gold, beside the dense "
            "small-control (1.91M parameters beside 900k); take small-control.",
        ),
        (
            *(0.2, -0.9, 1.3),
            "The experts of small are worth nothing that gold can show: +0.2 points (90% interval -0.9 to +1.3), "
            "beside the dense small-control (1.91M parameters beside 900k); take small-control.",
        ),
    ],
)
def test_what_experts_are_worth_is_said_everywhere(report: dict[str, Any], value, low, high, said):
    report["models"]["small-control"] = model("student", 90.6, parameters=900_000, bytes=3_600_000)
    report["controls"] = {"small": {"gold": paired(value) | {"low": low, "high": high}}}

    check_report(report)

    for text in (verdict_lines(report)[-1], text_of(report), model_card(report).replace("\\", "")):
        assert said in text.replace("\N{MINUS SIGN}", "-")


def test_a_test_without_rows_is_reported_without_scores(report: dict[str, Any]):
    report["tests"] = {"gold": {"rows": 0, "roots": 0, "source": "test.jsonl", "gold": True}}
    report["verdict"] |= {"decision": "not_enough_data", "reason": "there are no test rows to judge on"}
    for facts in report["models"].values():
        facts["score"] = {}
    report |= {
        "difference": {},
        "against": {},
        "retention": {},
        "agreement": {},
        "slices": [],
        "calibration": {},
        "curve": None,
        "confusion": None,
        "errors": [],
    }

    check_report(report)

    assert "No test has rows, so there are no scores." in Page(render_page(report)).text


def test_the_flow_of_rows_is_shown_to_add_up(report: dict[str, Any]):
    text = Page(render_page(report)).text

    assert "5,000 of 5,600 accepted" in text
    assert "generate 5,600 5,000 500 15 85 yes" in text
    assert "rejected, near_duplicate: 450" in text
    assert "failed, timeout: 15" in text


def test_the_yield_of_each_strategy_is_shown_and_who_wrote_for_another_label(report: dict[str, Any]):
    text = Page(render_page(report)).text

    assert "self-instruct 66.7% 3,700 3,400 51 of 3,400" in text
    assert "documents 33.3% 9 2 rejected, empty: 7" in text
    report["strategies"] = None
    assert "by strategy" not in Page(render_page(report)).text


def test_what_was_found_of_tests_is_shown_with_pairs(report: dict[str, Any]):
    text = Page(render_page(report)).text

    assert "4,000 rows to learn from were compared with every text of these tests" in text
    assert "gold/gold 3,000 2 31 5" in text
    assert "gold/gold near where is my order now where is my order" in text
    report["contamination"]["tests"]["gold/gold"]["pairs"] = []
    assert "Some of them." not in Page(render_page(report)).text
    report["contamination"] = None
    assert "Leaks from tests" not in Page(render_page(report)).text


def test_the_spread_over_seeds_is_said(report: dict[str, Any]):
    assert "gold: 91.0 to 92.0 over 2 seeds." in Page(render_page(report)).text


def test_rows_that_got_lost_are_shown_as_such(report: dict[str, Any]):
    report["rows"]["generate"]["pending"] = 0

    assert "no: 5,515 accounted for" in Page(render_page(report)).text


def test_rows_that_the_student_answered_with_no_label_are_said_to_be_missing_from_the_matrix(report: dict[str, Any]):
    assert "4 of 3000 rows are not in the matrix" in Page(render_page(report)).text


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda report: report.pop("margin"), r"\$: 'margin' is a required property"),
        (lambda report: report["verdict"].update(decision="maybe"), r"\$\.verdict\.decision: 'maybe' is not one of"),
        (
            lambda report: report.update(extra=1),
            r"\$: Additional properties are not allowed \('extra' was unexpected\)",
        ),
        (
            lambda report: report["models"]["small"]["score"]["gold"].update(value=0.918, low="x"),
            r"\.gold\.low: 'x' is",
        ),
        (lambda report: report["rows"]["generate"].update(accepted=-1), r"\$\.rows\.generate\.accepted: -1 is less"),
        (lambda report: report["errors"].extend(report["errors"] * 10), r"\$\.errors: .* is too long"),
        (lambda report: report["models"].pop("teacher"), r"\$\.models: 'teacher' is a required property"),
    ],
)
def test_a_report_of_another_shape_is_refused_and_nothing_is_written(
    report: dict[str, Any], change: Any, where: str, tmp_path: Path
):
    change(report)

    with pytest.raises(UnderstudyError, match=where):
        write_report(report, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_long_rows_are_cut_on_the_page_and_whole_in_the_json(report: dict[str, Any], tmp_path: Path):
    long = "\N{SNOWMAN}" * 40_000
    report["errors"] = [row(number, "both wrong", input=long, student=long) for number in range(300)]

    write_report(report, tmp_path)

    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    assert "more characters)" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["errors"][0]["input"] == long


def test_hundreds_of_labels_stay_under_a_megabyte(report: dict[str, Any]):
    labels = [f"a_rather_long_label_{number}" for number in range(500)]
    counts = [[(i * j) % 7 for j in range(500)] for i in range(500)]
    report["confusion"] = {"test": "gold", "labels": labels, "counts": counts}

    assert len(render_page(report)) < 1_000_000


def test_text_that_is_no_unicode_does_not_stop_the_report(report: dict[str, Any], tmp_path: Path):
    report["errors"] = [row(1, "both wrong", input="half a pair: \ud83d")]

    write_report(report, tmp_path)

    assert "half a pair: ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("values", [[91.2, 92.0], [0, 100], [50], [100, 100], [0.01, 0.02], [-31.0, 2.0]])
def test_a_scale_shows_every_value_between_few_round_ticks(values: list[float]):
    scale = Scale.over(values, -100, 100)

    assert all(scale.low <= value <= scale.high for value in values)
    assert 2 <= len(scale.ticks) <= 7
    assert all(3 <= scale.at(tick) <= 97 for tick in scale.ticks)
    assert scale.at(-1000) == 3
    assert scale.at(1000) == 97


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the `test` extra")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """A tab of a real browser, with everything it complained about or asked for in `complaints`."""
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith("file:") or page.complaints.append(request.url))
    yield page
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_disk_without_complaint_and_does_not_scroll_sideways(
    report: dict[str, Any], tmp_path: Path, browser: Any, width: int, scheme: str
):
    report["errors"].append(row(99, "both wrong", input="w" * 900, student="an_endless_label" * 20))
    report["tests"]["a_test_with_a_rather_long_name"] = report["tests"]["gold"]
    for facts in report["models"].values():
        facts["score"]["a_test_with_a_rather_long_name"] = score(80)
    write_report(report, tmp_path)

    browser.set_viewport_size({"width": width, "height": 844})
    browser.emulate_media(color_scheme=scheme)
    browser.goto((tmp_path / "report.html").as_uri())

    assert browser.complaints == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_with_everything_on_it_the_page_stays_inside_its_width(
    report: dict[str, Any], tmp_path: Path, browser: Any, width: int, scheme: str
):
    write_report(crowded(report), tmp_path)

    browser.set_viewport_size({"width": width, "height": 844})
    browser.emulate_media(color_scheme=scheme)
    browser.goto((tmp_path / "report.html").as_uri())

    assert browser.complaints == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = """width => [...document.querySelectorAll("body *")]
        .filter((element) => !element.closest(".scroll") && element.getBoundingClientRect().right > width)
        .map((element) => element.outerHTML.slice(0, 100))"""
    assert browser.evaluate(outside, width) == []


@pytest.mark.browser
def test_no_picture_has_a_mark_outside_itself(report: dict[str, Any], tmp_path: Path, browser: Any):
    write_report(crowded(report), tmp_path)
    browser.goto((tmp_path / "report.html").as_uri())

    outside = """() => [...document.querySelectorAll("svg circle, svg rect, svg line")].filter((mark) => {
        const [a, b] = [mark.getBoundingClientRect(), mark.ownerSVGElement.getBoundingClientRect()];
        return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map((mark) => mark.outerHTML)"""
    assert browser.locator("svg circle").count() > 200
    assert browser.evaluate(outside) == []


@pytest.mark.browser
def test_a_large_report_is_small_and_is_read_at_once(
    report: dict[str, Any], tmp_path: Path, browser: Any, capsys: pytest.CaptureFixture[str]
):
    write_report(crowded(report), tmp_path)
    size = (tmp_path / "report.html").stat().st_size

    browser.goto((tmp_path / "report.html").as_uri())
    browser.wait_for_selector("#confusion-box .heat")
    milliseconds = browser.evaluate("""() => {
        const paint = performance.getEntriesByName("first-contentful-paint")[0];
        return [paint.startTime, performance.getEntriesByType("navigation")[0].loadEventEnd];
    }""")

    with capsys.disabled():
        print(f"\n{size:,} bytes; first paint {milliseconds[0]:.0f} ms, loaded {milliseconds[1]:.0f} ms after opening")
    assert size <= 3_000_000
    assert browser.locator("#explorer tbody tr").count() == 300


@pytest.mark.browser
def test_slices_are_filtered_by_words_and_by_column_and_shown_a_hundred_at_first(
    report: dict[str, Any], tmp_path: Path, browser: Any
):
    write_report(crowded(report), tmp_path)
    browser.goto((tmp_path / "report.html").as_uri())
    shown = "#parts tbody tr:not([hidden])"

    assert browser.locator(shown).count() == 100
    assert browser.inner_text("#part-count") == "100 of 178 slices"
    browser.select_option("#part-limit", "all")
    assert browser.locator(shown).count() == 178
    browser.select_option("#part-limit", "100")
    browser.select_option("#part-column", "label")
    assert browser.inner_text("#part-count") == "77 of 77 slices that match"
    browser.fill("#part-filter", "LABEL_0 recognised")
    assert browser.locator(shown).count() == 10
    browser.fill("#part-filter", "nowhere")
    assert browser.inner_text("#part-count") == "No slice matches."
    browser.fill("#part-filter", "9,900 other")
    browser.select_option("#part-column", "")
    assert browser.locator(shown).count() == 1


@pytest.mark.browser
def test_slices_are_sorted_worst_first_until_asked_otherwise(report: dict[str, Any], tmp_path: Path, browser: Any):
    write_report(crowded(report), tmp_path)
    browser.goto((tmp_path / "report.html").as_uri())
    points = browser.locator("#parts tbody tr:not([hidden]) td.laned")
    worst = [float(cell) for cell in points.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]

    assert worst == sorted(worst)
    browser.locator("#parts thead button", has_text="Rows").click()
    first = browser.locator("#parts tbody tr:not([hidden])").first
    assert first.locator("th").inner_text().startswith("(9,900 other values)")
    assert browser.locator("#parts tbody tr:not([hidden])").count() == 100, "the hundred are counted in the new order"
    browser.locator("#parts thead button", has_text="p, corrected").click()
    assert first.locator(".mark").inner_text() == "behind"


@pytest.mark.browser
def test_without_scripts_everything_but_the_matrix_is_there(report: dict[str, Any], tmp_path: Path, chromium: Any):
    write_report(crowded(report), tmp_path)
    tab = chromium.new_page(java_script_enabled=False)
    tab.goto((tmp_path / "report.html").as_uri())

    assert tab.locator("#parts tbody tr").count() == 178
    assert tab.locator("#parts tbody tr").nth(170).is_visible()
    assert tab.locator("#explorer tbody tr").nth(299).is_visible()
    assert tab.locator(".fitted").count() == 2
    tab.close()


@pytest.mark.browser
def test_rows_are_filtered_by_words_and_by_cell(report: dict[str, Any], tmp_path: Path, browser: Any):
    write_report(report, tmp_path)
    browser.goto((tmp_path / "report.html").as_uri())
    shown = "#explorer tbody tr:not([hidden])"

    assert browser.locator(shown).count() == 30
    browser.fill("#row-filter", "number 1")
    assert browser.locator(shown).count() == 12  # 1, 10 to 19 and 21
    browser.click('[data-cell="student only"]')
    assert browser.locator(shown).count() == 1
    assert browser.inner_text("#row-count") == "1 of 30 rows"
    browser.fill("#row-filter", "")
    assert browser.locator(shown).count() == 6
    browser.click('[data-cell="student only"]')
    assert browser.locator(shown).count() == 30
    browser.fill("#row-filter", "nowhere")
    assert browser.inner_text("#row-count") == "No row of this sample matches."


@pytest.mark.browser
def test_tables_are_sorted_by_value_with_unknown_ones_last(report: dict[str, Any], tmp_path: Path, browser: Any):
    write_report(report, tmp_path)
    browser.goto((tmp_path / "report.html").as_uri())
    button = browser.locator("#model-table thead button", has_text="Parameters")

    button.click()
    assert browser.locator("#model-table tbody th").all_inner_texts() == ["small", "linear", "teacher", "majority"]
    button.click()
    assert browser.locator("#model-table tbody th").all_inner_texts() == ["linear", "small", "teacher", "majority"]
    assert button.locator("..").get_attribute("aria-sort") == "descending"
    browser.locator("#explorer thead button", has_text="Confidence").click()
    browser.locator("#explorer thead button", has_text="Confidence").click()
    assert browser.locator("#explorer tbody code").first.inner_text() == "row29"


@pytest.mark.browser
def test_the_confusion_matrix_adds_up_is_filtered_and_leads_to_rows(
    report: dict[str, Any], tmp_path: Path, browser: Any
):
    write_report(report, tmp_path)
    browser.goto((tmp_path / "report.html").as_uri())

    assert browser.locator(".heat tbody tr").count() == 3
    browser.fill("#label-filter", "bill")
    assert browser.locator(".heat tbody tr").count() == 1
    assert browser.locator(".heat tbody td").all_inner_texts() == ["900", "40", "3"]
    browser.locator(".heat button", has_text="40").click()
    assert browser.input_value("#row-filter") == "billing delivery"
    assert browser.locator("#explorer tbody tr:not([hidden])").count() == 20
    browser.fill("#label-filter", "zzz")
    assert browser.inner_text("#confusion-box") == "No label matches."


@pytest.mark.browser
def test_scripts_in_rows_are_inert(report: dict[str, Any], tmp_path: Path, browser: Any):
    report["errors"] = [row(1, "both wrong", input=HOSTILE, teacher=HOSTILE, student=HOSTILE)]
    report["confusion"]["labels"][0] = HOSTILE
    report["notes"] = [HOSTILE]
    report["slices"] = [slice_of(HOSTILE, HOSTILE, 40, -9.0, 0.001)]
    report["models"][HOSTILE] = model("baseline", 50.0)
    report["against"][HOSTILE] = {"gold": paired(41.8)}
    report["calibration"][HOSTILE] = report["calibration"]["small"]
    report["capacity"]["reason"] = HOSTILE
    report["spend"]["by_stage"][HOSTILE] = {"requests": 1, "usd": 0.5}
    write_report(report, tmp_path)

    browser.goto((tmp_path / "report.html").as_uri())
    browser.fill("#row-filter", "script")
    browser.fill("#part-filter", "script")

    assert browser.title() == "support-triage: pass"
    assert browser.complaints == []
    for place in ("#explorer tbody tr", "#confusion-box", "#parts tbody th", ".decision", ".notes"):
        assert HOSTILE in browser.inner_text(place)
    assert browser.locator("#part-column option").nth(1).inner_text() == HOSTILE
    assert browser.locator("body").inner_text().count(HOSTILE) >= 15
    assert browser.locator("img").count() == 0
