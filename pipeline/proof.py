"""The report of a run: what the manifests of its stages say, and what the table of answers is worth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.artifact import Artifact
from ..data.rows import SIDES
from ..data.storage import holds
from .context import Run
from .curve import FEWEST
from .learning import learning, usd_per_row
from .report import first_line, report_files
from .scoring import score_tests
from .table import ModelFacts, TestRows, read_table
from .verification import verification
from .words import experts
from .words import usd as dollars

EXIT_CODES = {"pass": 0, "fail": 4, "not_enough_data": 6}


def make_report(run: Run, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of report.json."""
    judged = manifests["evaluate"]
    table = Artifact(run.storage, "evaluate", judged["fingerprint"])
    tests, models = read_table(table, judged["summary"])
    summary = score_tests(run.recipe, tests, models)
    if "curve" in manifests:
        summary |= _learning(run, manifests, tests, models, summary)
    spend = {key: manifest["spend"] for key, manifest in manifests.items()}
    priced = any(teacher.price is not None for teacher in run.recipe.teachers.values())
    usd = sum(part["usd"] for part in spend.values()) if priced else None
    return {
        "name": run.recipe.name,
        "created": judged["finished"],
        **summary,
        "judge": judged["summary"]["judge"],
        "payback_requests": _payback(usd, summary["models"], run.recipe.judged_student),
        "rows": {key: manifest["rows"] for key, manifest in manifests.items() if manifest["rows"] is not None},
        "strategies": _strategies(manifests),
        "contamination": manifests["curate"]["summary"]["contamination"],
        "spend": {
            **{
                name: sum(part[name] for part in spend.values())
                for name in ("requests", "from_ledger", "input_tokens", "output_tokens")
            },
            "usd": usd,
            "by_stage": {
                key: {"requests": part["requests"], "usd": part["usd"] if priced else None}
                for key, part in spend.items()
                if part["requests"] or part["from_ledger"]
            },
        },
        "seconds": {key: manifest["seconds"] for key, manifest in manifests.items()},
        "provenance": {
            "teacher": run.recipe.teacher_of("label") + ": " + manifests["label"]["summary"]["teacher"],
            "recipe_fingerprint": run.recipe.fingerprint,
            "stages": {key: manifest["fingerprint"] for key, manifest in manifests.items()},
            "versions": judged["versions"],
            "seeds": {name: student.train.seeds for name, student in run.recipe.students.items()},
            "machine": {"cores": judged["cores"]},
        },
        "notes": _notes(run, manifests),
    }


