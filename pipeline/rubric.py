"""A teacher as judge of single rows: how well an output fulfils a rubric, from 1 to 5.

One judgement is asked for, and drawn again only where it cannot be read: what counts is which rows stay, and an average
of several would cost as much as labelling them several times.
"""

from __future__ import annotations

from ..data.rows import Example, Failed, Prompt, Rejected
from ..data.teacher import Sampling
from .config import RubricRecipe
from .context import Run
from .parse import read_label

SCORES = ("1", "2", "3", "4", "5")

_DRAWS = 3


class AskRubric:
    """The score of a row."""

    def recipe(self, run: Run) -> RubricRecipe:
        judge = run.recipe.curate.judge
        assert judge is not None, "asked only where the recipe names a judge"
        return judge

    def teacher(self, run: Run) -> str:
        return self.recipe(run).teacher

    async def __call__(self, run: Run, item: Example) -> int | Rejected | Failed:
        said = ""
        for draw in range(_DRAWS):
            # a repeated greedy draw would repeat its fault
            sampling = Sampling(temperature=0.7 if draw else 0.0, max_tokens=self.recipe(run).max_tokens)
            answer = await run.teacher(self.teacher(run)).answer(self.prompt(run, item, draw), sampling)
            if isinstance(answer, Failed):
                return answer
            if score := read_label(answer.text, SCORES):
                return int(score)
            said = said or answer.text
        return Rejected(item.id, "not_a_score", said[:200])

    def prompt(self, run: Run, item: Example, draw: int = 0) -> Prompt:
        """What the judge reads."""
        values = {
            "instruction": run.recipe.task.instruction,
            "rubric": self.recipe(run).rubric,
            "input": item.input,
            "output": item.output,
        }
        return Prompt(item.id, run.rubric_template.render(values), choices=SCORES, sample=draw)
