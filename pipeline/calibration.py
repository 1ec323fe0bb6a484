"""Whether a model is right as often as it says it is sure."""

from __future__ import annotations

from typing import Any

import numpy as np

from .table import TestRows

BINS = 10
"""Bins with equally many rows: of the same width, most would be empty."""

_FEWEST = 50
"""Rows under which a diagram shows chance."""


def calibration(test: TestRows, model: str) -> dict[str, Any] | None:
    """Reliability by bin of confidence, lowest first; None where the model does not say how sure it is.

    Returns:
        ``error``: mean distance of confidence and share right over the bins, in points (expected calibration error);
        ``brier``: mean squared error of the confidence; ``bins``: confidence, share right and rows of each.
    Source: Guo et al. 2017, arXiv:1706.04599; equal-mass bins: Nixon et al. 2019, arXiv:1904.01685.
    """
    sure = np.array([np.nan if value is None else value for value in test.answers[model].confidence], dtype=float)
    known = ~np.isnan(sure)
    if known.sum() < _FEWEST:
        return None
    sure, right = sure[known], test.scores(model)[known]
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    bins = [
        {"confidence": 100 * float(sure[part].mean()), "right": 100 * float(right[part].mean()), "rows": len(part)}
        for part in parts
    ]
    error = sum(part["rows"] * abs(part["confidence"] - part["right"]) for part in bins) / len(sure)
    return {"error": error, "brier": float(((sure - right) ** 2).mean()), "bins": bins}
