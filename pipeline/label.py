"""Stage: a teacher answers every input, the user's own and the written ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from ..data.artifact import Artifact
from ..data.errors import NotEnoughData
from ..data.rows import Example, Failed, Rejected, Source
from .context import Run
from .examples import ExampleWriter, read_sources
from .executor import ask_all
from .outcome import Outcome, refuse_too_many_failed

VERSION = 2


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
    ask_all(run, asking, lambda: _sources(run, generated), total, lambda _, said: writer.add(said), title="label")
    refuse_too_many_failed("label", writer.counts, run.recipe.max_failed)
    name = run.teacher(asking.teacher(run)).name
    return Outcome(writer.close(), writer.counts, {"origins": origins, "teacher": name})


def _sources(run: Run, generated: Artifact | None) -> Iterator[Source]:
    written = read_sources(generated) if generated is not None else iter(())
    return chain(written, run.unlabeled())
