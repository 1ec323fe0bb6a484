"""Which label is taken for which, and what that makes of a score that counts every label alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .statistics import Interval, root_places
from .table import TestRows

_RESAMPLES = 1_000

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
    cells, cell_of_row = np.unique(np.stack(_places(test, model, labels)), axis=1, return_inverse=True)
    roots = root_places(test.roots)
    in_root = csr_matrix((np.ones(len(roots)), (roots, cell_of_row)))  # [roots, cells]
    drawn = _drawn(in_root, np.random.default_rng(seed))
    values = _macro_f1(np.vstack([np.bincount(cell_of_row), drawn]), cells[0], cells[1], len(labels))
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(100 * values[0], 100 * min(float(low), values[0]), 100 * max(float(high), values[0]))


def _drawn(in_root: csr_matrix, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """How often each cell comes where roots are drawn with replacement, [resamples, cells]."""
    roots = in_root.shape[0]
    if in_root.sum() == roots:  # a row each: drawing cells is drawing roots, and there are fewer of them
        return random.multinomial(roots, in_root.sum(0).A1 / roots, size=_RESAMPLES).astype(float)
    return np.asarray(random.multinomial(roots, np.full(roots, 1 / roots), size=_RESAMPLES) @ in_root)


def _macro_f1(
    counts_RC: npt.NDArray[np.float64], wanted_C: Places, said_C: Places, labels: int
) -> npt.NDArray[np.float64]:
    """Macro F1 of every resample, [resamples]; R resamples, C cells (a label wanted, a label said), L labels."""
    wanted_RL = counts_RC @ _one_hot(wanted_C, labels)
    said_RL = counts_RC @ _one_hot(said_C, labels)
    right_RL = counts_RC @ _one_hot(np.where(wanted_C == said_C, wanted_C, -1), labels)
    both = wanted_RL + said_RL
    scores = np.divide(2 * right_RL, both, out=np.zeros_like(both), where=both > 0)
    present = wanted_RL > 0
    mean: npt.NDArray[np.float64] = (scores * present).sum(1) / np.maximum(present.sum(1), 1)
    return mean


def _one_hot(places: Places, labels: int) -> csr_matrix:
    rows = np.flatnonzero(places >= 0)
    return csr_matrix((np.ones(len(rows)), (rows, places[rows])), (len(places), labels))


def _places(test: TestRows, model: str, labels: Sequence[str]) -> tuple[Places, Places]:
    """Number of the label that was wanted, and of the one said; -1 for none."""
    place = {label: number for number, label in enumerate(labels)}
    wanted = np.array([place.get(row.output or "", -1) for row in test.rows])
    said = np.array([place.get(output or "", -1) for output in test.answers[model].outputs])
    return wanted, said
