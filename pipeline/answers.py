"""The table of answers in memory: every model's answer to every row of every test, and what each model is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.rows import Source
from .parse import same
from .recipe import JobRecipe


@dataclass
class Answers:
    """One model's answers to one test, in the order of its rows; None where it gave none that can be read."""

    outputs: list[str | None]
    confidence: list[float | None]


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


@dataclass
class ModelFacts:
    """What a model is and costs, beside how well it answers."""

    kind: str
    parameters: int | None = None
    bytes: int | None = None
    latency_ms: dict[str, float] | None = None
    usd_per_1000: float | None = None
    seeds: list[dict[str, Any]] | None = None


def right(test: TestRows, model: str, recipe: JobRecipe) -> npt.NDArray[np.bool_]:
    """Which rows a model answered as the reference does; shape [rows]. No readable answer is a wrong one."""
    pairs = zip(test.answers[model].outputs, test.rows, strict=True)
    return np.array([said is not None and same(said, row.output or "", recipe) for said, row in pairs], dtype=bool)


def agree(test: TestRows, model: str, other: str, recipe: JobRecipe) -> npt.NDArray[np.bool_]:
    """Which rows two models answered alike; shape [rows]."""
    pairs = zip(test.answers[model].outputs, test.answers[other].outputs, strict=True)
    return np.array([a is not None and b is not None and same(a, b, recipe) for a, b in pairs], dtype=bool)
