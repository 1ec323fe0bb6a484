"""Stage: a teacher writes inputs by the recipe's strategies, balanced over labels or other slices.

Candidate i is decided by the task, the seeds and passages, the templates, the strategies and i alone. Answers arrive in
any order and are decided on in order of i, block by block. `rows` counts accepted rows: a slice that is short is topped
up with its next candidates, and nothing more is asked for one that is full.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..data.artifact import Artifact
from ..data.documents import Passage, read_passages
from ..data.duplicates import Duplicates
from ..data.errors import NotEnoughData
from ..data.rows import Failed, Rejected, Source
from ..data.sides import side_of
from .context import Run, check_labels
from .examples import Counts, ExampleWriter
from .executor import ask_all
from .outcome import Outcome, refuse_too_many_failed
from .quotas import Quotas
from .strategies.candidate import Candidate
from .strategies.candidates import Candidates
from .strategies.kinds import Documents
from .strategies.shelf import Shelf
from .strategies.writer import Exchange, Overheard, Writer

VERSION = 5

Written = Source | Rejected | Failed


class AskCandidate:
    """Have one candidate written."""

    def teacher(self, run: Run) -> str:
        return run.recipe.teacher_of("generate")

    async def __call__(self, run: Run, item: Candidate) -> Written:
        return await run.writer()(item)


class AskAloud:
    """The same, and what was said on the way."""

    def teacher(self, run: Run) -> str:
        return run.recipe.teacher_of("generate")

    async def __call__(self, run: Run, item: Candidate) -> tuple[Written, list[Exchange]]:
        teacher = Overheard(run.teacher(self.teacher(run)))
        return await Writer(run, teacher)(item), teacher.exchanges


def read_seeds(run: Run) -> list[Source]:
    """The seeds with their sides; a seed's output must be a label where the task has labels."""
    task = run.recipe.task
    if task.seeds is None:
        return []
    read = run.pairs(task.seeds, "task.seeds", answered=False)
    check_labels(read, run.recipe.labels, f"task.seeds: {task.seeds}")
    seeds = []
    for seed in read:
        side = side_of(seed.root, run.recipe.split, gold=bool(task.test))
        seeds.append(Source(seed.id, seed.input, seed.root, side, "seed", seed.output))
    return seeds


def passages_of(run: Run) -> dict[int, list[Passage]]:
    """What the strategies that write from documents read, by the strategy's place."""
    stage = run.recipe.generate
    assert stage is not None
    return {
        place: read_passages(
            strategy.path, run.folder, f"generate.strategies.{place}.path", strategy.passage, pii=run.redacts
        )
        for place, strategy in enumerate(stage.strategies)
        if isinstance(strategy, Documents)
    }


def read_candidates(run: Run) -> Candidates:
    """What may be asked for, with all files read that it is made from."""
    recipe, stage = run.recipe, run.recipe.generate
    assert stage is not None
    shelf = Shelf(
        read_seeds(run),
        passages_of(run),
        list(recipe.labels),
        shown=stage.examples,
        split=recipe.split,
        gold=bool(recipe.task.test),
    )
    return Candidates(stage, shelf, recipe.balance)


def generate(run: Run, artifact: Artifact) -> Outcome:
    """Ask, accept in order, top up what is short."""
    stage = run.recipe.generate
    assert stage is not None
    candidates = read_candidates(run)
    intake = _Intake(run, artifact)
    while wanted := intake.quotas.next():
        block = candidates.take(wanted)
        asked = [candidate for _, candidate in block]
        slices = {candidate.number: name for name, candidate in block}
        decide = partial(intake.decide, slices)
        ask_all(run, AskCandidate(), partial(iter, asked), len(asked), decide, title="generate", unit="candidates")
        refuse_too_many_failed("generate", intake.writer.counts, run.recipe.max_failed)
    counts = intake.writer.counts
    if counts.accepted < stage.rows:
        short = intake.quotas.shortage()
        raise NotEnoughData(
            f"generate: {intake.quotas.asked} candidates gave {counts.accepted} of {stage.rows} rows ({counts})"
            f"{f': {short}' if short else ''}; add seeds, raise temperature or generate.ceiling, or ask for fewer rows"
        )
    return Outcome(intake.writer.close(), counts, intake.summary(run))


class _Intake:
    """Decides on what was written, in the order of candidates, until each slice has its rows."""

    def __init__(self, run: Run, artifact: Artifact) -> None:
        stage = run.recipe.generate
        assert stage is not None
        self.writer = ExampleWriter(artifact)
        self.quotas = Quotas(stage.rows, stage.shares(run.recipe.balance, list(run.recipe.labels)), stage.ceiling)
        self._yields: defaultdict[str, Counts] = defaultdict(Counts)
        self._known = Duplicates(run.recipe.curate.duplicates)
        for seed in read_seeds(run):
            self._known.seen(seed.id, seed.input)

    def decide(self, slices: Mapping[int, str], candidate: Candidate, said: Written) -> None:
        """Accept or reject; what comes when its slice is full stays in the ledger.

        Args:
            slices: by number of the candidate.
        """
        name = slices[candidate.number]
        if not self.quotas.missing(name):
            return
        if isinstance(said, Source) and (copy := self._known.seen(said.id, said.input)):
            said = Rejected(said.id, f"{copy[0]}_duplicate", f"of {copy[1]}: {said.input[:160]}")
        self.writer.add(said)
        self._yields[candidate.strategy].add(said)
        self.quotas.decide(name, isinstance(said, Source))

    def summary(self, run: Run) -> dict[str, Any]:
        """Each strategy's share and yield, the rows of each slice, and how many answers nobody needed."""
        stage = run.recipe.generate
        assert stage is not None
        shares = stage.shares("strategy", [])
        return {
            "strategies": {name: {"share": share, **self._yields[name].as_json()} for name, share in shares.items()},
            "balance": {"by": run.recipe.balance, "slices": self.quotas.as_json()},
            "surplus": self.quotas.asked - self.writer.counts.requested,
        }
