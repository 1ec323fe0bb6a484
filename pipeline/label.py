"""Stage: a teacher answers every input, the user's own and the written ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain

from ..data.artifact import Artifact
from ..data.errors import NotEnoughData
from ..data.rows import Failed, Source
from .ask import for_each
from .context import Run
from .examples import ExampleWriter, read_sources
from .outcome import Outcome, refuse_too_many_failed

VERSION = 1


def label(run: Run, artifact: Artifact, generated: Artifact | None) -> Outcome:
    """First fill the ledger in any order, then write the rows in theirs."""
    labeler = run.labeler()
    teacher_name = run.recipe.teacher_of("label")
    teacher = run.teacher(teacher_name)
    total = sum(1 for _ in _sources(run, generated))
    if total == 0:
        raise NotEnoughData("label: there is no input to label; every row of the input was empty")
    failed = 0

    with run.reporter.track("label", total) as tracker:

        async def fill(source: Source) -> None:
            nonlocal failed
            failed += isinstance(await labeler.label(source), Failed)
            spend = f"${run.spend.usd:.4f}" if run.spend.usd else ""
            tracker.advance(" ".join(part for part in (f"{failed} failed" if failed else "", spend) if part))

        asyncio.run(for_each(_sources(run, generated), fill, run.window(teacher_name)))

    writer = ExampleWriter(artifact)

    async def write() -> None:
        for source in _sources(run, generated):
            writer.add(await labeler.label(source))

    teacher.asking = False
    try:
        asyncio.run(write())
    finally:
        teacher.asking = True
    refuse_too_many_failed("label", writer.counts, run.recipe.max_failed)
    origins = {"generated": 0, "unlabeled": 0}
    for source in _sources(run, generated):
        origins[source.origin] += 1
    return Outcome(writer.close(), writer.counts, {"origins": origins, "teacher": teacher.name})


def _sources(run: Run, generated: Artifact | None) -> Iterator[Source]:
    written = read_sources(generated) if generated is not None else iter(())
    return chain(written, run.unlabeled())
