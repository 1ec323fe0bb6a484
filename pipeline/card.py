"""card.md: the proof of a run as a model card, Markdown for a hub with the scores where its programs look for them.

The front matter holds the hub's `model-index`. No licence is written but the one that the recipe publishes under: whose
the answers are, the run does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .charts import Report, further
from .config import PublishStage
from .markdown import LONGEST, front_matter, plain, table
from .words import (
    between,
    chance,
    experts,
    first_line,
    held_back,
    interval,
    measure,
    points,
    rate,
    signed,
    size,
    usd,
    whole,
    worth,
)

_WORST = 5
"""Slices on the card; the page has them all."""

_HUB_NAMES = {
    "exact": "exact_match",
    "numeric": "exact_match",
    "field_f1": "f1",
    "macro_f1": "f1",
    "rouge_l": "rouge",
    "judge": "win_rate",
}
"""What the hub calls a metric, where it has another name for it."""


def model_card(report: Report, stage: PublishStage | None = None, base: str | None = None) -> str:
    """The card of the judged student.

    Args:
        stage: what it is published under.
        base: the model of a hub that it was made out of.
    """
    parts = (_head, _scores, _comparisons, _slices, _limits, _provenance)
    body = "\n\n".join(text for part in parts if (text := "\n".join(part(report)).strip()))
    if stage:
        body += "\n\n" + "\n".join(["## Licence", "", *terms(stage)])
    return f"{_front(report, stage, base)}\n{body}\n"


def terms(stage: PublishStage) -> Iterator[str]:
    """Under what something is published, in the publisher's words."""
    yield f"- Licence: {plain(stage.license)}, as its publisher says."
    yield from (f"- Made from {plain(name)}, licence {plain(kind)}." for name, kind in sorted(stage.sources.items()))
    if stage.terms:
        yield f"- Terms: {plain(stage.terms, 1000)}"


def _front(report: Report, stage: PublishStage | None, base: str | None) -> str:
    found: dict[str, Any] = {"library_name": "transformers", "tags": ["understudy", "distillation"]}
    if base:
        found["base_model"] = base
    if stage:
        found["license"] = stage.license
    if stage and stage.dataset and "://" not in stage.dataset:
        found["datasets"] = [stage.dataset]
    if results := _results(report):
        name = f"{report['name']} {report['verdict']['student']}"
        found["model-index"] = [{"name": name, "results": results}]
    return front_matter(found)


def _results(report: Report) -> list[dict[str, Any]]:
    """The student's measures on every test that has rows, in points."""
    if not report["verdict"]:
        return []
    student = report["models"][report["verdict"]["student"]]
    return [
        {
            "task": {"type": "text-classification" if score["metric"] == "accuracy" else "text-generation"},
            "dataset": {"name": f"{report['name']}: {test}", "type": _slug(f"{report['name']}-{test}")},
            "metrics": [
                _metric(score["metric"], score["value"]),
                *(_metric(name, part["value"]) for name, part in student["further"].get(test, {}).items()),
            ],
        }
        for test, score in student["score"].items()
    ]


def _metric(name: str, value: float) -> dict[str, Any]:
    return {"type": _HUB_NAMES.get(name, name), "value": round(float(value), 2), "name": f"{measure(name)} (%)"}


