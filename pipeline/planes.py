"""Where things stand in the report's pictures with two axes: learning curve, losses and reliability diagram.

x is in percent of the width and y in pixels, as in `charts`; a curve is one path on a plane of 100 by the height, which
the template stretches.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2, sqrt
from typing import Any

from .charts import Report, Scale
from .words import compact, points, whole

CURVE_HEIGHT = 240
"""Pixels."""

RELIABILITY_HEIGHT = 240

LOSS_HEIGHT = 28

_LEAST_LOSS = 1e-4
"""Nats; below it a loss is drawn as this."""

_STEPS = 48
"""Straight pieces of a fitted curve."""

_CLOSE = 13
"""Percent of the width that a label under the learning curve takes on a phone."""


def curve(report: Report) -> dict[str, Any] | None:
    """Scores over rows, on a scale where every doubling is as wide, up to the next doubling."""
    known = report["curve"]
    if not known:
        return None
    seen, coming = known["points"], known["next"]
    first, last = seen[0]["rows"], seen[-1]["rows"]
    end = last + (coming["rows"] if coming else last)
    ahead = _ahead(known, end)
    teacher = report["models"]["teacher"]["score"].get(known["test"])
    x = Scale(log2(first), log2(end), ())
    y = _upright([*seen, *ahead], teacher, report["margin"])
    return {
        "height": CURVE_HEIGHT,
        "scale": y,
        "dots": [_dot(part, x, y) for part in seen],
        "ahead": [_dot(part, x, y) for part in ahead],
        "line": _path(known["fit"], first, last, x, y),
        "dashed": _path(known["fit"], last, end, x, y),
        "rows": _labels([*(part["rows"] for part in seen), end], x),
        "teacher": teacher,
        "end": end,
        "last": last,
    }


def _ahead(known: Mapping[str, Any], end: int) -> list[dict[str, float]]:
    """The score expected at the next doubling, with the interval of what it gains."""
    if not known["next"]:
        return []
    gain = known["next"]["gain"]
    value = _fitted(known["fit"], end) if known["fit"] else known["points"][-1]["value"] + gain["value"]
    ends = {name: min(max(value + gain[name] - gain["value"], 0), 100) for name in ("value", "low", "high")}
    return [{"rows": end, **ends}]


def _fitted(fit: Mapping[str, float], rows: float) -> float:
    error: float = fit["floor"] + fit["scale"] * rows ** -fit["rate"]
    return min(max(100 - error, 0.0), 100.0)


def _upright(parts: list[Mapping[str, Any]], teacher: Mapping[str, Any] | None, margin: float) -> Scale:
    """All intervals, and the teacher where it is not so far above them that it would flatten the curve."""
    ends = [end for part in parts for end in (part["low"], part["high"])]
    if teacher and teacher["value"] - max(ends) < 2 * (max(ends) - min(ends)):
        ends += [teacher["value"], max(teacher["value"] - margin, 0)]
    return Scale.over(ends, 0, 100)


def _dot(part: Mapping[str, float], x: Scale, y: Scale) -> dict[str, Any]:
    ends = {name: y.down(part[name], CURVE_HEIGHT) for name in ("value", "low", "high")}
    return {"x": x.at(log2(part["rows"])), **ends, "rows": part["rows"], "said": points(part["value"])}


def _path(fit: Mapping[str, float] | None, first: int, last: int, x: Scale, y: Scale) -> str:
    """The fitted curve as path data."""
    if not fit:
        return ""
    steps = [first * (last / first) ** (step / _STEPS) for step in range(_STEPS + 1)]
    found = [f"{x.at(log2(rows))} {y.down(_fitted(fit, rows), CURVE_HEIGHT)}" for rows in steps]
    return "M" + "L".join(found)


def _labels(rows: list[int], x: Scale) -> list[tuple[float, str]]:
    """Counts of rows under the curve, the largest first, as far as they have room."""
    placed: list[tuple[float, str]] = []
    for count in reversed(rows):
        at = x.at(log2(count))
        if not placed or placed[-1][0] - at >= _CLOSE:
            placed.append((at, compact(count)))
    return placed[::-1]


def losses(training: Mapping[str, Any]) -> dict[str, Any]:
    """The loss of a training over its steps, and that on the validation side; every halving is as high."""
    lines: dict[str, list[tuple[int, float]]] = {"loss": [], "validation": []}
    for record in training["records"]:
        for name, line in lines.items():
            if record[name] is not None:
                line.append((record["step"], log2(max(record[name], _LEAST_LOSS))))
    drawn = [line for line in lines.values() if len(line) > 1]
    ends = [value for line in drawn for _, value in line]
    x, y = Scale(0, max(training["steps"], 1), ()), Scale(min(ends, default=0), max(ends, default=0) + 1e-9, ())
    paths = {
        name: "M" + "L".join(f"{x.at(step)} {y.down(value, LOSS_HEIGHT)}" for step, value in line)
        for name, line in lines.items()
        if len(line) > 1
    }
    return {"height": LOSS_HEIGHT, **{name: paths.get(name) for name in lines}}


def reliability(report: Report) -> list[dict[str, Any]]:
    """How often each model is right where it is so sure, bin by bin; the diagonal is a model that knows itself."""
    return [_reliability(name, part) for name, part in report["calibration"].items()]


def _reliability(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    bins = part["bins"]
    ends = [end for each in bins for end in (each["confidence"], each["right"])]
    scale = Scale.over(ends or [0, 100], 0, 100)
    most = max((each["rows"] for each in bins), default=1)
    dots = [
        {
            "x": scale.at(each["confidence"]),
            "y": scale.down(each["right"], RELIABILITY_HEIGHT),
            "diagonal": scale.down(each["confidence"], RELIABILITY_HEIGHT),
            "radius": round(2.5 + 3.5 * sqrt(each["rows"] / most), 1),
            "side": "over" if each["confidence"] > each["right"] else "under",
            **each,
        }
        for each in bins
    ]
    fewest = min((each["rows"] for each in bins), default=1)
    sizes = whole(most) if fewest == most else f"{whole(fewest)} to {whole(most)}"
    return {"name": name, "height": RELIABILITY_HEIGHT, "scale": scale, "dots": dots, "sizes": sizes, **part}
