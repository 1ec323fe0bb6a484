"""What is new since the last run of a job that came to its end: rows, the mix of labels, agreement, and money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..data.artifact import Artifact
from ..data.storage import Storage
from .context import Run

_TOLD = 3
"""Labels whose share moved most, in the line."""


@dataclass(frozen=True)
class Change:
    """Between the rows of two runs."""

    before: int
    now: int
    new: int
    gone: int
    relabelled: int
    """Rows of both runs that have another output."""
    labels: dict[str, tuple[float, float]]
    """Share of each closed label before and now, in percent."""
    requests: int
    usd: float
    """Of the run that brought them."""

    @property
    def rows(self) -> int:
        """How many are not what they were."""
        return self.new + self.gone + self.relabelled

    def line(self) -> str:
        """For a terminal."""
        both = self.now - self.new
        same = f"{both - self.relabelled:,} of {both:,} rows in both have the same output" if both else "none in both"
        said = [f"{self.now:,} rows, {self.before:,} before: {self.new:,} new, {self.gone:,} gone", same]
        moved = sorted(self.labels.items(), key=lambda item: -abs(item[1][1] - item[1][0]))[:_TOLD]
        if told := [f"{label} {now:.1f}% ({now - was:+.1f})" for label, (was, now) in moved if round(now - was, 1)]:
            said.append(f"labels {', '.join(told)}")
        paid = f", ${self.usd:.4f}" if self.usd else ""
        said.append(f"{self.requests:,} asked{paid}")
        return "; ".join(said)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def learnt_from(storage: Storage, trained: str) -> str | None:
    """The folder of the curated rows that a student was trained on; None of what is no finished student."""
    stage, _, made = trained.rpartition("/")[2].rpartition("-")
    manifest = Artifact(storage, stage, made).manifest() if stage == "train" else None
    return None if manifest is None else Artifact(storage, "curate", manifest["inputs"]["curate"]).path


def still_good(run: Run, trained: str, curated: Artifact, when: int) -> bool:
    """Whether fewer rows than ``when`` are others than those that a student learnt from."""
    rows = learnt_from(run.storage, trained)
    if rows is None or curated.manifest() is None:
        return False
    change = changed(run, Artifact(run.storage, "curate", rows.rpartition("-")[2]), curated)
    return change is not None and change.rows < when


def changed(run: Run, before: Artifact, now: Artifact) -> Change | None:
    """What the curated rows of a run have that those of an earlier one had not; None where these are cleared away."""
    if before.path == now.path or before.manifest() is None:
        return None
    old, new = _outputs(before), _outputs(now)
    both = old.keys() & new.keys()
    return Change(
        before=len(old),
        now=len(new),
        new=len(new) - len(both),
        gone=len(old) - len(both),
        relabelled=sum(old[row] != new[row] for row in both),
        labels=_shares(run, old, new),
        requests=run.spend.requests,
        usd=run.spend.usd,
    )


def _outputs(curated: Artifact) -> dict[str, str]:
    return {row["id"]: row["completion"] for row in curated.rows("default")}


def _shares(run: Run, old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    counts = [Counter(rows.values()) for rows in (old, new)]
    return {
        label: (
            100 * counts[0][label] / max(1, len(old)),
            100 * counts[1][label] / max(1, len(new)),
        )
        for label in run.recipe.labels
    }
