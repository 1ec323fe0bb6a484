"""What the judged student would say without any training: the model it began as, shown a few of the same rows.

Only a model that was trained before can be shown anything. The prompt is one turn, with the instruction first and the
examples as the label template words them, so that a model without a chat template reads it too.
Source: Brown et al. 2020, arXiv:2005.14165.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..data.artifact import Artifact
from ..data.fingerprint import fraction
from ..data.rows import Example, Failed, Message, Prompt, Source
from ..data.teacher import Sampling
from ..students.config import Hub
from ..teachers.transformers import TransformersTeacher
from .ask import label_values
from .contenders import ask_model, student_sampling
from .context import Run
from .examples import read_examples
from .table import FEW_SHOT, ModelFacts, TestRows
from .train import begun_from

EXAMPLES = 8
"""Rows that are shown; half as many, again and again, while they leave no room for the longest message."""


def ask_few_shot(run: Run, curated: Artifact, tests: Sequence[TestRows]) -> dict[str, ModelFacts]:
    """The model that the judged student began as answers every test; nothing where it began as none."""
    name = run.recipe.judged_student
    init = run.recipe.students[name].init if name else None
    if name is None or not isinstance(init, Hub) or not tests[0].rows:
        return {}
    model, sampling = begun_from(run, init), student_sampling(run.recipe.students[name])
    shown = _chosen(list(read_examples(curated, "train")))
    longest = max((row for test in tests for row in test.rows), key=lambda row: len(row.input))
    while shown and not _fits(model, _asked(run, shown)(longest), sampling):
        shown = shown[: len(shown) // 2]
    run.reporter.say(f"  {FEW_SHOT}: {init.model} is shown {len(shown)} rows")
    facts = ModelFacts("baseline")
    ask_model(run, model, _asked(run, shown), sampling, FEW_SHOT, tests, facts)
    return {FEW_SHOT: facts}


def _chosen(rows: Sequence[Example]) -> list[Example]:
    """Rows to show, of as many outputs as there are, by an order that nothing else decides."""
    order = sorted(rows, key=lambda row: fraction("shown", row.id))
    seen: set[str] = set()
    first = [row for row in order if not (row.output in seen or seen.add(row.output))]  # type: ignore[func-returns-value]
    return [*first, *(row for row in order if row not in first)][:EXAMPLES]


def _asked(run: Run, shown: Sequence[Example]) -> Callable[[Source], Prompt]:
    labels = tuple(run.recipe.labels)

    def turns(text: str) -> tuple[str, str]:
        *before, last = run.label_template.render(label_values(run.recipe, text))
        return "\n\n".join(message.content for message in before), last.content

    def asked(row: Source) -> Prompt:
        instruction, last = turns(row.input)
        parts = [f"{turns(example.input)[1]}\nAnswer:\n{example.output}" for example in shown]
        text = "\n\n".join(filter(None, [instruction, *parts, f"{last}\nAnswer:\n"]))
        return Prompt(row.id, (Message("user", text),), choices=labels)

    return asked


def _fits(model: TransformersTeacher, prompt: Prompt, sampling: Sampling) -> bool:
    """Whether the model's context holds a prompt and its answer."""
    said = asyncio.run(model.answer(prompt, sampling))
    return not isinstance(said, Failed)
