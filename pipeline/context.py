"""What the stages of one run share: recipe, storage, ledger, teachers and the voice."""

from __future__ import annotations

import asyncio
import difflib
import platform
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data.errors import BadInput
from ..data.ledger import Ledger
from ..data.rows import Rejected, Source
from ..data.sources import read_pairs, read_unlabeled
from ..data.storage import Storage
from ..data.teacher import Teacher
from ..teachers.recorded import RecordedTeacher, Spend, spent_before
from ..teachers.table import TableRecipe
from ..teachers.transformers import TransformersTeacher
from ..teachers.vllm import VllmTeacher
from .ask import Labeler
from .executor import Executor, LocalExecutor
from .progress import Reporter
from .prompts import Template, load_template
from .recipe import JobRecipe, LoadedRecipe
from .scorers import check_references
from .strategies.writer import Writer


class Run:
    """One run of one recipe on one root. Teachers and ledger are made when first needed.

    Args:
        spend: money lent by a run elsewhere, which keeps the recipe's budget; absent: this run keeps it.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        storage: Storage,
        reporter: Reporter,
        executor: Executor | None = None,
        spend: Spend | None = None,
    ) -> None:
        self.loaded = loaded
        self.storage = storage
        self.reporter = reporter
        self.executor = executor or LocalExecutor()
        self.budget = loaded.recipe.budget if spend is None else None
        """The cap that this run keeps, counting what was paid before it."""
        self.spend = spend or Spend(cap=self.budget.usd if self.budget else None)
        self._plain: dict[str, Teacher] = {}
        self._teachers: dict[str, RecordedTeacher] = {}
        self._labeler: Labeler | None = None
        self._writer: Writer | None = None
        self._writing: dict[str, Template] = {}
        self._told: set[str] = set()
        self._opened: Ledger | None = None

    @property
    def recipe(self) -> JobRecipe:
        return self.loaded.recipe

    @property
    def folder(self) -> Path:
        """What paths in the recipe are relative to."""
        return self.loaded.folder

    @property
    def ledger(self) -> Ledger:
        if self._opened is None:
            self._opened = Ledger(self.storage)
            if self._opened.torn_bytes:
                self.reporter.say(
                    f"ledger: {self._opened.torn_bytes} bytes of an unfinished record set aside in ledger/torn"
                )
            if self._opened.damaged_records:
                self.reporter.say(f"ledger: {self._opened.damaged_records} damaged records skipped; asked again")
            if self.budget and self.budget.per != "invocation":
                self.spend.before = spent_before(self._opened, self.recipe.name, _start_of(self.budget.per))
        return self._opened

    def teacher(self, name: str) -> RecordedTeacher:
        """The teacher under a name, behind the ledger."""
        if name not in self._teachers:
            price = self.recipe.teachers[name].price
            self._teachers[name] = RecordedTeacher(
                self._built(name), self.ledger, self.spend, run=self.recipe.name, price=price
            )
        return self._teachers[name]

    def teacher_identity(self, name: str) -> dict[str, str]:
        """Who a teacher is, without loading it: part of the fingerprint of what it writes."""
        return self._built(name).identity

    def weights(self, name: str) -> tuple[Any, Any]:
        """Model and tokenizer of a teacher that runs in this process."""
        teacher = self._built(name)
        assert isinstance(teacher, TransformersTeacher), "the recipe lets no other teacher be cut from"
        return teacher.weights()

    def tokenizer(self, name: str) -> Any:
        """Tokenizer of a teacher that tells its tokens."""
        teacher = self._built(name)
        assert isinstance(teacher, TransformersTeacher | VllmTeacher), "the recipe learns tokens from no other teacher"
        return teacher.tokenizer()

    def window(self, name: str) -> int:
        """Prompts that a teacher takes at once."""
        return self.recipe.teachers[name].concurrency

    def take_notes(self) -> list[str]:
        """What endpoints did not do as asked since the last call."""
        notes: list[str] = []
        for teacher in self._plain.values():
            said: list[str] = getattr(teacher, "notes", [])
            notes += said
            said.clear()
        return notes

    def tell(self, notes: Iterable[str]) -> None:
        """Say each thing once in a run, whoever met it."""
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                self.reporter.say(f"  {note}")

    def _built(self, name: str) -> Teacher:
        if name not in self._plain:
            chosen = self.recipe.teachers[name]
            if isinstance(chosen, TableRecipe):  # a file of the user's own
                self._plain[name] = chosen.build(name, self.folder, pii=self.redacts)
            else:
                self._plain[name] = chosen.build(name, self.folder)
        return self._plain[name]

    @cached_property
    def label_template(self) -> Template:
        return load_template("label", self.recipe.prompts.label, self.folder)

    @cached_property
    def judge_template(self) -> Template:
        return load_template("judge", self.recipe.prompts.judge, self.folder)

    @cached_property
    def rubric_template(self) -> Template:
        return load_template("rubric", self.recipe.prompts.rubric, self.folder)

    def writing_template(self, kind: str) -> Template:
        """What a strategy of our own asks with."""
        if kind not in self._writing:
            name = "generate" if kind == "self-instruct" else kind
            self._writing[kind] = load_template(name, getattr(self.recipe.prompts, name), self.folder)
        return self._writing[kind]

    def writer(self) -> Writer:
        """What the generate stage asks with."""
        if self._writer is None:
            self._writer = Writer(self, self.teacher(self.recipe.teacher_of("generate")))
        return self._writer

    def labeler(self) -> Labeler:
        """What the label stage asks with, and evaluation after it."""
        if self._labeler is None:
            stage = self.recipe.label
            teacher = self.teacher(self.recipe.teacher_of("label"))
            self._labeler = Labeler(
                self.recipe, self.label_template, teacher, stage.sampling, stage.samples, stage.retries
            )
        return self._labeler

    def unlabeled(self, *columns: str) -> Iterator[Source]:
        """The user's own inputs, read anew at each call, without those that are rejected for personal data.

        Args:
            columns: what else to keep of each row.
        """
        return (source for source in self._unlabeled(*columns) if self._may_be_used(source))

    def personal(self) -> Iterator[Rejected]:
        """Inputs that are rejected for personal data; the evidence says its kinds and nothing else."""
        if self.recipe.task.pii == "reject":
            for source in self._unlabeled():
                if source.personal:
                    yield Rejected(source.id, "personal_data", ", ".join(source.personal))

    def _unlabeled(self, *columns: str) -> Iterator[Source]:
        task = self.recipe.task
        if task.unlabeled is not None:
            split, gold = self.recipe.split, bool(task.test)
            yield from read_unlabeled(task.unlabeled, self.folder, split, gold=gold, columns=columns, pii=self.redacts)

    @property
    def redacts(self) -> bool:
        """Whether personal data is looked for."""
        return self.recipe.task.pii != "off"

    def _may_be_used(self, source: Source) -> bool:
        return not (source.personal and self.recipe.task.pii == "reject")

    def pairs(self, path: str, key: str, **given: Any) -> list[Source]:
        """Rows by hand, as `read_pairs` reads them; of those with personal data none where they are rejected."""
        rows = read_pairs(path, self.folder, key, pii=self.redacts, **given)
        kept = [row for row in rows if self._may_be_used(row)]
        if len(kept) < len(rows):
            self.tell([f"{path}: {len(rows) - len(kept)} of {len(rows)} rows hold personal data and are left out"])
        return kept

    def gold(self) -> dict[str, list[Source]]:
        """Gold tests by name; where the task has labels, an output is one of them.

        Of a sheet that is not filled in yet, the rows that are.
        """
        tests: dict[str, list[Source]] = {}
        for name, path in self.recipe.task.test.items():
            key = f"task.test.{name}"
            columns = self.recipe.evaluate.slices
            rows = self.pairs(path, key, answered=True, side="test", columns=columns)
            check_labels(rows, self.recipe.labels, f"{key}: {path}")
            check_references(rows, self.recipe, f"{key}: {path}")
            tests[name] = [row for row in rows if row.output is not None]
            if not tests[name]:
                raise BadInput(f"{key}: {path}: none of {len(rows)} rows is labelled; fill in the column `output`")
            if len(tests[name]) < len(rows):
                self.tell([f"{path}: {len(tests[name])} of {len(rows)} rows are labelled; the others are left out"])
        return tests

    def rest(self) -> None:
        """Have teachers give back engines, workers and connections; whoever is asked again starts again."""

        async def close_teachers() -> None:
            for teacher in self._plain.values():
                await teacher.close()

        self.executor.close()
        asyncio.run(close_teachers())

    def close(self) -> None:
        """Give back what teachers hold, and close the ledger."""
        self.rest()
        if self._opened is not None:
            self._opened.close()


def _start_of(period: str) -> float:
    """When the period that a cap holds for began, in seconds since 1970."""
    if period == "run":
        return 0.0
    return datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


def check_labels(rows: Sequence[Source], labels: Collection[str], where: str) -> None:
    """Refuse an output that is not a label; anything goes where there are no labels.

    Raises:
        BadInput: it names the first such row and the nearest label.
    """
    for number, row in enumerate(rows, 1):
        if not labels or row.output is None or row.output in labels:
            continue
        near = difflib.get_close_matches(row.output, labels, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else "correct it, or add it to task.labels"
        raise BadInput(
            f"{where}: row {number}: the output '{row.output[:80]}' of '{' '.join(row.input.split())[:60]}' is not one "
            f"of the {len(labels)} labels; {remedy}"
        )


def versions() -> dict[str, str]:
    """What answers may depend on, for manifests; never part of an identity."""
    names = ("torch", "transformers", "trl", "pyarrow", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
