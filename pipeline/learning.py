"""What the curve stage tells the report: scores by training rows, what more rows bring, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from .capacity import Findings, capacity
from .forecast import Forecast, forecast
from .recipe import JobRecipe
from .statistics import score_interval
from .table import ModelFacts, TestRows


def learning(
    recipe: JobRecipe,
    test: TestRows,
    facts: ModelFacts,
    learnt: Mapping[str, Any],
    ceiling: Mapping[str, Any] | None,
    usd_per_row: float | None,
) -> dict[str, Any]:
    """`curve` and `capacity` of the report.

    Args:
        test: the verdict's.
        facts: of the judged student.
        learnt: what the curve stage says of its parts and its probe.
        ceiling: how often the teacher agrees with itself, where it was asked twice.
        usd_per_row: dollars for one more training row, where the teacher has a price.
    """
    if not test.rows:
        return {"curve": None, "capacity": None}
    ahead = _ahead(test, facts, learnt)
    return {
        "curve": _curve(recipe, test, _columns(facts, learnt), ahead, usd_per_row),
        "capacity": _capacity(recipe, facts, learnt, ceiling, ahead),
    }


def _columns(facts: ModelFacts, learnt: Mapping[str, Any]) -> dict[int, str]:
    """Who answered after how many rows, fewest first: every part, and the first seed, which learnt all of them."""
    assert facts.seeds, "a judged student has seeds"
    return {part["rows"]: part["column"] for part in learnt["parts"]} | {learnt["rows"]: facts.seeds[0]["column"]}


def _ahead(test: TestRows, facts: ModelFacts, learnt: Mapping[str, Any]) -> Forecast | None:
    """What as many rows again would bring."""
    columns = _columns(facts, learnt)
    scores = np.stack([test.scores(column) for column in columns.values()])
    seeds = [100 * float(test.scores(trained["column"]).mean()) for trained in facts.seeds or ()]
    spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0
    return forecast(list(columns), scores, test.roots, spread=spread)


def _curve(
    recipe: JobRecipe, test: TestRows, columns: Mapping[int, str], ahead: Forecast | None, usd_per_row: float | None
) -> dict[str, Any] | None:
    """None where there were too few rows for any part."""
    if len(columns) < 2:
        return None
    rows = max(columns)
    usd = None if usd_per_row is None else usd_per_row * rows
    return {
        "student": recipe.judged_student,
        "test": test.name,
        "points": [
            {"rows": size, **asdict(score_interval(test.scores(column), test.roots, graded=recipe.graded))}
            for size, column in columns.items()
        ],
        "fit": asdict(ahead.curve) if ahead and ahead.curve else None,
        "next": {"rows": rows, "gain": asdict(ahead.gain), "usd": usd} if ahead else None,
    }


def _capacity(
    recipe: JobRecipe,
    facts: ModelFacts,
    learnt: Mapping[str, Any],
    ceiling: Mapping[str, Any] | None,
    ahead: Forecast | None,
) -> dict[str, Any] | None:
    """None where no rows were kept for validation."""
    if not learnt["validation_rows"]:
        return None
    kept = next(trained for trained in facts.seeds or () if trained["column"] == recipe.judged_student)
    comparable = ceiling if recipe.labels else None  # without labels the student's tokens are counted, not its answers
    found = Findings(
        rows=learnt["probe"]["rows"],
        fitted=learnt["probe"]["fitted"],
        validation=kept["validation_agreement"],
        validation_rows=learnt["validation_rows"],
        ceiling=comparable["value"] if comparable else None,
        ceiling_rows=comparable["rows"] if comparable else 0,
        gain=ahead.gain if ahead else None,
        unit="rows" if recipe.labels else "tokens",
    )
    return capacity(found, recipe.evaluate.margin)


def usd_per_row(manifests: Mapping[str, Mapping[str, Any]], usd_per_1000: float | None) -> float | None:
    """Dollars for one more training row, whoever paid for those that are there.

    Answers from the ledger cost nothing this time, and the next ones will cost what any does.

    Args:
        usd_per_1000: dollars for a thousand of the labelling teacher's answers.

    Returns:
        None where it has no price, or where all that was written was in the ledger, so that nobody saw its price.
    """
    label, write = manifests["label"]["spend"], manifests.get("generate", {}).get("spend")
    if usd_per_1000 is None or (write and not write["requests"]):
        return None
    usd: float = usd_per_1000 / 1000 * (label["requests"] + label["from_ledger"])
    if write:
        usd += write["usd"] / write["requests"] * (write["requests"] + write["from_ledger"])
    return usd / int(manifests["curve"]["summary"]["rows"])
