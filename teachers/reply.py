"""What an endpoint sent back, read without trust: JSON of any shape, tokens, words of refusal, seconds to wait."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import dropwhile
from typing import Any

from ..data.rows import Token
from . import secret

_LONGEST_RETRY_AFTER = 60.0
LONGEST_MESSAGE = 200
_LOWEST_LOGPROB = -9999.0  # vLLM's word for minus infinity, which JSON cannot spell
_SPACE = " \t\n\r\u2581\u0120\u010a"  # the last three are how vocabularies spell a space and a line end


def at(value: Any, *path: str | int) -> Any:
    """What stands at a path of keys and positions in JSON; None where nothing does."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def parsed(text: str) -> dict[str, Any] | None:
    try:
        payload = json.loads(text)
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None


def tokens(content: Any) -> tuple[Token, ...]:
    """Tokens as the server spelt them; none where it sent another shape."""

    def scored(token: Any) -> tuple[str, float]:
        return str(token["token"]), max(_LOWEST_LOGPROB, float(token["logprob"]))

    try:
        return tuple(
            Token(*scored(token), tuple(scored(top) for top in token.get("top_logprobs") or ()))
            for token in content or ()
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def beginning(tokens: Iterable[Token]) -> str:
    """What the tokens say first, space aside; empty where that is a part of a character."""
    first = next(filter(None, (token.text.strip(_SPACE) for token in tokens)), "")
    return "" if "\ufffd" in first or first.startswith("\\x") else first


def without_reasoning(text: str, tokens: tuple[Token, ...]) -> tuple[str, tuple[Token, ...]]:
    """The answer alone; where the prompt ended in `<think>`, the block is closed but never opened.

    Tokens are cut on their own, because a server may take the block out of the text only.
    """
    thought, closed, answer = text.partition("</think>")
    if closed and thought.lstrip().find("<think>") < 1:
        text = answer.lstrip()
    if "</think>" in text:
        return text, tokens
    said = ""
    for position, token in enumerate(tokens, start=1):
        said = said[-len("</think>") :] + token.text
        if "</think>" in said:
            return text, tuple(dropwhile(lambda token: not token.text.strip(), tokens[position:]))
    return text, tokens


def words_of(payload: Any, text: str) -> str:
    """The server's own words."""
    for path in (("error", "message"), ("error",), ("message",), ("detail",)):
        if words := at(payload, *path):
            return words if isinstance(words, str) else json.dumps(words)
    return re.sub(r"<[^>]*>", " ", text)


def short(text: str, secrets: Iterable[str] = ()) -> str:
    """One printable line without the secrets, which go first because a cut could halve one."""
    text = secret.hidden(text, secrets)
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:LONGEST_MESSAGE]


def count(usage: Any, name: str) -> int:
    """A number of tokens as the server counted it; 0 where it did not."""
    found = at(usage, name)
    return found if isinstance(found, int) and found > 0 else 0


def seconds(retry_after: str) -> float:
    """Seconds that a Retry-After header asks for, at most 60; 0 where it is not understood."""
    try:
        if re.fullmatch(r"[0-9.]+", retry_after):
            seconds = float(retry_after)
        else:
            when = parsedate_to_datetime(retry_after)
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
            seconds = (when - datetime.now(UTC)).total_seconds()
    except ValueError:
        return 0.0
    return min(_LONGEST_RETRY_AFTER, max(0.0, seconds))


def why(error: Exception) -> str:
    if getattr(error, "errno", None) == errno.ECONNREFUSED:
        return "connection refused"
    return short(getattr(error, "strerror", None) or str(error))
