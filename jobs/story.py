"""What the demo tells when it is done: what the student costs against its teacher, and what to do next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.rows import Prompt
from ..data.teacher import Sampling
from ..pipeline.contenders import student_prompt
from ..pipeline.context import Run
from ..pipeline.proof import make_report
from ..pipeline.run import artifacts
from ..pipeline.use import answers, student_folder

_MESSAGES = (
    "hi, my parcel says delivered but there is nothing at my door??",
    "I'd like my money back for the toaster please",
    "The app closes itself every time I open the basket.",
    "you people are great, thank you so much",
)
_TIMED = 128
"""Messages of one timing."""
_ROUNDS = 3
"""Timings of each model, in turn; the best of them counts, for what else runs on the machine only slows."""


def tell(run: Run) -> None:
    """Print sizes, speed on one core, a few answers, and the next step."""
    from ..teachers.transformers import TransformersTeacher

    say = run.reporter.say
    name, folder = student_folder(run, None)
    labeler = run.labeler()
    rows = next(iter(run.gold().values()))[:_TIMED]
    teacher = labeler.teacher.teacher if hasattr(labeler.teacher, "teacher") else labeler.teacher
    student = TransformersTeacher(folder, batch=64)
    labels = list(run.recipe.labels)
    sides = (
        (student, [student_prompt(row.id, row.input, labels) for row in rows]),
        (teacher, [labeler.prompt(row, 0) for row in rows]),
    )
    rounds = [[_per_second(model, prompts, labeler.sampling) for model, prompts in sides] for _ in range(_ROUNDS)]
    fast, slow = map(max, zip(*rounds, strict=True))
    models = make_report(run, _manifests(run))["models"]
    smaller = models["teacher"]["parameters"] / models[name]["parameters"]
    say("")
    say(f"the student has {smaller:.1f} times fewer parameters and answers {fast / slow:.1f} times as many messages")
    say(f"on one core ({fast:.0f} against {slow:.0f} a second)")
    say("")
    for given, said, sure in answers(run, None, _MESSAGES):
        say(f"  {given:<66} -> {said} ({sure:.0%})" if sure is not None else f"  {given:<66} -> {said}")
    say("")
    say("next: understudy answer " + _shown(run.loaded.path) + ' "where is my order"')
    say("      understudy init tickets --from tickets.csv    your own messages, your own endpoint")


def _manifests(run: Run) -> dict[str, Any]:
    return {key: artifact.manifest() for key, (_, artifact) in artifacts(run).items()}


def _per_second(model: Any, prompts: Sequence[Prompt], sampling: Sampling) -> float:
    """Messages a second, in batches, on one core and past the ledger."""
    import torch

    async def ask() -> float:
        await asyncio.gather(*(model.answer(prompt, sampling) for prompt in prompts[:64]))  # loads it, and warms up
        started = time.perf_counter()
        await asyncio.gather(*(model.answer(prompt, sampling) for prompt in prompts))
        taken = time.perf_counter() - started
        await model.close()
        return len(prompts) / taken

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return asyncio.run(ask())
    finally:
        torch.set_num_threads(threads)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
