"""Recipes: strict, frozen models, and the YAML they come from.

YAML is read by the 1.2 rules (`no` is text, not false), with line numbers kept so that a refusal can point at one.
pydantic finds the faults; `refusal` turns the first into one line: where, found, expected, remedy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from .errors import BadInput


class Recipe(BaseModel):
    """Base of everything a recipe holds: frozen, unknown keys refused, no silent conversions, every number finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def fault(message: str, *key: str | int) -> ValidationError:
    """A refusal that points at a key below the model which raises it."""
    kind = PydanticCustomError("value_error", "{said}", {"said": message})
    return ValidationError.from_exception_data("recipe", [InitErrorDetails(type=kind, loc=key, input=None)])


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
    if half := re.search(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", text):
        line = text.count("\n", 0, half.start()) + 1
        raise BadInput(f"{path}:{line}: {half[0]} is half of a character; write the character itself")
    try:
        document = YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        key = re.search(r'duplicate key "(.*?)"', str(error.problem))
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        name = key.group(1) if key else "?"
        raise BadInput(f"{path}:{line}: key '{name}' is given twice; a key may be given once: remove one") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{path}:{line}: not valid YAML: {error.problem}; mend that line") from None
    except (YAMLError, ValueError) as error:  # ValueError: a value is not what its tag says, or no date
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(error).split())}; mend it") from None
    except RecursionError:
        raise BadInput(f"{path}: nested too deeply to be read; expected keys such as `name:` and `task:`") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else "a list" if isinstance(document, list) else "text"
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
        try:
            inside = document[part]
        except (KeyError, IndexError, TypeError):
            continue  # a union's tag is part of pydantic's location, not of the document
        marks = getattr(document, "lc", None)
        document = inside
        if marks is None or part not in (marks.data or ()):
            continue  # put there by the command line, or by a merge
        line = marks.data[part][0] + 1
    return line


def refusal(error: ValidationError, document: Any, where: str, model: type[BaseModel]) -> BadInput:
    """The first fault as one line that names the place, the value, what was expected and what to do."""
    fault = _first(error.errors(), document)
    location = list(_in_document(document, fault["loc"], fault["type"]))
    line = line_of(document, location)
    place = f"{where}:{line}" if line else where
    key = ".".join(str(part) for part in location) or "the recipe"
    kind, message = fault["type"], fault["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        owner = ".".join(str(part) for part in location[:-1])
        known = sorted(_keys(model, location[:-1], document))
        inside = f" in {owner}" if owner else ""
        if location[-1] in known:  # of another kind than the keys beside it
            return BadInput(f"{place}: '{location[-1]}'{inside} does not go with the keys beside it; remove one")
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
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
    elif kind == "string_type" and isinstance(found, int | float | date):
        hint = f"; put it in quotes: '{found}'"
    text = message[0].lower() + message[1:]
    text = text.removeprefix("input ").replace("a valid dictionary", "a mapping")
    text = re.sub(" or instance of .*", "", text)
    if fault["loc"][-1:] == ("[key]",):
        return BadInput(f"{place}: {'.'.join(map(str, location[:-1]))}: the key {_shown(found)} {text}{hint}")
    return BadInput(f"{place}: {key} = {_shown(found)}: {text}{hint}")


def _shown(value: Any) -> str:
    """A value as it stands in the file, in one line of at most 60 characters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = " ".join(str(value).split())
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"'{text}'" if isinstance(value, str) else text


def _rank(kind: str) -> int:
    """Unknown keys first: a misspelt key also shows as a missing one, and the spelling is the cause."""
    return {"extra_forbidden": 0, "missing": 2}.get(kind, 1)


def _first(faults: Sequence[ErrorDetails], document: Any) -> ErrorDetails:
    """The fault to show: of several readings of one value, each with its own, the one that came furthest."""
    first = min(faults, key=lambda fault: _rank(fault["type"]))
    start = list(_in_document(document, first["loc"], first["type"]))
    rivals = [first]
    for fault in faults:
        place = list(_in_document(document, fault["loc"], fault["type"]))
        if start and place[: len(start)] == start and _rank(fault["type"]) == _rank(first["type"]):
            rivals.append(fault)
    return max(rivals, key=lambda fault: len(list(_in_document(document, fault["loc"], fault["type"]))))


def _in_document(document: Any, location: Sequence[int | str], kind: str) -> Iterable[int | str]:
    """The parts of pydantic's location that stand in the document, or should; union tags are left out."""
    parts = list(location)
    for position, part in enumerate(parts):
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            if position == len(parts) - 1 and kind in ("missing", "value_error", "extra_forbidden"):
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
