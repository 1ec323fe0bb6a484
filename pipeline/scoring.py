"""From the table of answers to the figures of the report: scores, differences, verdict, slices, errors, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..students.config import CONTROL
from .calibration import calibration
from .confusion import confusion, macro_f1
from .parse import same
from .recipe import JobRecipe
from .slices import slices
from .statistics import Interval, chance, ratio, score_interval, share
from .table import FEW_SHOT, ModelFacts, TestRows
from .verdict import FEWEST_ROOTS, Verdict, judge, score_difference

_SHOWN = {"teacher only": 150, "both wrong": 50, "student only": 50, "both right": 50}
"""Rows kept for the report's explorer, by who is right."""

_RIGHT = 0.5
"""A graded score from which an answer is called right, where rows are sorted into four cells."""


def score_tests(recipe: JobRecipe, tests: Sequence[TestRows], models: Mapping[str, ModelFacts]) -> dict[str, Any]:
    """Everything in the report that comes from the table of answers alone."""
    student, judged = recipe.judged_student, tests[0]
    summary: dict[str, Any] = {
        "margin": recipe.evaluate.margin,
        "tests": {test.name: _test_facts(test) for test in tests},
        "models": {name: _model(recipe, name, facts, tests) for name, facts in models.items()},
        **{
            name: {}
            for name in ("difference", "against", "controls", "retention", "gap_closed", "agreement", "ceiling")
        },
        "verdict": None,
        "good_enough": [],
        "slices": [],
        "calibration": {},
        "curve": None,
        "capacity": None,
        "confusion": None,
        "mistakes": None,
        "cells": {},
        "errors": [],
    }
    if student is None or student not in judged.answers:
        return summary
    for test in tests:
        if test.rows:
            _compare(summary, recipe, test, student, models)
            _hold_against_controls(summary, recipe, test)
    verdict = _verdict(recipe, judged, student)
    summary["verdict"] = {
        "decision": verdict.decision,
        "reason": verdict.reason + _too_few(verdict, judged),
        "test": judged.name,
        "reference": "gold" if judged.gold else "teacher",
        "student": student,
    }
    cells = _cells(judged, student)
    summary |= {
        "good_enough": _good_enough(recipe, judged, models, student),
        "slices": slices(judged, student, list(recipe.labels), graded=recipe.graded) if judged.rows else [],
        "calibration": {
            name: found for name in ("teacher", student) if judged.rows and (found := calibration(judged, name))
        },
        "confusion": confusion(judged, student, list(recipe.labels)),
        "mistakes": _mistakes(recipe, judged, student) if judged.gold else None,
        "cells": dict(Counter(cells)),
        "errors": _errors(judged, student, cells),
    }
    return summary


def _compare(
    summary: dict[str, Any], recipe: JobRecipe, test: TestRows, student: str, models: Mapping[str, ModelFacts]
) -> None:
    """Student against teacher and against every baseline, on the rows of one test."""
    graded = recipe.graded
    summary["difference"][test.name] = _paired(test, student, "teacher", graded)
    for name, facts in models.items():
        if facts.kind == "baseline":
            summary["against"].setdefault(name, {})[test.name] = _paired(test, student, name, graded)
    ours, theirs = test.scores(student), test.scores("teacher")
    if kept := ratio(ours, theirs, test.roots):
        summary["retention"][test.name] = _interval(kept)
    if "untrained" in test.answers:
        before = test.scores("untrained")
        if closed := ratio(ours - before, theirs - before, test.roots):
            summary["gap_closed"][test.name] = _interval(closed)
    alike = _alike(recipe, test.answers[student].outputs, _first_answers(test))
    summary["agreement"][test.name] = _interval(share(int(alike.sum()), len(alike)))
    if ceiling := _ceiling(recipe, test, alike):
        summary["ceiling"][test.name] = ceiling


def _hold_against_controls(summary: dict[str, Any], recipe: JobRecipe, test: TestRows) -> None:
    """Every student with experts against its dense counterpart, on the rows of one test."""
    for name, student in recipe.students.items():
        if student.control:
            gap = _paired(test, name, CONTROL.format(name), recipe.graded)
            summary["controls"].setdefault(name, {})[test.name] = gap


def _paired(test: TestRows, student: str, other: str, graded: bool) -> dict[str, Any]:
    """Student minus another model: interval, and the p-value of "no difference"."""
    ours, theirs = test.scores(student), test.scores(other)
    interval, method = score_difference(ours, theirs, test.roots, graded=graded)
    return {**_interval(interval), "method": method, "p": chance(ours, theirs, test.roots, graded=graded)}


def _first_answers(test: TestRows) -> list[str | None]:
    """What the teacher said first; where there is no gold, that is the reference."""
    return test.answers["teacher"].outputs if test.gold else [row.output for row in test.rows]


