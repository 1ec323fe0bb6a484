"""The words of the report: its first line, the names of measures, and how figures are spelt.

The page, the model card and the terminal say them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from ..students.config import CONTROL

MINUS = "\N{MINUS SIGN}"

_DECISIONS = {
    "pass": ("PASS", "{student} may stand in for the teacher"),
    "fail": ("FAIL", "{student} may not stand in for the teacher"),
    "not_enough_data": ("NOT ENOUGH DATA", "whether {student} may stand in for the teacher is not settled"),
    "none": ("NOT JUDGED", "the recipe has no student"),
}

_MEASURES = {
    "macro_f1": "macro F1",
    "field_f1": "field F1",
    "rouge_l": "ROUGE-L",
    "exact": "exact match",
    "valid": "valid JSON",
    "judge": "the judge's preference",
}

_HELD_BACK = {
    "too_small": "The student is too small",
    "too_little_data": "The student has too little data",
    "at_the_ceiling": "The student is at the ceiling",
}


def first_line(report: Mapping[str, Any]) -> str:
    """The verdict in words; says so where nobody needs a student, and where there is no gold."""
    verdict = report["verdict"] or {"decision": "none", "reference": "gold", "student": ""}
    line = ": ".join(_DECISIONS[verdict["decision"]]).format(student=verdict["student"])
    if report["good_enough"]:
        line += instead(verdict["decision"], [part["name"] for part in report["good_enough"]])
    if verdict["reference"] == "teacher":
        line += " (no gold: measured against the teacher's own answers)"
    return line


def instead(decision: str, baselines: Sequence[str]) -> str:
    """That baselines may stand in for the teacher too, and cost less."""
    may = "; so may {}" if decision == "pass" else "; but {} may"
    cost = "costs" if len(baselines) == 1 else "cost"
    return f"{may.format(joined(baselines))}, which {cost} less: no student is needed"


def joined(names: Sequence[str]) -> str:
    """Names as in a sentence."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def measure(name: str) -> str:
    """A metric as people call it."""
    return _MEASURES.get(name, name)


def held_back(decision: str) -> str:
    """What holds the student back."""
    return _HELD_BACK[decision]


def taken(training: Mapping[str, Any]) -> str:
    """The steps of a training, and where it ended before its last epoch."""
    steps, planned, best = (training[name] for name in ("steps", "planned", "best"))
    early = f" of {whole(planned)}, without a better validation loss" if steps < planned else ""
    return f"{whole(steps)}{early}" + (f"; weights of step {whole(best)}" if best is not None else "")


def points(value: float) -> str:
    return f"{value:.1f}"


def signed(value: float, digits: int = 2) -> str:
    """With its sign; what rounds to nothing has a plus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS)


def interval(part: Mapping[str, float]) -> str:
    return f"{part['low']:.1f} to {part['high']:.1f}"


def between(part: Mapping[str, float], digits: int = 2) -> str:
    """The interval of a difference."""
    return f"{signed(part['low'], digits)} to {signed(part['high'], digits)}"


def chance(p: float, name: str = "p") -> str:
    """A p-value; below a thousandth only that it is. Without a name, for a column of them."""
    if p < 0.001:
        return f"{name} < 0.001".strip()
    digits = 3 if p < 0.1 else 2
    return f"{name} = {p:.{digits}f}" if name else f"{p:.{digits}f}"


def compact(count: float) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}" if count < 999.5 * unit else f"{count / unit:,.0f}{name}"
    return f"{count:g}"


def whole(count: float) -> str:
    return f"{count:,.0f}"


def rate(count: float) -> str:
    """Answers a second: whole ones, or as many digits as say something."""
    return f"{count:,.0f}" if count >= 20 else f"{count:.2g}"


def size(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:g} bytes"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def usd(dollars: float) -> str:
    """To the cent, or to two digits where it is less than ten of them."""
    digits = 2 if dollars >= 0.1 or dollars == 0 else 1 - floor(log10(dollars))
    return f"${dollars:,.{digits}f}"


def worth(coming: Mapping[str, Any]) -> str:
    """What more rows are expected to bring and to cost."""
    gain = coming["gain"]
    cost = "" if coming["usd"] is None else f" and to cost {usd(coming['usd'])}"
    said = f"{signed(gain['value'], 1)} points (90% interval {between(gain, 1)})"
    return f"{whole(coming['rows'])} more rows are expected to be worth {said}{cost}."


def experts(report: Mapping[str, Any]) -> list[str]:
    """What the experts of each student are worth, a sentence for each test; that they are worth nothing is said."""
    said = []
    for name, gaps in report["controls"].items():
        control = CONTROL.format(name)
        ours, dense = (compact(report["models"][one]["parameters"]) for one in (name, control))
        for test, gap in gaps.items():
            found = f"{signed(gap['value'], 1)} points (90% interval {between(gap, 1)})"
            if gap["low"] > 0:
                start, end = f"The experts of {name} are worth {found} on {test}", "that is worth their room"
            elif gap["high"] < 0:
                start, end = f"The experts of {name} do harm: {found} on {test}", f"take {control}"
            else:
                start, end = f"The experts of {name} are worth nothing that {test} can show: {found}", f"take {control}"
            said.append(f"{start}, beside the dense {control} ({ours} parameters beside {dense}); {end}.")
    return said


def payback(report: Mapping[str, Any]) -> str:
    """When the student has saved what its teacher was paid."""
    student = report["verdict"]["student"]
    theirs, ours = (report["models"][name]["usd_per_1000"] for name in ("teacher", student))
    if report["payback_requests"] is not None:
        requests = whole(report["payback_requests"])
        return f"{student} pays for itself after {requests} requests: by then it has saved what its teacher was paid."
    if theirs is not None and ours is not None and ours >= theirs:
        return f"{student} costs no less than the teacher, so it never pays for itself."
    return (
        "When the student pays for itself is not known: that takes a price for the teacher, and "
        "evaluate.usd_per_hour for the machine that the student runs on."
    )
