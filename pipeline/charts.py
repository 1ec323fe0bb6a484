"""Where things stand in the report's pictures of scores, differences, counts and money.

x is in percent of a picture's width, so that one layout is good on a phone and on a desk and text keeps its size; y is
in pixels. Everything is worked out here and drawn by the template, so that a page needs no script to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from .words import between, duration, interval, measure, points, rate, signed, usd, whole

_ROOM_FOR_SLICES = 1_000
"""Slices that the page lists, worst first; report.json has them all."""

SURE = 0.05
"""Corrected p-value under which a slice is marked."""

Report = Mapping[str, Any]


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
        return round(3 + 94 * self._share(value), 2)

    def end(self, value: float) -> float:
        """The same for the end of a whisker, which leaves the picture where it goes on."""
        return 0 if value < self.low else 100 if value > self.high else self.at(value)

    def down(self, value: float, height: float) -> float:
        """Pixels from the top of a picture in which this is the upright scale."""
        return round(height * (1 - self._share(value)), 2)

    def _share(self, value: float) -> float:
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


def _whisker(name: str, kind: str, part: Mapping[str, Any], shown: str, ends: str, off: bool = False) -> dict[str, Any]:
    """One lane of a chart of intervals."""
    ends_at = {end: part[end] for end in ("value", "low", "high")}
    return {"name": name, "kind": kind, "shown": shown, "range": ends, "off": off, **ends_at}


def _ends(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    return [end for row in rows for end in (row["low"], row["high"])]


def scores(report: Report) -> list[dict[str, Any]]:
    """Scores of all models, a chart for each test that has rows."""
    return [_scores_on(report, test) for test in report["tests"] if _scored(report, test)]


def _scored(report: Report, test: str) -> dict[str, Mapping[str, Any]]:
    return {name: model for name, model in report["models"].items() if test in model["score"]}


def _scores_on(report: Report, test: str) -> dict[str, Any]:
    """All models on one test; a baseline far below the others is named at the edge, not drawn to scale."""
    models = _scored(report, test)
    found = {name: model["score"][test] for name, model in models.items()}
    judged = report["verdict"]["student"] if report["verdict"] else None
    kinds = {name: model["kind"] + (" judged" if name == judged else "") for name, model in models.items()}
    scale = _scale_of(kinds, found, report["margin"])
    rows = [
        _whisker(name, kinds[name], score, points(score["value"]), interval(score), score["value"] < scale.low)
        for name, score in found.items()
    ]
    return {
        "test": test,
        "scale": scale,
        "rows": sorted(rows, key=lambda row: -row["value"]),
        "teacher": found.get("teacher"),
        "metric": measure(next(iter(found.values()))["metric"]),
    }


def _scale_of(kinds: Mapping[str, str], found: Mapping[str, Mapping[str, Any]], margin: float) -> Scale:
    """A scale for teacher, students and margin, and for the baselines that are not far below them."""
    main = [score for name, score in found.items() if kinds[name] != "baseline"] or list(found.values())
    shown = _ends(main)
    if "teacher" in found:
        shown.append(max(found["teacher"]["value"] - margin, 0))
    width = max(shown) - min(shown)
    shown += [score["low"] for score in found.values() if score["low"] > min(shown) - 2 * width]
    return Scale.over(shown, 0, 100)


def gaps(report: Report) -> dict[str, Any] | None:
    """Student minus teacher, the interval that decides, for every test."""
    rows = [
        {**_whisker(test, "student judged", gap, signed(gap["value"]), between(gap)), "method": gap["method"]}
        for test, gap in report["difference"].items()
    ]
    if not rows or not report["verdict"]:
        return None
    margin = report["margin"]
    return {"rows": rows, "scale": Scale.over([*_ends(rows), -1.4 * margin, 0.4 * margin], -100, 100)}


def against(report: Report) -> list[dict[str, Any]]:
    """Student minus every baseline, on each test the strongest first; those far behind leave the scale."""
    charts = []
    for test in report["tests"]:
        gaps = [{"baseline": name, **found[test]} for name, found in report["against"].items() if test in found]
        if gaps:
            gaps.sort(key=lambda gap: gap["value"])
            nearest = min(abs(gap["value"]) + gap["high"] - gap["low"] for gap in gaps)
            near = [gap for gap in gaps if abs(gap["value"]) <= 4 * nearest]
            charts.append({"test": test, "rows": gaps, "scale": Scale.over([*_ends(near), 0], -100, 100)})
    return charts


def agreement(report: Report) -> list[dict[str, Any]]:
    """On every test: how often the student says what the teacher said, and how often the teacher itself does."""
    charts = []
    for test, part in report["agreement"].items() if report["verdict"] else ():
        rows = [_whisker(report["verdict"]["student"], "student judged", part, points(part["value"]), interval(part))]
        ceiling = report["ceiling"].get(test)
        if ceiling:
            said = points(ceiling["value"]), interval(ceiling)
            rows.append(_whisker("teacher, asked again", "teacher", ceiling, *said))
        scale = Scale.over(_ends(rows), 0, 100)
        charts.append({"test": test, "rows": rows, "scale": scale, "ceiling": ceiling, "part": part})
    return charts


def mistakes(report: Report) -> dict[str, Any] | None:
    """The student's wrong answers as one bar: taken over from the teacher, wrong in its own way, or new."""
    counts: Mapping[str, int] = (report["verdict"] and report["mistakes"]) or {}
    total = sum(counts.values())
    if not total:
        return None
    meaning = {
        "copied": "the teacher gives the same wrong answer",
        "differ": "both are wrong, each in its own way",
        "new": "the teacher is right",
    }
    return {"total": total, "parts": _stacked({kind: counts[kind] for kind in meaning}, total, meaning)}