def _slug(text: str) -> str:
    """A name of the form that the hub has for data sets."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:96] or "test"


def _head(report: Report) -> Iterator[str]:
    verdict = report["verdict"]
    yield f"# {plain(report['name'])}" + (f": {plain(verdict['student'])}" if verdict else "")
    yield ""
    yield f"**{plain(first_line(report), 10 * LONGEST)}**"
    if verdict:
        reason = plain(verdict["reason"], 10 * LONGEST)
        yield ""
        yield f"On {plain(verdict['test'])}, {reason}. The margin is {report['margin']:g} points."


def _scores(report: Report) -> Iterator[str]:
    """A table for each test that has rows."""
    measures = further(report)
    for test, facts in report["tests"].items():
        models = {name: model for name, model in report["models"].items() if test in model["score"]}
        if not models:
            continue
        metric = measure(next(iter(models.values()))["score"][test]["metric"])
        roots = "" if facts["roots"] == facts["rows"] else f" of {whole(facts['roots'])} roots"
        yield from (f"## Scores on {plain(test)}", "")
        gold = "gold" if facts["gold"] else "no gold"
        yield f"{whole(facts['rows'])} rows{roots}, {gold}: {plain(facts['source'])}."
        yield ""
        yield from table(
            ["model", metric, "90% interval", *(measure(name) for name in measures), *_COSTS],
            [_model(name, model, test, measures) for name, model in models.items()],
        )
        yield ""


_COSTS = ("parameters", "size", "ms, half", "ms, 95%", "a second", "USD per 1,000")


def _model(name: str, model: Mapping[str, Any], test: str, measures: Sequence[str]) -> list[str]:
    score, speed = model["score"][test], model["latency_ms"] or {}
    more = [model["further"].get(test, {}).get(name) for name in measures]
    facts = (
        (model["parameters"], whole),
        (model["bytes"], size),
        (speed.get("p50"), points),
        (speed.get("p95"), points),
        (model["per_second"], rate),
        (model["usd_per_1000"], usd),
    )
    return [
        name,
        points(score["value"]),
        interval(score),
        *("" if part is None else f"{points(part['value'])} ({interval(part)})" for part in more),
        *("" if value is None else spelt(value) for value, spelt in facts),
    ]


def _comparisons(report: Report) -> Iterator[str]:
    """The student against its teacher and every baseline, and what it has of the teacher."""
    if not report["difference"]:
        return
    rows = [["teacher", test, gap] for test, gap in report["difference"].items()]
    rows += [[name, test, gap] for name, tests in report["against"].items() for test, gap in tests.items()]
    yield from ("## The student against the others", "")
    yield from table(
        ["against", "test", "points", "90% interval", "p", "method"],
        [
            [name, test, signed(gap["value"]), between(gap), chance(gap["p"], ""), gap["method"]]
            for name, test, gap in rows
        ],
    )
    yield ""
    yield from (f"- {plain(test)}: {line}." for test in report["difference"] for line in _kept(report, test))
    yield from (f"- {plain(line, 10 * LONGEST)}" for line in experts(report))
    if wrong := report["mistakes"]:
        copied, differ, new = (whole(wrong[kind]) for kind in ("copied", "differ", "new"))
        yield f"- Wrong answers: {copied} that the teacher gives too, {differ} where it is wrong otherwise, {new} new."


def _kept(report: Report, test: str) -> Iterator[str]:
    """What the student has of the teacher on one test."""
    if kept := report["retention"].get(test):
        yield f"keeps {points(kept['value'])}% of the teacher's score ({interval(kept)})"
    if closed := report["gap_closed"].get(test):
        yield f"came {points(closed['value'])}% of the way from untrained to teacher ({interval(closed)})"
    if same := report["agreement"].get(test):
        ceiling = _reached(report["ceiling"].get(test))
        yield f"answers {points(same['value'])}% as the teacher does ({interval(same)}){ceiling}"


def _reached(ceiling: Mapping[str, Any] | None) -> str:
    if not ceiling:
        return ""
    share = "" if ceiling["reached"] is None else f": {ceiling['reached']:.0f}% of what can be reached"
    return f"; the teacher agrees with itself on {points(ceiling['value'])}%{share}"


def _slices(report: Report) -> Iterator[str]:
    """Where the student loses most."""
    if not report["slices"]:
        return
    yield from ("## Where it loses most", "")
    yield from table(
        ["slice", "rows", "student", "teacher", "points", "90% interval", "p, corrected"],
        [
            [
                f"{part['column']}: {part['value']}",
                whole(part["rows"]),
                points(part["student"]),
                points(part["teacher"]),
                signed(part["difference"]["value"]),
                between(part["difference"]),
                chance(part["p_holm"], ""),
            ]
            for part in report["slices"][:_WORST]
        ],
    )
    yield ""
    shown = min(_WORST, len(report["slices"]))
    yield f"The worst {shown} of {len(report['slices'])} slices; p after Holm's correction for all of them."


def _limits(report: Report) -> Iterator[str]:
    """What these figures do not say."""
    yield from ("## Limits", "")
    verdict = report["verdict"]
    if verdict:
        yield f"- The verdict is about rows like those of the test {plain(verdict['test'])}, and about no others."
    if verdict and verdict["reference"] == "teacher":
        yield "- There is no gold: a wrong answer of the teacher that the student copies counts as right."
    if report["good_enough"]:
        names = ", ".join(plain(part["name"]) for part in report["good_enough"])
        yield f"- Without a student, this may stand in for the teacher too, and costs less: {names}."
    if report["judge"]:
        yield from _judged(report["judge"])
    if report["curve"] and report["curve"]["next"]:
        yield f"- {plain(worth(report['curve']['next']), 2 * LONGEST)}"
    if probe := report["capacity"]:
        yield f"- {held_back(probe['decision'])}: {plain(probe['reason'], 10 * LONGEST)}."
    yield from (f"- {plain(note, 10 * LONGEST)}" for note in report["notes"])


def _judged(judge: Mapping[str, Any]) -> Iterator[str]:
    flipped = f"{points(judge['flipped']['value'])}% of {whole(judge['pairs'])} pairs ({interval(judge['flipped'])})"
    yield f"- The judge is {plain(judge['teacher'])}; the order alone decided {flipped}."
    yield f"- {whole(judge['left_out'])} rows are left out, because the judge said nothing of them that can be read."
    if judge["is_the_teacher"]:
        yield "- **The judge is the teacher itself**: this says how much the student sounds like its judge."


def _provenance(report: Report) -> Iterator[str]:
    origin, spend = report["provenance"], report["spend"]
    yield from ("## Provenance", "")
    yield f"- Teacher: {plain(origin['teacher'])}"
    yield f"- Evaluated: {report['created']}"
    yield f"- Recipe: `{plain(origin['recipe_fingerprint'])}`"
    yield from (f"- Stage {plain(stage)}: `{plain(print_)}`" for stage, print_ in origin["stages"].items())
    yield from (f"- Seeds of {plain(name)}: {', '.join(map(str, seeds))}" for name, seeds in origin["seeds"].items())
    yield "- Versions: " + ", ".join(f"{plain(package)} {plain(said)}" for package, said in origin["versions"].items())
    yield f"- Machine: {origin['machine']['cores']} cores"
    paid = "" if spend["usd"] is None else f", {plain(usd(spend['usd']))}"
    yield f"- Asked of the teacher: {whole(spend['requests'])} requests{paid}"
