"""How a sheet to label by hand stands in a file: a CSV that survives being opened and saved by a spreadsheet.

Spreadsheets take cells for formulas, numbers, dates and truth values, run or rewrite them, and some save semicolons in
the place of commas. Marking every cell as text was weighed: CSV has no word for it, and an apostrophe before each
message would stand in everybody's way. So only a text that may be taken for something else gets one.
"""

from __future__ import annotations

import re
import unicodedata

COLUMNS = ("sheet_id", "input", "output")
"""Header of a sheet; a row without an output is still to come."""

LONGEST = 32_767
"""Characters that a spreadsheet's cell holds; what is longer would be cut."""

_OURS = "row-"
"""Begins every id: hex digits alone are a number now and then, such as 12345678901234e5."""

_GUARD = "'"
_FORMULA = ("=", "+", "-", "@")
_SHORT = 10
"""Characters of the longest truth value in some language, `VERDADEIRO`."""

_WORDS = 4
"""Words that no date has: `Monday 5 May 2025 10:30 PM` has three."""

_WORD = re.compile(r"[^\W\d_]+")


def name_on_sheet(row: str, root: str) -> str:
    """A row's id with its root, where that is another."""
    return _OURS + (row if root == row else f"{row}/{root}")


def row_and_root(name: str) -> tuple[str, str] | None:
    """What `name_on_sheet` was given; None for a row that somebody added by hand."""
    row, _, root = name.removeprefix(_OURS).partition("/")
    return (row, root or row) if name.startswith(_OURS) else None


def guarded(text: str) -> str:
    """A cell that a spreadsheet shows and saves as it is."""
    begins = unicodedata.normalize("NFKC", text.lstrip()[:1])  # a full-width sign begins a formula too
    outer = text[:1].isspace() or begins in (*_FORMULA, _GUARD)
    value = len(text) <= _SHORT or (any(map(str.isdigit, text)) and len(_WORD.findall(text)) < _WORDS)
    return _GUARD + text if outer or value else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text.removeprefix(_GUARD)


def delimiter_of(header: str) -> str:
    """What parts the cells of a sheet, from its first line."""
    return ";" if header.replace('"', "").startswith(f"{COLUMNS[0]};") else ","
