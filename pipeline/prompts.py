"""From a template to the messages a teacher reads.

A template is Jinja text cut into turns by lines that hold only `[system]`, `[user]` or `[assistant]`. It is cut before
it is rendered, so a row that contains such a line, or Jinja marks, stays data. Where a row stands in the middle of a
turn, `{{ row | fenced }}` keeps it from ending its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.errors import BadInput
from ..data.fingerprint import digest
from ..data.rows import Message, Role

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_TURN = re.compile(r"^\[(\w+)\][ \t]*$", re.MULTILINE)


class Template:
    """One prompt template.

    Args:
        text: the template.
        where: the file it came from, for messages.

    Raises:
        BadInput: no turn, an unknown turn, or Jinja that does not parse.
    """

    def __init__(self, text: str, where: str) -> None:
        from jinja2 import StrictUndefined, TemplateSyntaxError
        from jinja2.sandbox import SandboxedEnvironment

        self.text = text
        self.where = where
        jinja = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        jinja.filters["fenced"] = fenced
        marks = list(_TURN.finditer(text))
        if not marks or text[: marks[0].start()].strip():
            raise BadInput(f"{where}:1: the template must start with a line [system] or [user]")
        self._turns: list[tuple[Role, Any]] = []
        for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
            line = text.count("\n", 0, mark.start()) + 1
            role = _ROLES.get(mark[1])
            if role is None:
                raise BadInput(f"{where}:{line}: unknown turn [{mark[1]}]; expected [system], [user] or [assistant]")
            try:
                body = jinja.from_string(text[mark.end() : end])
                body.globals = dict(body.globals)  # a chain of mappings, looked up anew for each row: twice the time
                self._turns.append((role, body))
            except TemplateSyntaxError as error:
                at = line + error.lineno - 1
                said = (error.message or "").rstrip(".")
                raise BadInput(f"{where}:{at}: not a valid template: {said}; mend that line") from None
        if role != "user":
            raise BadInput(f"{where}:{line}: the last turn is [{role}]; it must be [user]")

    @cached_property
    def fingerprint(self) -> str:
        return digest(self.text.encode())[:16]

    def render(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        """The turns with their values filled in; outer space of a turn does not count."""
        from jinja2 import TemplateError, UndefinedError

        try:
            turns = [(role, body.render(**values).strip()) for role, body in self._turns]
        except UndefinedError as error:
            known = ", ".join(sorted(values))
            raise BadInput(f"{self.where}: {error.message}; a template may use {known}") from None
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise BadInput(f"{self.where}: cannot be filled in: {type(error).__name__}: {said}; mend it") from None
        return tuple(Message(role, content) for role, content in turns if content)


def fenced(text: str) -> str:
    """Text between two rows of backticks that are longer than any in it, so that nothing in it can end it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def load_template(name: str, chosen: str | None, folder: Path) -> Template:
    """The template that the recipe names under `prompts:`, else the packaged one."""
    if chosen is None:
        file = Path(__file__).parent / "templates" / f"{name}.j2"
        return Template(file.read_text(encoding="utf-8"), file.name)
    file = folder / Path(chosen).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"prompts.{name}: {file}: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"prompts.{name}: {file}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    return Template(text, str(file))
