"""Which label is taken for which, and what that makes of a score that counts every label alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .statistics import Interval, root_places
from .table import TestRows

_RESAMPLES = 2_000

Places = npt.NDArray[np.intp]


def confusion(test: TestRows, model: str, labels: Sequence[str]) -> dict[str, Any] | None:
    """Counts of reference (rows) against the model's answer (columns); None where there is nothing to count."""
    if not labels or not test.rows:
        return None
    wanted, said = _places(test, model, labels)
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    read = (wanted >= 0) & (said >= 0)
    np.add.at(counts, (wanted[read], said[read]), 1)
    return {"test": test.name, "labels": list(labels), "counts": counts.tolist()}


def macro_f1(test: TestRows, model: str, labels: Sequence[str], level: float = 0.9, seed: int = 0) -> Interval:
    """Mean F1 over the labels that the test has: a rare label weighs as much as a common one.

    An answer that cannot be read is one of a further label that nobody asked for. The interval draws roots.
    """
    wanted, said = _places(test, model, labels)
    roots = root_places(test.roots)
    rows = np.arange(len(wanted))
    drawn = np.random.default_rng(seed).multinomial(
        roots.max() + 1, np.full(roots.max() + 1, 1 / (roots.max() + 1)), size=_RESAMPLES
    )
    weights = np.vstack([np.ones(len(rows)), drawn[:, roots]])
    values = _macro_f1(weights, wanted, said, len(labels))
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(100 * values[0], 100 * min(float(low), values[0]), 100 * max(float(high), values[0]))


def _macro_f1(
    weights_RN: npt.NDArray[np.float64], wanted: Places, said: Places, labels: int
) -> npt.NDArray[np.float64]:
    """Macro F1 of every resample, [resamples]; R resamples, N rows."""
    wanted_RL = weights_RN @ _one_hot(wanted, labels)
    said_RL = weights_RN @ _one_hot(said, labels)
    right_RL = weights_RN @ _one_hot(np.where(wanted == said, wanted, -1), labels)
    both = wanted_RL + said_RL
    scores = np.divide(2 * right_RL, both, out=np.zeros_like(both), where=both > 0)
    present = wanted_RL > 0
    mean: npt.NDArray[np.float64] = (scores * present).sum(1) / np.maximum(present.sum(1), 1)
    return mean


def _one_hot(places: Places, labels: int) -> Any:
    from scipy.sparse import csr_matrix

    rows = np.flatnonzero(places >= 0)
    return csr_matrix((np.ones(len(rows)), (rows, places[rows])), (len(places), labels))


def _places(test: TestRows, model: str, labels: Sequence[str]) -> tuple[Places, Places]:
    """Number of the label that was wanted, and of the one said; -1 for none."""
    place = {label: number for number, label in enumerate(labels)}
    wanted = np.array([place.get(row.output or "", -1) for row in test.rows])
    said = np.array([place.get(output or "", -1) for output in test.answers[model].outputs])
    return wanted, said
