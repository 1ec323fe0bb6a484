"""What a recipe may say of its task: one label of a closed set, a JSON object by a schema, or free text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from ..data.config import Recipe, fault, plain
from ..data.fingerprint import canonical
from ..data.sources import Unlabeled


class _Task(Recipe):
    instruction: str = Field(min_length=1)
    """What is asked of the teacher, and of the student in its place."""

    seeds: str | None = None
    """File of {input, output?} by hand; they show a teacher what to write."""

    unlabeled: Unlabeled | None = None
    """Inputs to be labelled: a path, or a mapping that says which columns to read."""

    test: dict[str, str] = Field(default_factory=dict)
    """Gold tests by name, each a file of {input, output}; the first one is the verdict's."""

    turns: int = Field(1, ge=1, le=21)
    """Messages of an input that a teacher writes: user and assistant by turns, the user first and last."""

    pii: Literal["off", "redact", "reject"] = "off"
    """E-mail addresses, telephone, account, card and national numbers and IP addresses in files before a prompt leaves
    this process, in what teachers say, and in what a student reads: put placeholders in their place, or do without
    such rows; passages of documents have placeholders either way. Names and street addresses are not found."""

    @field_validator("turns")
    @classmethod
    def _the_user_has_the_last_word(cls, turns: int) -> int:
        if turns % 2 == 0:
            raise ValueError(f"{turns} messages end with the assistant's, and nothing is asked; use {turns + 1}")
        return turns

    @field_validator("unlabeled", mode="before")
    @classmethod
    def _a_path_alone_will_do(cls, value: Any) -> Any:
        return {"path": str(value)} if isinstance(value, str) else value

    @field_validator("test")
    @classmethod
    def _held_out_is_taken(cls, tests: dict[str, str]) -> dict[str, str]:
        if "held_out" in tests:
            raise fault("names the rows held out of the inputs; choose another name", "held_out")
        return tests


class Classify(_Task):
    """One label out of a closed set."""

    kind: Literal["classify"]

    labels: dict[str, str]
    """The labels, as a list or with a definition each, which the teacher reads."""

    @field_validator("labels", mode="before")
    @classmethod
    def _a_list_will_do(cls, value: Any) -> Any:
        if isinstance(value, str) or not isinstance(value, Sequence | Mapping):
            raise ValueError("expected a list of labels, or a mapping from labels to what each means")
        meanings = value if isinstance(value, Mapping) else {}
        labels: dict[str, Any] = {}
        for place, label in enumerate(value):
            if not isinstance(label, str):
                shown = canonical(plain(label)) if isinstance(label, bool | int | float | None) else str(label)
                said = f"label {shown} is not text; put it in quotes: '{shown}'"
                raise fault(said, shown if meanings else place)
            if label in labels:
                raise fault(f"label '{label}' is given twice; a label may be given once: remove one", place)
            meaning = meanings.get(label)
            labels[label] = "" if meaning is None else meaning
        return labels

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: dict[str, str]) -> dict[str, str]:
        if len(labels) < 2:
            raise ValueError(f"{len(labels)} label given; a choice needs at least 2")
        seen: dict[str, str] = {}
        for label in labels:
            if not label.strip():
                raise ValueError("a label is empty; give it a name, or remove it")
            if label != label.strip() or len(label.splitlines()) > 1:
                raise ValueError(f"label {label!r} has space around it or several lines; write it as one word or line")
            if (other := seen.setdefault(label.casefold(), label)) != label:
                raise ValueError(f"labels '{other}' and '{label}' differ in case only; rename one")
        return labels


class Extract(_Task):
    """A JSON object by a schema."""

    kind: Literal["extract"]

    json_schema: dict[str, Any] = Field(alias="schema")
    """JSON Schema (draft 2020-12) of the answer."""

    scorer: Literal["field_f1", "exact"] = "field_f1"
    """How an answer is compared with the reference: by the fields that are right, or as a whole."""

    @field_validator("json_schema", mode="before")
    @classmethod
    def _a_schema(cls, value: Any) -> Any:
        import jsonschema
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        schema = plain(value)
        try:
            canonical(schema)
            jsonschema.Draft202012Validator.check_schema(schema)
        except TypeError as error:
            raise ValueError(f"not JSON: {error}; put dates, and numbers used as names, in quotes") from None
        except jsonschema.SchemaError as error:
            raise ValueError(f"not a JSON Schema: {error.message}; mend it") from None
        inside = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
        for reference in _references(schema):
            try:
                inside.lookup(reference)
            except Unresolvable:
                raise ValueError(f"$ref '{reference}' leads nowhere inside the schema; define it in `$defs`") from None
        return schema


def _references(schema: Any) -> Iterator[str]:
    """Every `$ref` of a schema, at any depth."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


class Generate(_Task):
    """Free text."""

    kind: Literal["generate"]
    scorer: Literal["exact", "numeric", "rouge_l", "judge"] = "exact"
    """How an answer is compared with the reference: equal after folding case, punctuation and space; by its last
    number; by its longest common run of words; or by a teacher, `evaluate.judge`."""
