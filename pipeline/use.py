"""The student at work: the same prompt and the same code as when it was judged."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..data.errors import BadInput
from ..data.pii import redacted
from ..data.rows import Answer, Failed
from ..data.teacher import Teacher
from .contenders import student_prompt, student_sampling
from .context import Run
from .run import artifacts

_AT_ONCE = 64


def student_folder(run: Run, name: str | None) -> tuple[str, Path]:
    """The chosen student's name and folder.

    Raises:
        BadInput: there is no such student, or it is not trained yet.
    """
    chosen = name or run.recipe.judged_student
    if chosen is None or chosen not in run.recipe.students:
        defined = ", ".join(run.recipe.students) or "none"
        raise BadInput(f"--student {chosen}: no such student; defined: {defined}")
    artifact = artifacts(run)[f"train:{chosen}"][1]
    manifest = artifact.manifest()
    if manifest is None:
        raise BadInput(f"student '{chosen}' is not trained yet; `understudy train {run.loaded.path}` does it")
    return chosen, artifact.folder / f"seed-{manifest['summary']['chosen']}"


def answers(run: Run, name: str | None, inputs: Iterable[str]) -> Iterator[tuple[str, str, float | None]]:
    """Each input with the student's answer and, for closed labels, how sure it is; in order, a few at a time.

    Raises:
        BadInput: an input cannot be answered; those before it were.
    """
    from ..teachers.transformers import TransformersTeacher

    chosen, folder = student_folder(run, name)
    model = TransformersTeacher(folder, batch=_AT_ONCE)
    source = enumerate(inputs, 1)
    try:
        while some := list(islice(source, _AT_ONCE)):
            read = [_private(run, number, given) for number, given in some]
            said = asyncio.run(_answer(run, chosen, model, read))
            for (number, given), answer in zip(some, said, strict=True):
                if isinstance(answer, Failed):
                    raise BadInput(f"input {number}: {answer.message}")
                sure = math.exp(answer.scores[answer.text]) if answer.scores is not None else None
                yield given, answer.text, sure
    finally:
        asyncio.run(model.close())


def _private(run: Run, number: int, given: str) -> str:
    """What the student reads of an input: it never saw personal data where the recipe keeps it away."""
    if not run.redacts:
        return given
    text, personal = redacted(given)
    if personal and run.recipe.task.pii == "reject":
        raise BadInput(f"input {number}: holds personal data ({', '.join(personal)}), and task.pii = reject; remove it")
    return text


async def _answer(run: Run, name: str, model: Teacher, inputs: Sequence[str]) -> list[Answer | Failed]:
    sampling = student_sampling(run.recipe.students[name])
    labels = list(run.recipe.labels)
    prompts = [student_prompt(str(number), text, labels) for number, text in enumerate(inputs)]
    return await asyncio.gather(*(model.answer(prompt, sampling) for prompt in prompts))
