"""Filters of rows: each is one small function from a row to why it is not kept.

A filter is a recipe that makes its function, so that what it needs is read and refused before the first row. What a
function returns is the evidence, shown beside the row; None keeps it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .config import Recipe, fault
from .contamination import words_of
from .errors import BadInput
from .numerals import last_number
from .refusals import declines
from .rows import Example

Evidence = str | None
Check = Callable[[Example], Evidence]
"""From a row to what is wrong with it."""

Part = Literal["input", "output"]

_SHOWN = 80

_LEAST_LANGUAGE = 0.01
"""Probability of the wanted languages together below which a text is in another."""

_NO_LANGUAGE = "zxx"
"""ISO 639's code for addresses, part numbers and the like."""

_FEWEST_FOR_LANGUAGE = 3
"""Words that tell a language."""

_RUN = 4
"""Words of a run that counts as repeated where it comes again."""

_RUN_OF_CHARACTERS = 8
"""The same in scripts without spaces, where four characters may be one word."""

_PATIENCE = 2.0
"""Seconds that a pattern may take with one row; a sound one takes microseconds."""


class _OfText(Recipe):
    """A filter that looks at one part of a row."""

    of: Part

    def text(self, row: Example) -> str:
        return row.input if self.of == "input" else row.output


class Length(_OfText):
    """Too short or too long."""

    kind: Literal["length"]
    of: Part = "input"
    words: tuple[int, int] | None = None
    """Fewest and most; in scripts that put no spaces between words each character is one."""
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
        def check(row: Example) -> Evidence:
            text = self.text(row)
            for unit, bounds, count in (
                ("words", self.words, len(words_of(text))),
                ("characters", self.characters, len(text)),
            ):
                if bounds and not bounds[0] <= count <= bounds[1]:
                    return f"{count} {unit}: {text[:_SHOWN]}"
            return None

        return check


class Language(_OfText):
    """In another language than those wanted; what has fewer than three words that tell one is kept.

    By py3langid. With a threshold that rejects 1 in 1,000 short English messages (3 to 12 words) it finds 92 to 99% of
    those in other languages, in three collections, at 20,000 a second in 160 MiB; lingua finds 72 to 86%, at 1,000 a
    second in 1.2 GiB, and fastText's small model 79 to 81%.
    """

    kind: Literal["language"]
    only: list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]] = Field(min_length=1)
    """Languages by their ISO 639 codes: en, de, fr, yue."""
    of: Part = "input"

    def build(self, folder: Path) -> Check:
        """Load what tells languages.

        Raises:
            BadInput: it is not installed, or does not know a language.
        """
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError:
            raise BadInput("curate.filters: `language` needs py3langid; `pip install 'understudy[language]'`") from None
        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        for code in self.only:
            if code not in identifier.labels:
                known = ", ".join(sorted(identifier.labels))
                raise BadInput(f"curate.filters: language '{code}' is not known; expected one of {known}")

        def check(row: Example) -> Evidence:
            text = self.text(row)
            if sum(any(map(str.isalpha, word)) for word in words_of(text)) < _FEWEST_FOR_LANGUAGE:
                return None
            found = dict(identifier.rank(text))  # the likeliest first
            likeliest = next(iter(found))
            if likeliest == _NO_LANGUAGE or sum(found[code] for code in self.only) >= _LEAST_LANGUAGE:
                return None
            return f"{likeliest}: {text[:_SHOWN]}"

        return check


class Refusal(Recipe):
    """The teacher declined, in the usual words: in its output, or in an input that it was to write.

    Inputs of people are left alone: they are sorry too.
    """

    kind: Literal["refusal"]

    def build(self, folder: Path) -> Check:
        def check(row: Example) -> Evidence:
            texts = (row.output,) if row.origin == "unlabeled" else (row.output, row.input)
            return next((text[:_SHOWN] for text in texts if declines(text)), None)

        return check


