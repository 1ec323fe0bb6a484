"""How an answer is scored against its reference: 0 to 1, right or wrong unless the scorer is graded.

One scorer judges every model of a run. Whether two answers say the same, for agreement and for confusion, is another
question, and `parse.same` answers it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.errors import BadInput, UnderstudyError
from ..data.numerals import last_number
from ..data.rows import Source
from .parse import same
from .recipe import JobRecipe

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scorer:
    """A metric with its name in the report."""

    name: str
    graded: bool
    """Scores lie between 0 and 1; else they are 0 or 1."""
    score: Callable[[str, str], float]
    """From an answer and its reference."""

    def __call__(self, said: Sequence[str | None], rows: Sequence[Source]) -> Scores:
        """A score for each row; no readable answer is worth nothing.

        Raises:
            UnderstudyError: the scorer failed on a row, or gave what is no score.
        """
        return np.array([self._one(answer, row) for answer, row in zip(said, rows, strict=True)], dtype=float)

    def _one(self, answer: str | None, row: Source) -> float:
        if answer is None:
            return 0.0
        try:
            score = self.score(answer, row.output or "")
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        else:
            if 0 <= score <= 1 and (self.graded or score in (0, 1)):
                return float(score)
            found = f"{score}; expected {'a number from 0 to 1' if self.graded else '0 or 1'}"
        raise UnderstudyError(f"evaluate: scorer '{self.name}' gave row {row.id} {found}")


def scorer_of(recipe: JobRecipe) -> Scorer | None:
    """The task's scorer; None where a teacher judges (see `judge`)."""
    name = recipe.metric
    if name == "judge":
        return None
    if name == "rouge_l":
        score = _rouge()
    elif name in ("field_f1", "numeric"):
        score = field_f1 if name == "field_f1" else numeric
    else:
        score = partial(_equal, recipe)
    return Scorer(name, recipe.graded, score)


def check_references(rows: Sequence[Source], recipe: JobRecipe, where: str) -> None:
    """Refuse a reference that no answer could ever match.

    Raises:
        BadInput: naming the row.
    """
    for number, row in enumerate(rows, 1):
        if (output := row.output) is None:
            continue
        if recipe.metric == "numeric" and last_number(output) is None:
            raise BadInput(
                f"{where}: row {number}: the output '{output[:60]}' holds no number, and task.scorer is numeric; "
                "correct it, or use another scorer"
            )
        if recipe.schema_text and _json(output) is None:
            raise BadInput(f"{where}: row {number}: the output '{output[:60]}' is not JSON; write one JSON object")


def _equal(recipe: JobRecipe, said: str, reference: str) -> float:
    return float(same(said, reference, recipe))


def numeric(said: str, reference: str) -> float:
    """Whether the last number of both is the same, to one part in a million."""
    first, second = last_number(said), last_number(reference)
    if first is None or second is None:
        return 0.0
    return float(math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9))


def field_f1(said: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the fields of two JSON values; a list's order does not matter."""
    ours, theirs = Counter(_fields(_json(said))), Counter(_fields(_json(reference)))
    if not ours and not theirs:
        return 1.0
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf with its path, numbers written one way."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _fields(part, f"{path}/{key}")
    elif isinstance(value, list):
        for part in value:
            yield from _fields(part, f"{path}/-")
    elif value is not None:  # a field that says nothing is a field that is not there
        number = isinstance(value, int | float) and not isinstance(value, bool)
        yield path, json.dumps(float(value) if number else value)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@cache
def _rouge() -> Callable[[str, str], float]:
    """F-measure of the longest common subsequence of words (Lin 2004, ROUGE-L)."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        raise BadInput(
            "task.scorer = rouge_l: there is no module 'rouge_score'; run `pip install 'understudy[rouge]'`"
        ) from None
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return lambda said, reference: float(scorer.score(reference, said)["rougeL"].fmeasure)
