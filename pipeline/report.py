"""report.json and report.html: the proof of a run, for programs and for people.

The page is one file that opens from disk, offline, years later: no library, no network, nothing beside it. Everything
is laid out here and in the template, so that it reads and prints without scripts; the few lines of script sort, filter
and draw the confusion matrix. Weighed and rejected: plotly (4.8 MB a page), altair (0.9 MB, 12 s to save), uPlot with
Tabulator (0.6 MB of other people's code for two charts and a table). A page of 300 rows of 77 labels is about 0.2 MB.

Rows come from strangers. The template escapes by default, data for the script is JSON without `<`, `>` and `&`, and the
page's content policy runs one script, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from ..data.errors import UnderstudyError

_PAGE = Path(__file__).parent / "page"

_ROOM_FOR_ROWS = 500_000
"""Bytes that the rows may take on the page; longer texts are cut there, and whole in report.json."""

_ROOM_FOR_CONFUSION = 5_000
"""Pairs of labels that the page can show; the most frequent ones are kept."""

_WORDS = {
    "pass": ("PASS", "{student} may stand in for the teacher"),
    "fail": ("FAIL", "{student} may not stand in for the teacher"),
    "not_enough_data": ("NOT ENOUGH DATA", "whether {student} may stand in for the teacher is not settled"),
    "none": ("NOT JUDGED", "the recipe has no student"),
}


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write report.json and report.html into a folder.

    Raises:
        UnderstudyError: the report is not what schema.json says.
    """
    check_report(report)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    page = render_page(report)
    for name, content in (("report.json", text + "\n"), ("report.html", page)):
        unfinished = folder / f".{name}"
        unfinished.write_text(content, encoding="utf-8", errors="replace")
        unfinished.replace(folder / name)


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


def first_line(report: Mapping[str, Any]) -> str:
    """The verdict in words; says so where there is no gold."""
    verdict = report["verdict"] or {"decision": "none", "reference": "gold", "student": ""}
    line = ": ".join(_WORDS[verdict["decision"]]).format(student=verdict["student"])
    if verdict["reference"] == "teacher":
        line += " (no gold: measured against the teacher's own answers)"
    return line


def render_page(report: Mapping[str, Any]) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "points": lambda value: f"{value:.1f}",
        "signed": lambda value: f"{value:+.2f}".replace("-", "\N{MINUS SIGN}"),
        "compact": _compact,
        "size": _size,
        "duration": _duration,
        "usd": _usd,
        "breakable": lambda text: Markup(escape(text).replace("_", Markup("_<wbr>"))),
    }
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    named = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        report=report,
        decision=report["verdict"]["decision"] if report["verdict"] else "none",
        first_line=first_line(report),
        charts=[_chart(report, test) for test in report["tests"] if _scored(report, test)],
        gaps=_gaps(report),
        confusion=_confusion(report["confusion"]),
        rows=_cut(report["errors"]),
        flow=_flow(report["rows"]),
        spread=_spread,
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


@dataclass(frozen=True)
class Scale:
    """Values to percent of a chart's width."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float], floor_at: float, ceiling: float) -> Scale:
        """A scale that shows all values, with at most seven round ticks."""
        values = list(values)
        low, high = min(values), max(values)
        room = max(0.06 * (high - low), 0.2)
        low, high = max(low - room, floor_at), min(high + room, ceiling)
        rough = (high - low) / 6
        power = 10.0 ** floor(log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        count = floor(high / step + 1e-9) - ceil(low / step - 1e-9) + 1
        ticks = tuple(round((ceil(low / step - 1e-9) + i) * step, 6) + 0.0 for i in range(count))
        return cls(low, high, ticks)

    def at(self, value: float) -> float:
        """Percent from the left; values outside stand at the edge."""
        inside = min(max(value, self.low), self.high)
        return round(3 + 94 * (inside - self.low) / (self.high - self.low), 2)


def _scored(report: Mapping[str, Any], test: str) -> dict[str, Mapping[str, Any]]:
    return {name: model for name, model in report["models"].items() if test in model["score"]}


def _chart(report: Mapping[str, Any], test: str) -> dict[str, Any]:
    """Scores of all models on one test; a baseline far below the others is named at the edge, not drawn to scale."""
    models = _scored(report, test)
    scores = {name: model["score"][test] for name, model in models.items()}
    main = [scores[name] for name, model in models.items() if model["kind"] != "baseline"] or list(scores.values())
    teacher = scores.get("teacher")
    shown = [end for score in main for end in (score["low"], score["high"])]
    if teacher:
        shown.append(max(teacher["value"] - report["margin"], 0))
    width = max(shown) - min(shown)
    shown += [score["low"] for score in scores.values() if score["low"] > min(shown) - 2 * width]
    scale = Scale.over(shown, 0, 100)
    rows = [
        {"name": name, "kind": models[name]["kind"], "off": score["value"] < scale.low, **score}
        for name, score in scores.items()
    ]
    return {
        "test": test,
        "scale": scale,
        "rows": sorted(rows, key=lambda row: -row["value"]),
        "teacher": teacher,
        "metric": next(iter(scores.values()))["metric"],
    }


def _gaps(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Student minus teacher, the interval that decides, for every test."""
    rows = [{"name": test, **gap} for test, gap in report["difference"].items()]
    if not rows:
        return None
    ends = [end for row in rows for end in (row["low"], row["high"])]
    scale = Scale.over([*ends, -1.4 * report["margin"], 0.4 * report["margin"]], -100, 100)
    return {"rows": rows, "scale": scale}


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


def _flow(stages: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows through each stage, with the sum that must equal what was requested."""
    most = max((stage["requested"] for stage in stages.values()), default=0) or 1
    flow = []
    for name, stage in stages.items():
        parts = {
            "accepted": stage["accepted"],
            "rejected": sum(stage["rejected"].values()),
            "failed": sum(stage["failed"].values()),
            "pending": stage["pending"],
        }
        bars, start = [], 0.0
        for part, count in parts.items():
            width = round(100 * count / most, 3)
            bars.append({"part": part, "count": count, "start": round(start, 3), "width": width})
            start += width
        flow.append({"name": name, **stage, "parts": parts, "bars": bars, "total": sum(parts.values())})
    return flow


def _spread(seeds: Iterable[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Lowest and highest score over the seeds, for every test."""
    scores: dict[str, list[float]] = {}
    for trained in seeds:
        for test, value in trained["score"].items():
            scores.setdefault(test, []).append(value)
    return [(test, min(values), max(values)) for test, values in scores.items()]


def _compact(count: float) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}" if count < 999.5 * unit else f"{count / unit:,.0f}{name}"
    return f"{count:g}"


def _size(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:g} bytes"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _usd(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.2g}"
