"""What a stage hands back to the runner: its shards, its count of rows, and what later stages and the report read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..data.errors import TooManyFailed
from .examples import Counts


@dataclass(frozen=True)
class Outcome:
    """What goes into the manifest of a finished stage."""

    shards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    counts: Counts | None = None
    summary: dict[str, Any] = field(default_factory=dict)


def refuse_too_many_failed(stage: str, counts: Counts, share: float) -> None:
    """Stop a stage whose teacher fails too often; everything answered is kept.

    Raises:
        TooManyFailed: more than ``share`` of the rows failed.
    """
    failed = counts.failed.total()
    if failed > share * counts.requested:
        classes = ", ".join(f"{kind} {n}" for kind, n in counts.failed.most_common())
        raise TooManyFailed(
            f"{stage}: {failed} of {counts.requested} rows failed ({classes}), more than max_failed = {share:g}; "
            "run again to ask them once more, or raise max_failed"
        )
