"""What stands in a cell comes back as it was, and is never what a spreadsheet would run or rewrite."""

from __future__ import annotations

import random

import pytest

from understudy.data.sheet import delimiter_of, guarded, name_on_sheet, row_and_root, unguarded

FORMULAS = [
    '=HYPERLINK("http://a.example","look here and there")',
    "+49 30 123 is the number that nobody answers",
    "-5 degrees in the parcel when it came",
    "@home is where the parcel should have been",
    " =1+1 with a space before it and words",
    "\t=1+1 with a tab before it and words",
    "\n=1+1 below an empty line and more words",
    "\uff1dSUM(1;2) in full width and then some words",
]
VALUES = ["00123", "1-2", "3.50", "1e5", "5%", "$5", "Mar 5", "SEPT2", "10:30 AM", "5 May 2024", "5 de mayo de 2024"]
VALUES += ["Monday 5 May 2025 10:30:00 PM", "12345678901234567890", "TRUE", "false", "VERDADEIRO", "1,234,567.89 EUR"]
MESSAGES = [
    "where is my parcel, it was due on 5 May 2024?",
    "thank you so much",
    "Gr\u00f6\u00dfe \N{SNOWMAN} passt nicht",
    "two\nlines",
    'he said "no", twice',
]


@pytest.mark.parametrize("text", [*FORMULAS, *VALUES, "'quoted' by somebody who likes that", "''", "'"])
def test_what_a_spreadsheet_would_run_or_rewrite_is_text_to_it(text):
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize("text", MESSAGES[:3])
def test_a_message_is_shown_as_it_is(text):
    assert guarded(text) == text


def test_whatever_stands_in_a_cell_comes_back():
    draw = random.Random(0)
    signs = "=+-@'\"\t\r\n ,;a\u00e4\u4e2d5\uff1d\ufeff"
    drawn = ["".join(draw.choices(signs, k=draw.randrange(1, 30))) for _ in range(5000)]
    assert all(unguarded(guarded(text)) == text for text in [*FORMULAS, *VALUES, *MESSAGES, *drawn])


def test_a_name_holds_row_and_root_and_is_no_number():
    assert row_and_root(name_on_sheet("12345678901234e5", "12345678901234e5")) == ("12345678901234e5",) * 2
    assert row_and_root(name_on_sheet("a1", "b2")) == ("a1", "b2")
    assert name_on_sheet("12345678901234e5", "x")[0].isalpha()
    assert row_and_root("") is row_and_root("7") is None, "a row that somebody added by hand"


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("sheet_id,input,output", ","),
        ("sheet_id;input;output", ";"),
        ('"sheet_id";"input";"output"', ";"),
        ("input;text,output", ","),
    ],
)
def test_a_sheet_that_was_saved_with_semicolons_is_known_by_its_header(header, delimiter):
    assert delimiter_of(header) == delimiter