def _ceiling(recipe: JobRecipe, test: TestRows, alike: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """How often the teacher agrees with itself, and the student's agreement on the same rows as a share of that."""
    asked_last = zip((row.id for row in test.rows), test.answers["teacher"].outputs, strict=True)
    second = test.again if test.gold else dict(asked_last)
    places = [place for place, row in enumerate(test.rows) if row.id in second]
    if not places:
        return None
    first = _first_answers(test)
    hits = _alike(recipe, [first[place] for place in places], [second[test.rows[place].id] for place in places])
    reached = 100 * float(alike[places].sum() / hits.sum()) if hits.any() else None
    return {**_interval(share(int(hits.sum()), len(hits))), "rows": len(hits), "reached": reached}


def _alike(recipe: JobRecipe, left: Sequence[str | None], right: Sequence[str | None]) -> npt.NDArray[np.bool_]:
    """Where two lists of answers say the same; what cannot be read agrees with nothing."""
    pairs = zip(left, right, strict=True)
    return np.array([a is not None and b is not None and same(a, b, recipe) for a, b in pairs], dtype=bool)


def _good_enough(
    recipe: JobRecipe, test: TestRows, models: Mapping[str, ModelFacts], student: str
) -> list[dict[str, Any]]:
    """Baselines that may stand in for the teacher too and cost less than the student: then nobody needs a student."""
    found = []
    for name, facts in models.items():
        if facts.kind != "baseline" or name == "untrained" or not test.rows:
            continue
        verdict = _verdict(recipe, test, name)
        cheaper = name == FEW_SHOT or _milliseconds(facts) <= _milliseconds(models[student])  # it needs no training
        if verdict.decision == "pass" and cheaper:
            found.append({"name": name, **_interval(verdict.difference)})
    return sorted(found, key=lambda part: -part["value"])


def _milliseconds(facts: ModelFacts) -> float:
    return facts.latency_ms["p50"] if facts.latency_ms else 0.0


def _verdict(recipe: JobRecipe, test: TestRows, model: str) -> Verdict:
    return judge(
        test.scores(model),
        test.scores("teacher"),
        test.roots,
        recipe.evaluate.margin,
        graded=recipe.graded,
    )


def _too_few(verdict: Verdict, test: TestRows) -> str:
    if verdict.roots >= FEWEST_ROOTS:
        return ""
    where = "the gold test" if test.gold else "seeds or inputs (a fifth of them is held out)"
    missing = (FEWEST_ROOTS - verdict.roots) * (1 if test.gold else 5)
    return f"; write about {missing} more rows of {where}"


def _test_facts(test: TestRows) -> dict[str, Any]:
    return {"rows": len(test.rows), "roots": len(set(test.roots)), "source": test.source, "gold": test.gold}


def _model(recipe: JobRecipe, name: str, facts: ModelFacts, tests: Sequence[TestRows]) -> dict[str, Any]:
    answered = [test for test in tests if test.rows]
    model: dict[str, Any] = {
        "kind": facts.kind,
        "score": {
            test.name: {
                "metric": recipe.metric,
                **_interval(score_interval(test.scores(name), test.roots, graded=recipe.graded)),
            }
            for test in answered
        },
        "further": {test.name: _further(recipe, test, name) for test in answered},
        "parameters": facts.parameters,
        "bytes": facts.bytes,
        "memory": facts.memory,
        "latency_ms": facts.latency_ms,
        "per_second": facts.per_second,
        "tokens_per_second": facts.tokens_per_second,
        "usd_per_1000": _usd_per_1000(recipe, facts),
    }
    if facts.seeds is not None:
        model["seeds"] = [
            {
                "seed": trained["seed"],
                "validation": trained["validation_agreement"],
                "score": {test.name: 100 * float(test.scores(trained["column"]).mean()) for test in answered},
                "training": trained["training"],
            }
            for trained in facts.seeds
        ]
    return model


def _usd_per_1000(recipe: JobRecipe, facts: ModelFacts) -> float | None:
    """What a price says, or the machine's hours at the speed that was measured."""
    hour = recipe.evaluate.usd_per_hour
    if facts.usd_per_1000 is not None or hour is None or not facts.per_second:
        return facts.usd_per_1000
    return 1000 * hour / 3600 / facts.per_second


def _further(recipe: JobRecipe, test: TestRows, name: str) -> dict[str, dict[str, float]]:
    """Other measures of the same answers."""
    said, rows = test.answers[name].outputs, len(test.rows)
    if recipe.labels:
        return {"macro_f1": _interval(macro_f1(test, name, list(recipe.labels)))}
    if not recipe.schema_text:
        return {}
    whole = int(_alike(recipe, said, [row.output or "" for row in test.rows]).sum())
    valid = sum(output is not None for output in said)
    return {"exact": _interval(share(whole, rows)), "valid": _interval(share(valid, rows))}


def _mistakes(recipe: JobRecipe, test: TestRows, student: str) -> dict[str, int]:
    """What the student has wrong: copied from the teacher, where both differ from gold in their own way, or new."""
    counts = {"copied": 0, "differ": 0, "new": 0}
    said, teacher = test.answers[student].outputs, test.answers["teacher"].outputs
    for place, row in enumerate(test.rows):
        ours, theirs, gold = said[place], teacher[place], row.output or ""
        if ours is not None and same(ours, gold, recipe):
            continue
        if theirs is not None and same(theirs, gold, recipe):
            counts["new"] += 1
        elif ours is not None and theirs is not None and same(ours, theirs, recipe):
            counts["copied"] += 1
        else:
            counts["differ"] += 1
    return counts


def _cells(test: TestRows, student: str) -> list[str]:
    """Which of the two is right, row by row."""
    ours, theirs = test.scores(student) >= _RIGHT, test.scores("teacher") >= _RIGHT
    return [
        ("both right" if b else "student only") if a else ("teacher only" if b else "both wrong")
        for a, b in zip(ours, theirs, strict=True)
    ]


def _errors(test: TestRows, student: str, cells: Sequence[str]) -> list[dict[str, Any]]:
    """Rows to look at, from every cell, those that only the teacher has right before the others."""
    picked = []
    for cell, most in _SHOWN.items():
        inside = [number for number, name in enumerate(cells) if name == cell]
        picked += sorted(inside, key=lambda number: test.rows[number].id)[:most]
    said, teacher = test.answers[student], test.answers["teacher"]
    return [
        {
            "id": test.rows[i].id,
            "input": test.rows[i].input,
            "reference": test.rows[i].output,
            "teacher": teacher.outputs[i],
            "student": said.outputs[i],
            "confidence": said.confidence[i],
            "cell": cells[i],
        }
        for i in picked
    ]


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
