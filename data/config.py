"""Recipes: strict, frozen models, and the YAML they come from.

YAML is read by the 1.2 rules (`no` is text, not false), with line numbers kept so that a refusal can point at one.
pydantic finds the faults; `refusal` turns the first into one line: where, found, expected, remedy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import BadInput


class Recipe(BaseModel):
    """Base of everything a recipe holds: frozen, unknown keys refused, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML file into plain mappings that remember their lines.

    Raises:
        BadInput: missing, not UTF-8, not YAML, a key given twice, or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if path.is_dir():
        raise BadInput(f"{path}: is a folder; give the recipe file in it, such as {path}/recipe.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such recipe; `understudy init NAME` writes one") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: byte {error.start} is not UTF-8; save the recipe as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}; check its permissions") from None
    try:
        document = YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        key = re.search(r'duplicate key "(.*?)"', str(error.problem))
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        name = key.group(1) if key else "?"
        raise BadInput(
            f"{path}:{line}: key '{name}' is given twice; a key may be given once: remove one"
        ) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{path}:{line}: not valid YAML: {error.problem}; mend that line") from None
    except YAMLError as error:
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else type(document).__name__
        raise BadInput(f"{path}: holds {found}; expected keys such as `name:` and `task:`")
    return document


def plain(value: Any) -> Any:
    """The same value in built-in types, without line numbers."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def line_of(document: Any, location: Sequence[int | str]) -> int | None:
    """The 1-based line of the deepest part of ``location`` that the document has; None without lines."""
    line: int | None = None
    for part in location:
        marks = getattr(document, "lc", None)
        if marks is None:
            break
        try:
            position = marks.item(part) if isinstance(part, int) else marks.key(part)
            document = document[part]
        except (KeyError, IndexError, TypeError):
            continue  # a union's tag is part of pydantic's location, not of the document
        line = position[0] + 1
    return line


def refusal(error: ValidationError, document: Any, where: str, model: type[BaseModel]) -> BadInput:
    """The first fault as one line that names the place, the value, what was expected and what to do."""
    fault = min(error.errors(), key=lambda fault: _rank(fault["type"]))
    location = [part for part in _in_document(document, fault["loc"])]
    line = line_of(document, location)
    place = f"{where}:{line}" if line else where
    key = ".".join(str(part) for part in location) or "the recipe"
    kind, message = fault["type"], fault["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        owner = ".".join(str(part) for part in location[:-1])
        known = sorted(_keys(model, location[:-1], document))
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        inside = f" in {owner}" if owner else ""
        return BadInput(f"{place}: unknown key '{location[-1]}'{inside}; {remedy}")
    if kind == "missing":
        return BadInput(f"{place}: {key} is missing; add it")
    if kind == "value_error":
        return BadInput(f"{place}: {message}" if key == "the recipe" else f"{place}: {key}: {message}")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        expected = fault.get("ctx", {}).get("expected_tags", "")
        found = fault.get("ctx", {}).get("tag")
        said = f"kind = '{found}'" if found else "no `kind`"
        return BadInput(f"{place}: {key} has {said}; expected one of {expected or 'the known kinds'}")
    found = fault["input"]
    hint = ""
    if kind == "bool_type" and str(found).lower() in ("yes", "no", "on", "off"):
        hint = " (YAML 1.2 reads yes, no, on and off as text); write true or false"
    elif kind == "string_type" and isinstance(found, bool):
        hint = f" (YAML reads it as a yes/no value); put it in quotes: '{str(found).lower()}'"
    elif kind == "string_type" and isinstance(found, int | float):
        hint = f"; put it in quotes: '{found}'"
    shown = plain(found) if not isinstance(found, str) else f"'{found}'"
    if isinstance(shown, dict | list):
        shown = "a mapping" if isinstance(shown, dict) else "a list"
    text = message[0].lower() + message[1:]
    return BadInput(f"{place}: {key} = {shown}: {text.removeprefix('input ')}{hint}")


def _rank(kind: str) -> int:
    """Unknown keys first: a misspelt key also shows as a missing one, and the spelling is the cause."""
    return {"extra_forbidden": 0, "missing": 2}.get(kind, 1)


def _in_document(document: Any, location: Iterable[int | str]) -> Iterable[int | str]:
    """The parts of pydantic's location that stand in the document; union tags are left out."""
    parts = list(location)
    for position, part in enumerate(parts):
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            if position == len(parts) - 1:
                yield part
            continue
        yield part


def _keys(model: type[BaseModel], location: Sequence[int | str], document: Any) -> set[str]:
    """The keys known at ``location``: of the one model there, or of the union member that `kind` names."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        document = document[part]
        if isinstance(part, str) and any(part in member.model_fields for member in models):
            models = [
                found
                for member in models
                if part in member.model_fields
                for found in _models(member.model_fields[part].annotation)
            ]
        kind = document.get("kind") if isinstance(document, Mapping) else None
        named = [m for m in models if kind in get_args(_annotation(m, "kind"))]
        models = named or models
    return {field.alias or name for m in models for name, field in m.model_fields.items()}


def _annotation(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields.get(name)
    return field.annotation if field else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every recipe model inside an annotation: unions, optionals, mappings and lists are looked through."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, UnionType, dict, list, tuple):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []
