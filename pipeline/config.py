"""What each stage reads of the recipe, in the order of a run; what two of them say together is judged in `recipe`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ..data.config import Recipe, fault
from ..data.duplicates import DuplicateRecipe
from ..data.filters import AnyFilter
from ..data.teacher import Sampling
from .strategies.kinds import Attributes, Contrast, Documents, Evolve, SelfInstruct
from .strategies.tasks import ClassificationData, EvolInstruct, Magpie

AnyStrategy = Annotated[
    SelfInstruct | Attributes | Evolve | Contrast | Documents | Magpie | EvolInstruct | ClassificationData,
    Field(discriminator="kind"),
]


_URL = re.compile(r"[a-z][a-z0-9+.-]*://.")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FORBIDS = re.compile(r"(^|[^a-z])(nd|no[ -]?(deriv|train)\w*|no[ -]?ai)([^a-z]|$)")


class Prompts(Recipe):
    """Templates in the place of the packaged ones; each a file."""

    label: str | None = None
    """What the labelling teacher reads."""

    generate: str | None = None
    """What the writing teacher reads, by the strategy self-instruct."""

    attributes: str | None = None
    evolve: str | None = None
    contrast: str | None = None
    documents: str | None = None
    """By those strategies."""

    judge: str | None = None
    """What a judging teacher reads."""

    rubric: str | None = None
    """What a teacher reads that scores rows."""


class GenerateStage(Recipe):
    """A teacher writes inputs from seeds and documents, balanced over the labels."""

    teacher: str | None = None
    """Name under `teachers:`; may be left out where there is one."""

    rows: int = Field(gt=0)
    """Rows wanted after rejection."""

    strategies: list[AnyStrategy] = Field([SelfInstruct()], min_length=1)
    """How inputs come to be written, mixed by weight."""

    balance: str | None = None
    """What accepted rows are balanced by: `label` (the default where the task has labels), `strategy` (by weight), or
    an attribute that all strategies have."""

    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int = Field(256, gt=0)
    examples: int = Field(3, ge=0)
    """Seeds of the same side and label shown in a prompt."""

    ceiling: float = Field(5.0, ge=1)
    """Candidates asked for at most, as a multiple of `rows`; of each slice that is balanced likewise."""

    @cached_property
    def names(self) -> list[str]:
        """Of the strategies: the kind, and a number from the second of a kind on."""
        seen: Counter[str] = Counter()
        names = []
        for strategy in self.strategies:
            seen[strategy.kind] += 1
            names.append(strategy.kind if seen[strategy.kind] == 1 else f"{strategy.kind}-{seen[strategy.kind]}")
        return names

    def shares(self, by: str, labels: Sequence[str]) -> dict[str, float]:
        """What each slice has of the rows, where they are balanced by something; one slice where by nothing."""
        if by == "label":
            return dict.fromkeys(labels, 1 / len(labels))
        if by == "strategy":
            total = sum(strategy.weight for strategy in self.strategies)
            return {name: one.weight / total for name, one in zip(self.names, self.strategies, strict=True)}
        values = self.values_of(by) if by else [""]
        return dict.fromkeys(values, 1 / len(values))

    def values_of(self, attribute: str) -> list[str]:
        """The values of an attribute that all strategies share; none where they do not."""
        having = [one.attributes.get(attribute, []) if isinstance(one, Attributes) else [] for one in self.strategies]
        return having[0] if all(set(values) == set(having[0]) for values in having) else []


class LabelStage(Recipe):
    """A teacher answers every input."""

    teacher: str | None = None
    samples: int = Field(1, ge=1, le=64)
    """Answers drawn per input; with several, the most frequent one is taken."""

    temperature: float = Field(0.0, ge=0, le=2)
    max_tokens: int = Field(512, gt=0)
    logprobs: int = Field(0, ge=0, le=20)
    """Alternatives per token; with closed labels they become the teacher's probabilities."""

    keys: bool = False
    """Closed labels, at most 20: have a letter answered in place of the label, so that the alternatives of one token
    hold the probability of every label at any endpoint."""

    retries: int = Field(2, ge=0)
    """Further draws for an answer that cannot be used."""

    @model_validator(mode="after")
    def _greedy_draws_once(self) -> LabelStage:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"temperature = 0 gives the same answer {self.samples} times; set samples = 1, or a temperature above 0"
            )
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens, logprobs=self.logprobs)


class Decontaminate(Recipe):
    """What rows are compared with, so that nothing is learnt from a test: its gold tests, the test side, and files."""

    files: list[str] = Field(default_factory=list)
    """Benchmarks of others, each a file or pattern with a column `input` or `text`."""


