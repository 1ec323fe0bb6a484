"""Filters of rows: each is one small function from input and output to why the row is not kept.

A filter is a recipe that makes its function, so that what it needs is read and refused before the first row. What a
function returns is the evidence, shown beside the row; None keeps it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .config import Recipe, fault
from .duplicates import fold
from .errors import BadInput

Evidence = str | None
Check = Callable[[str, str], Evidence]
"""From input and output to what is wrong with them."""

Part = Literal["input", "output"]

_SHOWN = 80

_REFUSALS = re.compile(
    r"^\W*(i'?m (very )?sorry,? but (as an ai\b|i (can'?t|cannot|can not|am unable to|'?m unable to) "
    r"(help|assist|do that|provide|create|generate|write|answer|comply|fulfil|continue|share|discuss|engage))"
    r"|sorry,? (but )?i (can'?t|cannot) (help|assist|do that|provide|create|generate|write|comply|fulfil)"
    r"|i (can'?t|cannot|am unable to|am not able to|'?m not able to|won'?t) "
    r"(assist with|help (you )?with (that|this)|comply|fulfil|provide (that|this|assistance)|create (that|content)"
    r"|generate (that|content)|write (that|content)|answer (that|this))"
    r"|as an? (ai|artificial intelligence|(large )?language model)\b)"
)
_LEAST_LANGUAGE = 0.03
"""Probability of the wanted languages together below which a text is in another: 0.1% of short English requests are
below it, and of short German, French and Spanish ones nearly all."""

_FEWEST_FOR_LANGUAGE = 3
"""Words that tell a language."""

_RUN = 4
"""Words of a run that counts as repeated where it comes again."""


class Length(Recipe):
    """Too short or too long."""

    kind: Literal["length"]
    of: Part = "input"
    words: tuple[int, int] | None = None
    """Fewest and most."""
    characters: tuple[int, int] | None = None

    @field_validator("words", "characters", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _says_how_long(self) -> Length:
        if self.words is None and self.characters is None:
            raise ValueError("says neither `words` nor `characters`; add one, such as words: [3, 60]")
        for name, bounds in (("words", self.words), ("characters", self.characters)):
            if bounds and not 0 <= bounds[0] <= bounds[1]:
                raise fault(f"[{bounds[0]}, {bounds[1]}] holds no length; write the fewest, then the most", name)
        return self

    def build(self, folder: Path) -> Check:
        def check(given: str, said: str) -> Evidence:
            text = given if self.of == "input" else said
            for unit, bounds, count in (
                ("words", self.words, len(text.split())),
                ("characters", self.characters, len(text)),
            ):
                if bounds and not bounds[0] <= count <= bounds[1]:
                    return f"{count} {unit}: {text[:_SHOWN]}"
            return None

        return check


class Language(Recipe):
    """In another language than those wanted; a text of one or two words is kept."""

    kind: Literal["language"]
    only: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(min_length=1)
    """Languages by their ISO 639-1 codes: en, de, fr."""
    of: Part = "input"

    def build(self, folder: Path) -> Check:
        """A detector made for short texts; lingua was chosen over faster ones, which need sentences.

        Raises:
            BadInput: it is not installed, or has no such language.
        """
        try:
            from lingua import IsoCode639_1, LanguageDetectorBuilder
        except ImportError:
            raise BadInput("curate.filters: `language` needs lingua; `pip install 'understudy[language]'`") from None
        for code in self.only:
            if not hasattr(IsoCode639_1, code.upper()):
                raise BadInput(f"curate.filters: language '{code}' is not known; expected codes such as en or de")
        detector = LanguageDetectorBuilder.from_all_languages().build()

        def is_wanted(language: Any) -> bool:
            return language.iso_code_639_1.name.lower() in self.only

        def check(given: str, said: str) -> Evidence:
            text = given if self.of == "input" else said
            if len(text.split()) < _FEWEST_FOR_LANGUAGE:
                return None
            found = detector.compute_language_confidence_values(text)  # the likeliest first
            if sum(one.value for one in found if is_wanted(one.language)) >= _LEAST_LANGUAGE:
                return None
            return f"{found[0].language.iso_code_639_1.name.lower()}: {text[:_SHOWN]}"

        return check


class Refusal(Recipe):
    """The teacher declined: its output, or an input that it was to write, says so in the usual words."""

    kind: Literal["refusal"]

    def build(self, folder: Path) -> Check:
        def check(given: str, said: str) -> Evidence:
            for text in (given, said):
                if _REFUSALS.match(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
                    return text[:_SHOWN]
            return None

        return check


class Repetition(Recipe):
    """A text that goes round in circles, as models do that do not come to an end.

    Source: Rae et al. 2021, arXiv:2112.11446 (share of what is repeated), with runs of four words.
    """

    kind: Literal["repetition"]
    of: Part = "output"
    most: float = Field(0.3, gt=0, lt=1)
    """Share of the words that may stand in a run of four that came before."""

    def build(self, folder: Path) -> Check:
        def check(given: str, said: str) -> Evidence:
            text = given if self.of == "input" else said
            words = fold(text).split()
            seen: set[tuple[str, ...]] = set()
            again: set[int] = set()
            for start in range(len(words) - _RUN + 1):
                run = tuple(words[start : start + _RUN])
                if run in seen:
                    again.update(range(start, start + _RUN))
                seen.add(run)
            if len(again) <= self.most * len(words):
                return None
            return f"{100 * len(again) / len(words):.0f}% repeated: {text[:_SHOWN]}"

        return check


class Pattern(Recipe):
    """A regular expression that is found where it should not be, or the other way round."""

    kind: Literal["pattern"]
    of: Part = "output"
    must: str | None = None
    """What has to be found."""
    must_not: str | None = None
    """What may not be."""

    @field_validator("must", "must_not")
    @classmethod
    def _is_one(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}; mend it") from None
        return pattern

    @model_validator(mode="after")
    def _says_one(self) -> Pattern:
        if (self.must is None) == (self.must_not is None):
            raise ValueError("needs one of `must` and `must_not`")
        return self

    def build(self, folder: Path) -> Check:
        pattern = re.compile(self.must if self.must is not None else self.must_not or "")

        def check(given: str, said: str) -> Evidence:
            text = given if self.of == "input" else said
            found = pattern.search(text)
            if self.must is not None:
                return None if found else f"not found in: {text[:_SHOWN]}"
            return f"found: {found[0][:_SHOWN]}" if found else None

        return check


class Number(Recipe):
    """An output that is no number, or one out of bounds."""

    kind: Literal["number"]
    least: float | None = None
    most: float | None = None

    def build(self, folder: Path) -> Check:
        def check(given: str, said: str) -> Evidence:
            try:
                value = float(said.strip().replace(",", ""))
            except ValueError:
                return f"no number: {said[:_SHOWN]}"
            low, high = self.least is None or value >= self.least, self.most is None or value <= self.most
            return None if low and high else f"out of bounds: {value:g}"

        return check


class Function(Recipe):
    """A function of the user's own: from input and output to True, False, or a text that says what is wrong."""

    kind: Literal["function"]
    path: str = Field(pattern=r"^[^:]+\.py:[A-Za-z_]\w*$")
    """The file, relative to the recipe, and the function: checks.py:is_sound."""

    def file(self, folder: Path) -> Path:
        return folder / self.path.partition(":")[0]

    def build(self, folder: Path) -> Check:
        """The function, from its file.

        Raises:
            BadInput: there is no such file or function, or it fails; on a row too.
        """
        file, name = self.file(folder), self.path.rpartition(":")[2]
        names: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
        try:
            exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
        except OSError as error:
            raise BadInput(f"curate.filters: {file}: cannot be read: {error.strerror}; check the path") from None
        except Exception as error:
            raise BadInput(f"curate.filters: {file}: {type(error).__name__}: {error}; mend it") from None
        function = names.get(name)
        if not callable(function):
            raise BadInput(f"curate.filters: {file}: has no function '{name}'; add it, or correct the name")

        def check(given: str, said: str) -> Evidence:
            try:
                found = function(given, said)
            except Exception as error:
                place = f"{file}: {name}: {type(error).__name__}: {error}"
                raise BadInput(f"{place}, for the input '{' '.join(given.split())[:_SHOWN]}'; mend it") from None
            if found is True:
                return None
            if found is False:
                return f"{name} said False"
            if isinstance(found, str):
                return found[:160]
            raise BadInput(f"{file}: {name} returned {type(found).__name__}; expected True, False, or what is wrong")

        return check


AnyFilter = Annotated[
    Length | Language | Refusal | Repetition | Pattern | Number | Function, Field(discriminator="kind")
]


def built(filters: list[AnyFilter], folder: Path) -> Mapping[str, Check]:
    """The functions in order, each under the reason that a row is rejected with: the kind, numbered where it recurs."""
    checks: dict[str, Check] = {}
    seen: Counter[str] = Counter()
    for one in filters:
        seen[one.kind] += 1
        checks[one.kind if seen[one.kind] == 1 else f"{one.kind}-{seen[one.kind]}"] = one.build(folder)
    return checks
