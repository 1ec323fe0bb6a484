"""From the table of answers to the figures of the report: scores, differences, verdict, confusion, errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .answers import ModelFacts, TestRows, agree, right
from .recipe import JobRecipe
from .statistics import Interval, share
from .verdict import FEWEST_ROOTS, Verdict, judge, score_difference

_SHOWN = {"teacher only": 150, "both wrong": 50, "student only": 50, "both right": 50}
"""Rows kept for the report's explorer, by who is right."""


def score_tests(recipe: JobRecipe, tests: Sequence[TestRows], models: Mapping[str, ModelFacts]) -> dict[str, Any]:
    """Everything in the report that comes from the answers alone."""
    student = recipe.judged_student
    metric = "accuracy" if recipe.labels else "exact"
    summary: dict[str, Any] = {
        "margin": recipe.evaluate.margin,
        "tests": {test.name: _test_facts(test) for test in tests},
        "models": {name: _model(recipe, name, facts, tests, metric) for name, facts in models.items()},
        "difference": {},
        "against_linear": {},
        "retention": {},
        "agreement": {},
        "confusion": None,
        "errors": [],
        "cells": {},
        "verdict": None,
    }
    if student is None:
        return summary
    for test in tests:
        verdict = _verdict(recipe, test, student)
        if verdict.rows:
            interval = verdict.difference
            summary["difference"][test.name] = {**_interval(interval), "method": verdict.method}
            teacher_score = share(int(right(test, "teacher", recipe).sum()), len(test.rows)).value
            student_score = share(int(right(test, student, recipe).sum()), len(test.rows)).value
            if teacher_score:
                summary["retention"][test.name] = student_score / teacher_score
            same_answers = agree(test, student, "teacher", recipe)
            summary["agreement"][test.name] = _interval(share(int(same_answers.sum()), len(test.rows)))
            if "linear" in models:
                ours, theirs = right(test, student, recipe), right(test, "linear", recipe)
                ahead, method = score_difference(ours, theirs, [row.root for row in test.rows], graded=False)
                summary["against_linear"][test.name] = {**_interval(ahead), "method": method}
    judged = tests[0]
    verdict = _verdict(recipe, judged, student)
    summary["verdict"] = {
        "decision": verdict.decision,
        "reason": verdict.reason + _too_few(verdict, judged),
        "test": judged.name,
        "reference": "gold" if judged.gold else "teacher",
        "student": student,
    }
    summary["confusion"] = _confusion(recipe, judged, student)
    cells = _cells(recipe, judged, student)
    summary["cells"] = dict(Counter(cells))
    summary["errors"] = _errors(judged, student, cells)
    return summary


def _verdict(recipe: JobRecipe, test: TestRows, student: str) -> Verdict:
    return judge(
        right(test, student, recipe),
        right(test, "teacher", recipe),
        [row.root for row in test.rows],
        recipe.evaluate.margin,
        graded=False,
    )


def _too_few(verdict: Verdict, test: TestRows) -> str:
    if verdict.roots >= FEWEST_ROOTS:
        return ""
    where = "the gold test" if test.gold else "seeds or inputs (a fifth of them is held out)"
    missing = (FEWEST_ROOTS - verdict.roots) * (1 if test.gold else 5)
    return f"; write about {missing} more rows of {where}"


def _test_facts(test: TestRows) -> dict[str, Any]:
    return {
        "rows": len(test.rows),
        "roots": len({row.root for row in test.rows}),
        "source": test.source,
        "gold": test.gold,
    }


def _model(recipe: JobRecipe, name: str, facts: ModelFacts, tests: Sequence[TestRows], metric: str) -> dict[str, Any]:
    scores = {}
    for test in tests:
        if test.rows:
            hits = int(right(test, name, recipe).sum())
            scores[test.name] = {"metric": metric, **_interval(share(hits, len(test.rows)))}
    model: dict[str, Any] = {
        "kind": facts.kind,
        "score": scores,
        "parameters": facts.parameters,
        "bytes": facts.bytes,
        "latency_ms": facts.latency_ms,
        "usd_per_1000": facts.usd_per_1000,
    }
    if facts.seeds is not None:
        model["seeds"] = [
            {
                "seed": trained["seed"],
                "validation": trained["validation"],
                "score": {
                    test.name: float(100 * right(test, trained["column"], recipe).mean()) for test in tests if test.rows
                },
            }
            for trained in facts.seeds
        ]
    return model


def _confusion(recipe: JobRecipe, test: TestRows, student: str) -> dict[str, Any] | None:
    """Counts of reference (rows) against the student's answer (columns)."""
    labels = list(recipe.labels)
    if not labels or not test.rows:
        return None
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for row, said in zip(test.rows, test.answers[student].outputs, strict=True):
        if said in place and row.output in place:
            counts[place[row.output], place[said]] += 1
    return {"test": test.name, "labels": labels, "counts": counts.tolist()}


def _cells(recipe: JobRecipe, test: TestRows, student: str) -> list[str]:
    """Which of the two is right, row by row."""
    ours, theirs = right(test, student, recipe), right(test, "teacher", recipe)
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