class Repetition(_OfText):
    """A text that goes round in circles, as models do that do not come to an end.

    Source: Rae et al. 2021, arXiv:2112.11446 (share of what is repeated), with runs of four words.
    """

    kind: Literal["repetition"]
    of: Part = "output"
    most: float = Field(0.5, gt=0, lt=1)
    """Share of the words that may stand in a run of four that came before; no message of banking77 or snips has more,
    and of gsm8k's solutions, which go step by step, 1 in 10,000 (at 0.3, 2 in 100)."""

    def build(self, folder: Path) -> Check:
        def check(row: Example) -> Evidence:
            words = words_of(self.text(row))
            spaced = sum(len(word) > 1 for word in words) >= len(words) / 2
            share = _repeated(words, _RUN if spaced else _RUN_OF_CHARACTERS)
            return f"{100 * share:.0f}% repeated: {self.text(row)[:_SHOWN]}" if share > self.most else None

        return check


def _repeated(words: Sequence[str], length: int) -> float:
    """Share of words that stand in a run of a length which came before."""
    seen: set[tuple[str, ...]] = set()
    again: set[int] = set()
    for start in range(len(words) - length + 1):
        run = tuple(words[start : start + length])
        if run in seen:
            again.update(range(start, start + length))
        seen.add(run)
    return len(again) / len(words) if words else 0.0


class Pattern(_OfText):
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
        import regex

        try:
            regex.compile(pattern or "")
        except regex.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}; mend it") from None
        return pattern

    @model_validator(mode="after")
    def _says_one(self) -> Pattern:
        if (self.must is None) == (self.must_not is None):
            raise ValueError("needs one of `must` and `must_not`")
        return self

    def build(self, folder: Path) -> Check:
        import regex

        pattern = regex.compile(self.must if self.must is not None else self.must_not or "")

        def check(row: Example) -> Evidence:
            text = self.text(row)
            try:
                found = pattern.search(text, timeout=_PATIENCE)
            except TimeoutError:
                place = f"curate.filters: pattern '{pattern.pattern}' takes over {_PATIENCE:g} s for row {row.id}"
                raise BadInput(f"{place}; write it without repeating what repeats itself") from None
            if self.must is not None:
                return None if found else f"not found in: {text[:_SHOWN]}"
            return f"found: {found[0][:_SHOWN]}" if found else None

        return check


class Number(Recipe):
    """An output without a number, or whose last one, which is the answer, is out of bounds."""

    kind: Literal["number"]
    least: float | None = None
    most: float | None = None

    def build(self, folder: Path) -> Check:
        def check(row: Example) -> Evidence:
            value = last_number(row.output)
            if value is None:
                return f"no number: {row.output[:_SHOWN]}"
            low, high = self.least is None or value >= self.least, self.most is None or value <= self.most
            return None if low and high else f"out of bounds: {value:g}"

        return check


class Function(Recipe):
    """A function of the user's own: from input and output to True, False, or a text that says what is wrong.

    Its file is part of what makes the rows; what it imports is not, so that is for installed packages.
    """

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
        function = getattr(_module(file), name, None)
        if not callable(function):
            raise BadInput(f"curate.filters: {file}: has no function '{name}'; add it, or correct the name")

        def check(row: Example) -> Evidence:
            try:
                found = function(row.input, row.output)
            except (Exception, SystemExit) as error:
                place = f"{file}: {name}: {type(error).__name__}: {error}"
                shown = " ".join(row.input.split())[:_SHOWN]
                raise BadInput(f"{place}, for row {row.id}, '{shown}'; mend it") from None
            if found is True:
                return None
            if found is False:
                return f"{name} said False"
            if isinstance(found, str):
                return found[:160]
            raise BadInput(f"{file}: {name} returned {type(found).__name__}; expected True, False, or what is wrong")

        return check


def _module(file: Path) -> ModuleType:
    """The user's file, run; it goes by a name of its own, so that it hides no module of that name."""
    module = ModuleType(f"understudy_function_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses look
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except OSError as error:
        raise BadInput(f"curate.filters: {file}: cannot be read: {error.strerror}; check the path") from None
    except (Exception, SystemExit) as error:
        raise BadInput(f"curate.filters: {file}: {type(error).__name__}: {error}; mend it") from None
    return module


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