class MeaningRecipe(Recipe):
    """Copies by meaning, beside those by wording."""

    model: str = Field(min_length=1)
    """A sentence model: a folder, relative to the recipe, or a hub id."""

    revision: str = "main"

    similarity: float = Field(0.95, gt=0, le=1)
    """Cosine from which two rows count as copies; what it should be, the model decides: look at what is rejected."""


class RubricRecipe(Recipe):
    """A teacher that scores rows."""

    teacher: str
    """Its name under `teachers`."""

    rubric: str = Field(min_length=1)
    """What a good output is, in the words that the judge reads."""

    minimum: int = Field(4, ge=2, le=5)
    """The lowest score, of 1 to 5, with which a row is kept."""

    max_tokens: int = Field(512, gt=0)
    """Of an answer; a model that thinks before it says its number needs more."""


class CurateStage(Recipe):
    """Which labelled rows a student may learn from."""

    filters: list[AnyFilter] = Field(default_factory=list)
    """Checks of single rows, in order."""

    agreement: float | None = Field(None, gt=0, le=1)
    """Least share of label.samples that say the answer that was taken: the same label, an equal JSON object, or the
    same words."""

    decontaminate: Decontaminate | None = Decontaminate()
    """null compares with nothing but copies of test rows."""

    duplicates: DuplicateRecipe = DuplicateRecipe()

    meaning: MeaningRecipe | None = None
    """Compares embeddings too."""

    judge: RubricRecipe | None = None
    """Asked about what all else leaves."""


class EvaluateStage(Recipe):
    """How the student is judged."""

    margin: float = Field(2.0, gt=0, le=100)
    """Points (of 100) by which the student may be worse than the teacher."""

    student: str | None = None
    """Whose verdict it is; by default the first student."""

    slices: list[str] = Field(default_factory=list)
    """Columns of the test's file, or of `unlabeled`, by which scores are told apart too."""

    second_opinions: int = Field(300, ge=0)
    """Rows of a gold test that the teacher is asked twice, to see how often it agrees with itself."""

    judge: str | None = None
    """Who scores free text where task.scorer is judge, by its name under `teachers`."""

    usd_per_hour: float | None = Field(None, gt=0)
    """Dollars an hour of the machine that will run the student, to reckon what its answers cost."""

    curve: bool = False
    """Train the judged student on parts of the rows too, and on a few by heart: what more rows are worth, and whether
    the student has room for them. About as much training again, where it is short twice as much."""


class PublishStage(Recipe):
    """Where the dataset and the student go; without this section nothing leaves this machine."""

    dataset: str | None = None
    """`org/name` on a hub, or a URL such as s3://bucket/prefix."""

    model: str | None = None
    """The same for the judged student."""

    private: bool = True
    """Of a repository that is made for it; one that is there stays as it is."""

    when: Literal["pass", "always"] = "pass"
    """The student is published where it passed, or whatever the verdict."""

    license: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    """What it is published under, as the hub spells licences: apache-2.0, cc-by-4.0, other."""

    sources: dict[str, str] = Field(default_factory=dict)
    """Licences of what it was made from, by name: they stand on the card."""

    terms: str | None = None
    """What else holds for whoever uses it, such as the terms of the teacher's provider."""

    @field_validator("dataset", "model")
    @classmethod
    def _can_be_published_to(cls, place: str | None) -> str | None:
        if place is None or _URL.match(place):
            return place
        if not _REPOSITORY.fullmatch(place) or ".." in place or "--" in place or place.endswith(".git"):
            found = f"'{place}' is neither a repository of a hub nor a URL"
            raise ValueError(f"{found}; expected org/name of letters, digits, '-', '_' and '.', or s3://bucket/prefix")
        return place

    @field_validator("sources")
    @classmethod
    def _may_be_learnt_from(cls, sources: dict[str, str]) -> dict[str, str]:
        for name, licence in sources.items():
            if _FORBIDS.search(licence.lower()):
                raise fault(
                    f"licence '{licence}' forbids works derived from it, which labels and students are; leave the "
                    "source out, or write the licence that you were given",
                    name,
                )
        return sources

    @model_validator(mode="after")
    def _something_goes_somewhere(self) -> PublishStage:
        if self.dataset is None and self.model is None:
            raise ValueError("names neither `dataset` nor `model`, so there is nothing to publish; add one")
        if self.dataset == self.model and self.dataset and "://" in self.dataset:
            raise fault("is the place of the dataset too; choose another", "model")
        if self.license == "other" and not self.terms:
            raise fault(
                "is missing, and `license: other` says nothing; write which licence, and where it stands", "terms"
            )
        return self


class Budget(Recipe):
    """A hard cap on what is paid to teachers."""

    usd: float = Field(gt=0)
    per: Literal["run", "invocation", "month"] = "run"
    """What the cap holds for: all that this recipe's name ever paid, one command, or a calendar month (UTC)."""
