"""What a run would do and cost, without asking anybody: stages left, requests, tokens, dollars, and the test's power.

Tokens are guessed from text (four bytes each) and answers from the labels' lengths, so dollars are an estimate; what is
in the ledger already is not subtracted, nor are answers counted that will have to be asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..data.rows import Source
from .context import Run
from .run import artifacts
from .verdict import rows_needed

_BYTES_PER_TOKEN = 4
_SAMPLED = 200
"""Inputs whose prompts are rendered to guess the length of all."""

_DISCORDANCE = 0.08
"""Share of rows on which student and teacher differ in being right; 0.05 to 0.15 is usual."""


@dataclass(frozen=True)
class Asked:
    """Requests of one stage."""

    stage: str
    requests: int
    input_tokens: int
    output_tokens: int
    usd: float | None


@dataclass(frozen=True)
class Plan:
    """What is left to do."""

    stages: dict[str, str]
    """`done` or `to do`, by stage."""
    asked: list[Asked] = field(default_factory=list)
    test_rows: int | None = None
    """Gold rows of the verdict's test; None where rows are held out for it."""
    needed_rows: int = 0
    """Rows with which a student as good as its teacher passes four times in five."""

    def as_json(self) -> dict[str, Any]:
        return {
            "stages": self.stages,
            "asked": [vars(part) for part in self.asked],
            "test_rows": self.test_rows,
            "needed_rows": self.needed_rows,
        }

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield "plan: " + ", ".join(f"{key} {state}" for key, state in self.stages.items())
        for part in self.asked:
            usd = "no price given" if part.usd is None else f"about ${part.usd:.2f}"
            yield (
                f"  {part.stage}: about {part.requests} requests, {part.input_tokens:,} tokens in and "
                f"{part.output_tokens:,} out, {usd}"
            )
        have = "held-out rows" if self.test_rows is None else f"{self.test_rows} gold rows"
        yield f"  verdict: {have}; about {self.needed_rows} are needed if the two differ on {_DISCORDANCE:.0%} of them"


def plan(run: Run) -> Plan:
    """Look at what is there and count what is not; asks nobody and spends nothing."""
    states = {key: "done" if artifact.manifest() else "to do" for key, (_, artifact) in artifacts(run).items()}
    recipe = run.recipe
    gold = run.gold()
    asked = []
    if states.get("generate") == "to do" and recipe.generate is not None:
        asked.append(_generate(run))
    written = recipe.generate.rows if recipe.generate is not None else 0
    if states["label"] == "to do":
        count = written + sum(1 for _ in run.unlabeled())
        asked.append(_label(run, "label", count * recipe.label.samples, list(islice(run.unlabeled(), _SAMPLED))))
    if states.get("evaluate") == "to do" and gold:
        rows = [row for test in gold.values() for row in test]
        asked.append(_label(run, "evaluate", len(rows) * recipe.label.samples, rows[:_SAMPLED]))
    test_rows = len(next(iter(gold.values()))) if gold else None
    return Plan(states, asked, test_rows, rows_needed(_DISCORDANCE, recipe.evaluate.margin))


def _label(run: Run, stage: str, requests: int, sample: list[Source]) -> Asked:
    labeler = run.labeler()
    lengths = [
        sum(len(message.content.encode()) for message in labeler.prompt(source, 0).messages)
        for source in sample or [Source("plan", "x" * 80, "plan", "train", "unlabeled")]
    ]
    each = sum(lengths) / len(lengths) / _BYTES_PER_TOKEN
    labels = list(run.recipe.labels)
    answer = max(map(len, labels)) / _BYTES_PER_TOKEN + 1 if labels else run.recipe.label.max_tokens / 2
    return _asked(run, stage, run.recipe.teacher_of("label"), requests, each, answer)


def _generate(run: Run) -> Asked:
    stage = run.recipe.generate
    assert stage is not None
    each = len(run.generate_template.text.encode()) / _BYTES_PER_TOKEN + 40 * stage.examples
    return _asked(run, "generate", run.recipe.teacher_of("generate"), round(stage.rows * 1.1), each, 40)


def _asked(run: Run, stage: str, teacher: str, requests: int, each: float, answer: float) -> Asked:
    price = run.recipe.teachers[teacher].price
    tokens = round(requests * each), round(requests * answer)
    usd = (price.input * tokens[0] + price.output * tokens[1]) / 1e6 if price else None
    return Asked(stage, requests, *tokens, usd)
