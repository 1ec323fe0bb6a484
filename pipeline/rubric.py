"""A teacher as judge of single rows: how well an output fulfils a rubric, from 1 to 5.

One judgement is asked for, and drawn again only where it cannot be read: what counts is which rows stay, and an average
of several would cost as much as labelling them several times.
"""

from __future__ import annotations

from functools import partial

from ..data.rows import Example, Failed, Prompt, Rejected
from .ask import choose
from .config import RubricRecipe
from .context import Run

SCORES = ("1", "2", "3", "4", "5")


class AskRubric:
    """The score of a row."""

    def recipe(self, run: Run) -> RubricRecipe:
        judge = run.recipe.curate.judge
        assert judge is not None, "asked only where the recipe names a judge"
        return judge

    def teacher(self, run: Run) -> str:
        return self.recipe(run).teacher

    async def __call__(self, run: Run, item: Example) -> int | Rejected | Failed:
        teacher, recipe = run.teacher(self.teacher(run)), self.recipe(run)
        said = await choose(teacher, partial(self.prompt, run, item), recipe.max_tokens, "not_a_score")
        return int(said) if isinstance(said, str) else said

    def prompt(self, run: Run, item: Example, draw: int = 0) -> Prompt:
        """What the judge reads."""
        values = {
            "instruction": run.recipe.task.instruction,
            "rubric": self.recipe(run).rubric,
            "input": item.input,
            "output": item.output,
        }
        return Prompt(item.id, run.rubric_template.render(values), choices=SCORES, sample=draw)
