"""A few real prompts and real answers on screen, before anything is paid for many.

What is asked here is in the ledger afterwards, so a run that follows does not ask it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ..data.rows import Answer, Example, Failed, Message, Rejected, Source
from .context import Run
from .generate import AskAloud, Written, read_candidates

_LIKELIEST = 3
"""Labels whose probability is shown."""


@dataclass(frozen=True)
class Shown:
    """One exchange with a teacher, and what a stage makes of it."""

    stage: str
    messages: tuple[Message, ...]
    said: str
    read: str

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield f"--- {self.stage}"
        for message in self.messages:
            yield f"[{message.role}] {message.content}"
        yield f"[answer] {self.said}"
        yield f"=> {self.read}"


def preview(run: Run, rows: int) -> Iterator[Shown]:
    """Write and label the first rows of a run, one after the other.

    Raises:
        BadInput: a file or template cannot be used.
        TeacherUnreachable: the teacher cannot be asked.
    """
    if run.recipe.generate is not None:
        for exchanges, source in _written(run, rows):
            yield from exchanges
            if source is not None:
                yield _labelled(run, source)
    for source in islice(run.unlabeled(), rows):
        yield _labelled(run, source)


def _written(run: Run, rows: int) -> Iterator[tuple[list[Shown], Source | None]]:
    """The exchanges of each candidate, the last of which says what became of it."""
    candidates = read_candidates(run)
    for number in range(rows):
        candidate = candidates[number]
        row, exchanges = asyncio.run(AskAloud()(run, candidate))
        stage = f"generate: {candidate.strategy}"
        yield (
            [
                Shown(
                    stage, each.prompt.messages, _said(each.said), _became(row) if each is exchanges[-1] else "goes on"
                )
                for each in exchanges
            ],
            row if isinstance(row, Source) else None,
        )


def _became(row: Written) -> str:
    return row.input if isinstance(row, Source) else _lost(row)


def _said(answer: Answer | Failed) -> str:
    return answer.text if isinstance(answer, Answer) else ""


def _labelled(run: Run, source: Source) -> Shown:
    labeler = run.labeler()

    async def ask() -> tuple[Answer | Failed, Example | Rejected | Failed]:
        return await labeler.ask(source, 0), await labeler.label(source)

    answer, row = asyncio.run(ask())
    return Shown("label", labeler.prompt(source, 0).messages, _said(answer), _read(row))


def _read(row: Example | Rejected | Failed) -> str:
    if not isinstance(row, Example):
        return _lost(row)
    if not row.probs:
        return f"{row.output} ({row.evidence})"
    likeliest = sorted(row.probs.items(), key=lambda pair: -pair[1])[:_LIKELIEST]
    return f"{row.output} ({row.evidence}: {', '.join(f'{label} {share:.1%}' for label, share in likeliest)})"


def _lost(row: Rejected | Failed) -> str:
    if isinstance(row, Rejected):
        return f"rejected: {row.reason}"
    return f"failed: {row.kind}: {row.message}"
