"""report.json, report.html and card.md: the proof of a run, for programs, for people and for a hub.

The page is one file that opens from disk, offline, years later: no library, no network, nothing beside it. Everything
is laid out here and in the template, so that it reads and prints without scripts; the few lines of script sort, filter
and draw the confusion matrix. Weighed and rejected: plotly (4.8 MB a page), altair (0.9 MB, 12 s to save), uPlot with
Tabulator (0.6 MB of other people's code for two charts and a table). A page of 300 rows and 178 slices is 0.5 MB.

Rows come from strangers. The template escapes by default, data for the script is JSON without `<`, `>` and `&`, and the
page's content policy runs one script, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..data.errors import UnderstudyError
from . import charts, planes, words
from .card import model_card
from .words import first_line

__all__ = ["check_report", "first_line", "render_page", "report_files"]

_PAGE = Path(__file__).parent / "page"

_ROOM_FOR_ROWS = 500_000
"""Bytes that the rows may take on the page; longer texts are cut there, and whole in report.json."""

_SPELT = (
    *("points", "signed", "interval", "between", "chance", "whole", "compact", "rate", "size", "duration", "usd"),
    *("measure", "held_back", "taken", "worth", "experts", "payback"),
)
"""Functions of `words` that the template has as filters."""

_ROOM_FOR_CONFUSION = 5_000
"""Pairs of labels that the page can show; the most frequent ones are kept."""


def report_files(report: Mapping[str, Any]) -> dict[str, bytes]:
    """report.json, report.html and card.md, by name.

    Raises:
        UnderstudyError: the report is not what schema.json says.
    """
    check_report(report)
    files = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.html": render_page(report),
        "card.md": model_card(report),
    }
    return {name: content.encode(errors="replace") for name, content in files.items()}


def check_report(report: Mapping[str, Any]) -> None:
    """Hold a report against schema.json.

    Raises:
        UnderstudyError: naming the first place that differs.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = json.loads((_PAGE / "schema.json").read_text(encoding="utf-8"))
    fault = best_match(Draft202012Validator(schema).iter_errors(report))
    if fault is not None:
        raise UnderstudyError(f"report.json: {fault.json_path}: {fault.message}; expected what page/schema.json says")


def render_page(report: Mapping[str, Any]) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        **{name: getattr(words, name) for name in _SPELT},
        "breakable": lambda text: Markup(escape(text).replace("_", Markup("_<wbr>"))),
    }
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    named = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        report=report,
        verdict=report["verdict"],
        decision=report["verdict"]["decision"] if report["verdict"] else "none",
        first_line=first_line(report),
        confusion=_confusion(report["confusion"]),
        rows=_cut(report["errors"]),
        charts=charts,
        planes=planes,
        style=Markup((_PAGE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=named,
        embed=lambda value: Markup(_embedded(value)),
    )


def _embedded(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _confusion(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if confusion is None:
        return None
    counts = confusion["counts"]
    cells = [(i, j, n) for i, line in enumerate(counts) for j, n in enumerate(line) if n]
    kept = sorted(cells, key=lambda cell: -cell[2])[:_ROOM_FOR_CONFUSION]
    wrong = [cell for cell in kept if cell[0] != cell[1]]
    labels, totals = confusion["labels"], [sum(line) for line in counts]
    return {
        "test": confusion["test"],
        "data": {"labels": labels, "cells": kept, "totals": totals},
        "placed": sum(totals),
        "pairs": [
            {"reference": labels[i], "said": labels[j], "count": n, "share": n / totals[i]} for i, j, n in wrong[:12]
        ],
    }


def _cut(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with texts no longer than fits on the page."""
    cut = [dict(row) for row in rows]
    longest = 4000
    while longest > 100 and sum(_weight(row, longest) for row in cut) > _ROOM_FOR_ROWS:
        longest //= 2
    for row in cut:
        for field in ("input", "reference", "teacher", "student"):
            text = row[field]
            if text is not None and len(text) > longest:
                row[field] = f"{text[:longest]} \N{HORIZONTAL ELLIPSIS} ({len(text) - longest} more characters)"
    return cut


def _weight(row: Mapping[str, Any], longest: int) -> int:
    texts = (row[field] or "" for field in ("input", "reference", "teacher", "student"))
    return sum(len(text[:longest].encode("utf-8", "replace")) for text in texts)
