"""Stage: which labelled rows a student may learn from.

Exact and near duplicates go, the first of its kind staying. Rows are looked at side by side, test first, so a training
row that repeats one held out, or a gold test row, is the one that is dropped: nothing that is judged on is learnt from.
"""

from __future__ import annotations

from collections import Counter

from ..data.artifact import Artifact
from ..data.duplicates import Duplicates
from ..data.errors import NotEnoughData
from ..data.rows import Example, Rejected, Side
from .context import Run
from .examples import ExampleWriter, read_examples
from .outcome import Outcome

VERSION = 3

_ORDER: tuple[Side, ...] = ("test", "validation", "calibration", "train")


def curate(run: Run, artifact: Artifact, labelled: Artifact) -> Outcome:
    """Drop what repeats; refuse a training side that is empty."""
    known = Duplicates(run.recipe.curate.duplicates)
    for name, rows in run.gold().items():
        for judged in rows:
            known.seen(f"gold/{name}/{judged.id}", judged.input)
    writer = ExampleWriter(artifact)
    sides: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    manifest = labelled.manifest()
    assert manifest is not None
    with run.reporter.track("curate", manifest["rows"]["accepted"]) as tracker:
        for side in _ORDER:
            for row in read_examples(labelled, side):
                kept = _decide(row, known)
                writer.add(kept)
                tracker.advance()
                if isinstance(kept, Example):
                    sides[side] += 1
                    outputs[row.output] += 1
    if sides["train"] == 0:
        raise NotEnoughData(f"curate: no row is left to train on ({writer.counts}); add inputs, or loosen curate")
    mix = dict(outputs.most_common(200)) if run.recipe.labels else {}
    return Outcome(writer.close(), writer.counts, {"sides": dict(sides), "labels": mix})


def _decide(row: Example, known: Duplicates) -> Example | Rejected:
    copy = known.seen(f"{row.side}/{row.id}", row.input)
    if copy is None:
        return row
    kind, other = copy
    side = other.partition("/")[0]
    reason = f"{kind}_duplicate" if side == row.side else f"{kind}_duplicate_of_{side}"
    return Rejected(row.id, reason, f"of {other}: {row.input[:160]}")
