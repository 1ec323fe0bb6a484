"""A conversation as one text: a line for each message that begins with who speaks.

Everything downstream, prompts, duplicates, sides and students, works on a text, and models read a transcript as well as
turns of their own: an input of several turns is what one person hands to a model to act on, not the model's own past.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SPEAKER = re.compile(r"^(user|assistant|system)[ \t]*:[ \t]*", re.IGNORECASE | re.MULTILINE)

Turns = list[tuple[str, str]]
"""Role and content."""


def messages_in(value: Any) -> Turns | None:
    """The turns of a value as datasets hold conversations, a list of {role, content}; None for any other."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    turns = []
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            return None
        if not isinstance(message.get("content"), str):
            return None
        turns.append((message["role"], message["content"]))
    return turns


def transcript(turns: Turns) -> str:
    """The text: what a message says on several lines stays below its first."""
    return "\n".join(f"{role}: {content.strip()}" for role, content in turns)


def turns_of(text: str) -> Turns:
    """What `transcript` made a text of; none where it does not begin with a speaker."""
    marks = list(_SPEAKER.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [(mark[1].lower(), text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def is_asked(turns: Turns, count: int) -> bool:
    """Whether user and assistant speak by turns, so many times, the user first and last, and none says nothing."""
    roles = ["user" if place % 2 == 0 else "assistant" for place in range(count)]
    return [role for role, _ in turns] == roles and all(content for _, content in turns)
