"""Stage: a teacher answers every input, the user's own and the written ones.

What an input was written for is not what it is: the labelling teacher decides, and where it differs is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ..data.artifact import Artifact
from ..data.errors import NotEnoughData
from ..data.rows import Example, Failed, Rejected, Source
from .context import Run
from .examples import ExampleWriter, read_sources
from .executor import ask_all
from .outcome import Outcome, refuse_too_many_failed

VERSION = 6

_PAIRS = 20
"""Of labels that the manifest lists."""


class AskLabel:
    """Label one source as the recipe says."""

    def teacher(self, run: Run) -> str:
        return run.recipe.teacher_of("label")

    async def __call__(self, run: Run, item: Source) -> Example | Rejected | Failed:
        return await run.labeler().label(item)


def label(run: Run, artifact: Artifact, generated: Artifact | None) -> Outcome:
    """One row for every input, in the inputs' order."""
    origins = {"generated": 0, "unlabeled": 0}
    for source in _sources(run, generated):
        origins[source.origin] += 1
    total = sum(origins.values())
    if total == 0:
        raise NotEnoughData("label: there is no input to label; every row of the input was empty")
    writer = ExampleWriter(artifact)
    asking = AskLabel()
    intent, agreement = Intent(), Agreement()

    def keep(source: Source, said: Example | Rejected | Failed) -> None:
        writer.add(said)
        intent.compare(source, said)
        agreement.add(said)

    ask_all(run, asking, lambda: _sources(run, generated), total, keep, title="label")
    for rejected in run.personal():
        writer.add(rejected)
    refuse_too_many_failed("label", writer.counts, run.recipe.max_failed)
    summary: dict[str, Any] = {"origins": origins, "teacher": run.teacher(asking.teacher(run)).name}
    summary |= {"written_for": intent.as_json(), "agreement": agreement.as_json()}
    return Outcome(writer.close(), writer.counts, summary)


@dataclass
class Agreement:
    """Which share of its answers the rows have for the one taken: how many rows, by share."""

    shares: Counter[float] = field(default_factory=Counter)

    def add(self, said: Example | Rejected | Failed) -> None:
        if isinstance(said, Example) and said.agreement is not None:
            self.shares[said.agreement] += 1

    def as_json(self) -> dict[str, Any] | None:
        """The mean, and rows by share, the largest first; None where each row has one answer."""
        if not self.shares:
            return None
        mean = sum(share * rows for share, rows in sorted(self.shares.items())) / self.shares.total()
        return {"mean": mean, "rows": {f"{share:.3f}": rows for share, rows in sorted(self.shares.items())[::-1]}}


@dataclass
class Intent:
    """How many inputs that were written for one label were given another: by strategy, and by pair of labels."""

    written: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def compare(self, source: Source, said: Example | Rejected | Failed) -> None:
        if source.origin != "generated" or source.output is None or not isinstance(said, Example):
            return
        self.written[source.strategy] += 1
        if said.output != source.output:
            self.other[source.strategy] += 1
            self.pairs[source.output, said.output] += 1

    def as_json(self) -> dict[str, Any]:
        """By strategy, and the most frequent pairs."""
        strategies = {name: {"rows": rows, "other": self.other[name]} for name, rows in sorted(self.written.items())}
        pairs = sorted(self.pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:_PAIRS]
        return {"strategies": strategies, "pairs": [[*pair, rows] for pair, rows in pairs]}


def _sources(run: Run, generated: Artifact | None) -> Iterator[Source]:
    written = read_sources(generated) if generated is not None else iter(())
    return chain(written, run.unlabeled())