def _stacked(counts: Mapping[str, int], most: float, meaning: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Counts side by side, `most` filling the width."""
    parts, start = [], 0.0
    for part, count in counts.items():
        width = round(100 * count / most, 3)
        said = meaning[part] if meaning else ""
        parts.append({"part": part, "count": count, "start": round(start, 3), "width": width, "meaning": said})
        start += width
    return parts


def slices(report: Report) -> dict[str, Any] | None:
    """The parts of the verdict's test on one scale, which the widest intervals may leave."""
    parts = report["slices"][:_ROOM_FOR_SLICES]
    if not parts or not report["verdict"]:
        return None
    gaps = [part["difference"] for part in parts]
    lows, highs = sorted(gap["low"] for gap in gaps), sorted(gap["high"] for gap in gaps)
    tenth = len(gaps) // 10
    shown = [*(gap["value"] for gap in gaps), lows[tenth], highs[-1 - tenth], 0, -1.2 * report["margin"]]
    rows = [{**part, "mark": _mark(part)} for part in parts]
    return {
        "rows": rows,
        "scale": Scale.over(shown, -100, 100),
        "columns": list(dict.fromkeys(part["column"] for part in parts)),
        "behind": [row for row in rows if row["mark"] == "behind"],
        "ahead": [row for row in rows if row["mark"] == "ahead"],
        "left_out": len(report["slices"]) - len(parts),
    }


def _mark(part: Mapping[str, Any]) -> str:
    """Where the difference is more than chance, after the correction for the number of slices."""
    if part["p_holm"] >= SURE:
        return ""
    return "behind" if part["difference"]["value"] < 0 else "ahead"


def judge(report: Report) -> dict[str, Any] | None:
    """What the judge prefers whatever the answers say, around one half."""
    if not report["judge"]:
        return None
    names = {"first_preferred": "the answer read first", "longer_preferred": "the longer answer"}
    parts = [(name, report["judge"][key]) for key, name in names.items()]
    rows = [_whisker(name, "teacher", part, f"{points(part['value'])}%", interval(part)) for name, part in parts]
    return {"rows": rows, "scale": Scale.over([*_ends(rows), 40, 60], 0, 100)}


def flow(report: Report) -> list[dict[str, Any]]:
    """Rows through each stage, with the sum that must equal what was requested."""
    stages = report["rows"]
    most = max((stage["requested"] for stage in stages.values()), default=0) or 1
    found = []
    for name, stage in stages.items():
        parts = {
            "accepted": stage["accepted"],
            "rejected": sum(stage["rejected"].values()),
            "failed": sum(stage["failed"].values()),
            "pending": stage["pending"],
        }
        bars = _stacked(parts, most)
        found.append({"name": name, **stage, "parts": parts, "bars": bars, "total": sum(parts.values())})
    return found


def probe(report: Report) -> list[dict[str, Any]]:
    """The three numbers that a decision about the student's size rests on, each from 0 to 100."""
    found = report["capacity"]
    values = {
        f"fits {whole(found['rows'])} rows it was trained on alone": found["fitted"],
        "answers rows it has not seen as the teacher did": found["validation"],
        "the teacher answers as it did before": found["ceiling"],
    }
    return [
        {"name": name, "width": round(value, 2), "said": f"{points(value)}%"}
        for name, value in values.items()
        if value is not None
    ]


def costs(report: Report) -> list[dict[str, Any]]:
    """What the run took by stage, and what answers take by model."""
    stages, models = report["spend"]["by_stage"], report["models"]
    paid = {name: part["usd"] or 0.0 for name, part in stages.items()}
    asked = {name: part["requests"] for name, part in stages.items()}
    said = {
        name: f"{whole(part['requests'])} requests" + ("" if part["usd"] is None else f", {usd(part['usd'])}")
        for name, part in stages.items()
    }
    seconds, fees, speeds = report["seconds"], _known(models, "usd_per_1000"), _known(models, "per_second")
    return [
        {"title": "Spend by stage", "kind": "money", "bars": _bars(paid if any(paid.values()) else asked, said)},
        {"title": "Time by stage", "kind": "time", "bars": _bars(seconds, _said(seconds, duration))},
        {"title": "Dollars per 1,000 answers", "kind": "money", "bars": _bars(fees, _said(fees, usd))},
        {"title": "Answers a second", "kind": "time", "bars": _bars(speeds, _said(speeds, rate))},
    ]


def _bars(values: Mapping[str, float], said: Mapping[str, str]) -> list[dict[str, Any]]:
    """A bar for each value, the longest as wide as the picture."""
    most = max(values.values(), default=0) or 1
    return [{"name": name, "width": round(100 * value / most, 2), "said": said[name]} for name, value in values.items()]


def _said(values: Mapping[str, float], spelt: Callable[[float], str]) -> dict[str, str]:
    return {name: spelt(value) for name, value in values.items()}


def _known(models: Mapping[str, Mapping[str, Any]], fact: str) -> dict[str, float]:
    """A fact of the teacher and the students that have it; a baseline's speed would dwarf theirs."""
    found = {name: model[fact] for name, model in models.items() if model["kind"] != "baseline"}
    return {name: value for name, value in found.items() if value is not None}


def further(report: Report) -> list[str]:
    """Measures beside the score that some model has, in their order."""
    tests = (test for model in report["models"].values() for test in model["further"].values())
    return list(dict.fromkeys(name for test in tests for name in test))


def spread(seeds: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Lowest and highest score over the seeds, for every test."""
    found: dict[str, list[float]] = {}
    for trained in seeds:
        for test, value in trained["score"].items():
            found.setdefault(test, []).append(value)
    return [(test, min(values), max(values)) for test, values in found.items()]