def _learning(
    run: Run,
    manifests: Mapping[str, Mapping[str, Any]],
    tests: Sequence[TestRows],
    models: Mapping[str, ModelFacts],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    judged, test = run.recipe.judged_student, tests[0]
    assert judged is not None, "a curve is drawn for the judged student"
    learnt = manifests["curve"]["summary"]
    usd = usd_per_row(manifests, models["teacher"].usd_per_1000)
    return learning(run.recipe, test, models[judged], learnt, summary["ceiling"].get(test.name), usd)


def _strategies(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Share and yield of each strategy, and how often its inputs got the label that they were written for."""
    if "generate" not in manifests:
        return None
    intended = manifests["label"]["summary"]["written_for"]["strategies"]
    return {
        name: {
            "share": part["share"],
            "rows": {key: count for key, count in part.items() if key != "share"},
            "written_for": intended.get(name),
        }
        for name, part in manifests["generate"]["summary"]["strategies"].items()
    }


def _payback(usd: float | None, models: Mapping[str, Any], student: str | None) -> float | None:
    """Requests after which the student has earned back what its teacher was paid; None where that is not known."""
    theirs, ours = (models[name]["usd_per_1000"] if name in models else None for name in ("teacher", student or ""))
    if usd is None or theirs is None or ours is None or ours >= theirs:
        return None
    return float(math.ceil(1000 * usd / (theirs - ours)))


def publish_report(run: Run, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write report.json and report.html into the run's folder, unless they are there already."""
    report = make_report(run, manifests)
    job, storage = run.recipe.name, run.storage
    try:
        known = json.loads(storage.read(f"{job}/report.json"))
    except (OSError, ValueError):
        known = None
    if known != report or not all(holds(storage, f"{job}/{name}") for name in ("report.html", "card.md")):
        for name, content in report_files(report).items():
            storage.replace(f"{job}/{name}", content)
    return report


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """The lines that a person should read first: the verdict, then why, and what experts are worth."""
    reason = [report["verdict"]["reason"]] if report["verdict"] else []
    return [first_line(report), *reason, *experts(report)]


def score_lines(report: Mapping[str, Any]) -> list[str]:
    """Scores of every model on every test, aligned for a terminal."""
    lines = []
    for test, facts in report["tests"].items():
        lines.append(f"{test} ({facts['rows']} rows, {'gold' if facts['gold'] else facts['source']})")
        for name, model in report["models"].items():
            if score := model["score"].get(test):
                size = f"{model['parameters']:>12,} parameters" if model["parameters"] else " " * 23
                speed = f"{model['latency_ms']['p50']:8.1f} ms" if model["latency_ms"] else ""
                interval = f"[{score['low']:.1f}, {score['high']:.1f}]"
                lines.append(f"  {name:<12} {score['value']:6.1f}  {interval:<14} {size} {speed}".rstrip())
    return lines


def learning_lines(report: Mapping[str, Any]) -> list[str]:
    """What more rows are worth, and what holds the student back; none where the recipe does not ask."""
    lines = []
    if curve := report["curve"]:
        rows = " ".join(f"{point['rows']:,}" for point in curve["points"])
        scores = " ".join(f"{point['value']:.1f}" for point in curve["points"])
        lines.append(f"rows {rows}: {scores}" + _worth(curve["next"]))
    if capacity := report["capacity"]:
        lines.append(f"{capacity['decision'].replace('_', ' ')}: {capacity['reason']}")
    return lines


def _worth(more: Mapping[str, Any] | None) -> str:
    if more is None:
        return ""
    gain, usd = more["gain"], more["usd"]
    cost = "" if usd is None else f" and cost {dollars(usd)}"
    worth = f"{gain['value']:+.1f} ({gain['low']:.1f} to {gain['high']:.1f}) points"
    return f"; {more['rows']:,} more are worth {worth}{cost}"


def _notes(run: Run, manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    origins = {name: n for name, n in manifests["label"]["summary"]["origins"].items() if n}
    shares = ", ".join(f"{n} {name}" for name, n in origins.items())
    notes.append(f"Inputs: {shares}.")
    intended = manifests["label"]["summary"]["written_for"]
    if rows := sum(part["rows"] for part in intended["strategies"].values()):
        other = sum(part["other"] for part in intended["strategies"].values())
        notes.append(f"Of {rows} inputs written for a label, {other} were labelled with another, which counts.")
    sides = manifests["curate"]["summary"]["sides"]
    notes.append("Rows by side: " + ", ".join(f"{sides[side]} {side}" for side in SIDES if side in sides) + ".")
    leaks = manifests["curate"]["summary"]["contamination"]
    for test, part in leaks["tests"].items() if leaks else ():
        if rows := sum(part["found"].values()):
            notes.append(f"{rows} rows were not learnt, because a row of the test '{test}' stands in them.")
    notes += verification(run, manifests)
    for name, student in run.recipe.students.items():
        if len(student.train.seeds) == 1:
            notes.append(f"Student '{name}' was trained with a single seed; the spread over seeds is not known.")
    notes += _curve_notes(manifests["curve"]["summary"]) if "curve" in manifests else []
    failed = manifests["evaluate"]["rows"]["failed"]
    if failed:
        notes.append(f"{sum(failed.values())} test rows could not be asked and are left out for every model.")
    return notes


def _curve_notes(learnt: Mapping[str, Any]) -> list[str]:
    notes = []
    if learnt["skipped"]:
        sizes = ", ".join(map(str, learnt["skipped"]))
        notes.append(f"The learning curve leaves out parts of {sizes} rows: under {FEWEST} they say nothing.")
    if not learnt["validation_rows"]:
        notes.append("What holds the student back is not told: split.validation keeps no rows to see it on.")
    return notes
