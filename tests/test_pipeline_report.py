from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from understudy.data.errors import UnderstudyError
from understudy.pipeline.report import Scale, check_report, first_line, render_page, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


def score(value: float) -> dict[str, Any]:
    return {"metric": "accuracy", "value": value, "low": value - 1, "high": value + 0.9}


def model(kind: str, value: float, **facts: Any) -> dict[str, Any]:
    empty = {"parameters": None, "bytes": None, "latency_ms": None, "per_second": None, "usd_per_1000": None}
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
                latency_ms={"p50": 4.1, "p95": 6.8},
                seeds=[{"seed": seed, "validation": 90.0 + seed, "score": {"gold": 91.0 + seed}} for seed in (0, 1)],
            ),
            "linear": model("baseline", 87.9, parameters=2_414_720, bytes=9_999_263),
            "majority": model("baseline", 1.3),
        },
        "difference": {"gold": {"value": -0.3, "low": -1.2, "high": 0.5, "method": "Tango", "p": 0.61}},
        "against": {"linear": {"gold": {"value": 3.9, "low": 3.1, "high": 4.8, "method": "Tango", "p": 0.0001}}},
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
            "fit": {"floor": 6.0, "scale": 900.0, "rate": 0.65},
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
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_report_is_written_for_programs_and_for_people(report: dict[str, Any], tmp_path: Path):
    write_report(report, tmp_path / "new")

    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]
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


def test_what_strangers_wrote_stays_text(report: dict[str, Any]):
    report["name"] = HOSTILE
    report["models"]["teacher"]["score"][HOSTILE] = score(50)
    report["tests"][HOSTILE] = {"rows": 3, "roots": 3, "source": HOSTILE, "gold": False}
    report["confusion"]["labels"][0] = HOSTILE
    report["notes"] = [HOSTILE]
    report["models"]["small"]["seeds"][0]["score"][HOSTILE] = 50
    report["errors"] = [row(1, "both wrong", id=HOSTILE, input=HOSTILE, teacher=HOSTILE, student=HOSTILE)]
    report["rows"]["generate"]["rejected"] = {HOSTILE: 500}

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
    report |= {"curve": None, "capacity": None, "mistakes": None, "payback_requests": None}
    report["spend"]["usd"] = None
    del report["cells"], report["models"]["small"]["seeds"]
    report["models"]["small"] |= {"parameters": None, "bytes": None, "latency_ms": None}

    write_report(report, tmp_path)

    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "no price given" in page.text
    assert {attributes.get("id") for attributes in page.all("h2")} == {"scores", "models", "cost", "provenance"}


def test_a_run_without_students_is_reported_as_not_judged(report: dict[str, Any], tmp_path: Path):
    report |= {"verdict": None, "difference": {}, "against": {}, "retention": {}, "agreement": {}}
    report |= {"gap_closed": {}, "ceiling": {}, "slices": [], "calibration": {}, "curve": None, "capacity": None}
    report |= {"confusion": None, "errors": []}
    del report["models"]["small"]

    write_report(report, tmp_path)

    assert first_line(report) == "NOT JUDGED: the recipe has no student"


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
    write_report(report, tmp_path)

    browser.goto((tmp_path / "report.html").as_uri())
    browser.fill("#row-filter", "script")

    assert browser.title() == "support-triage: pass"
    assert browser.complaints == []
    assert HOSTILE in browser.inner_text("#explorer tbody tr")
    assert HOSTILE in browser.inner_text("#confusion-box")
