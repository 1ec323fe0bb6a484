"""The table of answers: what every model said to every row of every test, and what that was worth.

Everything a report says about quality is computed from this one table, so that it can be judged again, by anybody, at
another margin, without a model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.artifact import Artifact, ShardWriter
from ..data.rows import Source

CONFIG = "answers"

FEW_SHOT = "few_shot"
"""The model that the judged student began as, shown a few rows."""

AGAIN = "teacher/again"
"""The teacher's second opinion on some rows of a gold test: how far anybody can agree with it."""


@dataclass
class Answers:
    """One model's answers to the rows of a test that it was asked, in their order."""

    outputs: list[str | None]
    """None where it gave none that can be read."""
    confidence: list[float | None]
    scores: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Against the reference, in [0, 1]."""


@dataclass
class TestRows:
    """One test: rows that somebody has an answer for, and what every model said."""

    __test__ = False  # not a pytest class

    name: str
    gold: bool
    source: str
    rows: list[Source]
    """`output` is the reference."""
    answers: dict[str, Answers] = field(default_factory=dict)
    again: dict[str, str | None] = field(default_factory=dict)
    """The teacher's second answers, by id, where it was asked twice."""

    @property
    def roots(self) -> list[str]:
        return [row.root for row in self.rows]

    def scores(self, model: str) -> npt.NDArray[np.float64]:
        """Of every row, [rows]."""
        return self.answers[model].scores


@dataclass
class ModelFacts:
    """What a model is and costs, beside how well it answers."""

    kind: str
    parameters: int | None = None
    bytes: int | None = None
    memory: int | None = None
    """Bytes that a process holds at most while it answers."""
    latency_ms: dict[str, float] | None = None
    """One message at a time."""
    per_second: float | None = None
    """Messages, many at a time."""
    tokens_per_second: float | None = None
    """Tokens read and written, many messages at a time."""
    usd_per_1000: float | None = None
    seeds: list[dict[str, Any]] | None = None


def write_table(artifact: Artifact, tests: Sequence[TestRows]) -> list[dict[str, Any]]:
    """One line for each row and model, the user's columns as JSON text."""
    import pyarrow as pa

    text, number = pa.string(), pa.float32()
    columns = {
        **dict.fromkeys(("id", "test", "model", "root", "origin", "strategy", "input", "reference", "answer"), text),
        "confidence": number,
        "score": pa.float64(),
        "columns": text,
    }
    writer = ShardWriter(artifact, CONFIG, pa.schema(list(columns.items())))
    for test in tests:
        for place, row in enumerate(test.rows):
            line = {
                "id": row.id,
                "test": test.name,
                "root": row.root,
                "origin": row.origin,
                "strategy": row.strategy,
                "input": row.input,
                "reference": row.output,
                "columns": json.dumps(dict(row.columns), ensure_ascii=False) if row.columns else None,
            }
            for model, answers in test.answers.items():
                said = {"answer": answers.outputs[place], "confidence": answers.confidence[place]}
                writer.add({**line, "model": model, **said, "score": float(answers.scores[place])})
            if row.id in test.again:
                writer.add({**line, "model": AGAIN, "answer": test.again[row.id], "confidence": None, "score": None})
    return writer.close()


def read_table(artifact: Artifact, summary: dict[str, Any]) -> tuple[list[TestRows], dict[str, ModelFacts]]:
    """The table as it was written, and what the stage's manifest says of the models."""
    tests = {facts["name"]: TestRows(**facts, rows=[]) for facts in summary["tests"]}
    scores: dict[tuple[str, str], list[float]] = {}
    last = ""
    for line in artifact.rows(CONFIG):
        test = tests[line["test"]]
        if line["id"] + line["test"] != last:
            last = line["id"] + line["test"]
            marks = json.loads(line["columns"] or "{}")
            test.rows.append(
                Source(
                    line["id"],
                    line["input"],
                    line["root"],
                    "test",
                    line["origin"],
                    line["reference"],
                    marks,
                    line["strategy"],
                )
            )
        if line["model"] == AGAIN:
            test.again[line["id"]] = line["answer"]
            continue
        answers = test.answers.setdefault(line["model"], Answers([], []))
        answers.outputs.append(line["answer"])
        answers.confidence.append(line["confidence"])
        scores.setdefault((test.name, line["model"]), []).append(line["score"])
    for (name, model), values in scores.items():
        tests[name].answers[model].scores = np.array(values)
    return list(tests.values()), {name: ModelFacts(**facts) for name, facts in summary["models"].items()}


def facts_as_json(tests: Sequence[TestRows], models: dict[str, ModelFacts]) -> dict[str, Any]:
    """What `read_table` needs beside the table."""
    return {
        "tests": [{"name": test.name, "gold": test.gold, "source": test.source} for test in tests],
        "models": {name: asdict(facts) for name, facts in models.items()},
    }
