"""Markdown for a hub: front matter that every reader of YAML takes alike, tables, and text that stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

LONGEST = 80
"""Characters of a name that others gave."""


def front_matter(fields: Mapping[str, Any]) -> str:
    """The block at the head of a card.

    Every string stands in double quotes, because YAML 1.1, which Python reads cards with, and YAML 1.2, which browsers
    do, disagree on what is one: a test named `no` would be false.
    """
    from ruamel.yaml import YAML

    yaml, text = YAML(), io.StringIO()
    yaml.width = 1_000_000  # a folded string is harder to read, and some readers get it wrong
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(_quoted(dict(fields)), text)
    return f"---\n{text.getvalue()}---\n"


def _quoted(value: Any) -> Any:
    """The same with every string on one line and in double quotes, keys apart."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str):
        return DoubleQuotedScalarString(" ".join(value.encode("utf-8", "replace").decode().split()))
    if isinstance(value, dict):
        return {key: _quoted(part) for key, part in value.items()}
    return [_quoted(part) for part in value] if isinstance(value, list) else value


def table(header: Sequence[str], rows: Sequence[Sequence[str]], longest: int = LONGEST) -> Iterator[str]:
    """A Markdown table, without the columns of which nothing is known; columns of figures stand to the right."""
    kept = [place for place in range(len(header)) if any(row[place] for row in rows)]
    lines = [f"| {' | '.join(plain(line[place], longest) for place in kept)} |" for line in (header, *rows)]
    figures = [place > 0 and not any(row[place][:1].isalpha() for row in rows) for place in kept]
    yield from (lines[0], f"|{''.join('---:|' if right else '---|' for right in figures)}", *lines[1:])


def plain(text: str, longest: int = LONGEST) -> str:
    """Text as text: no Markdown, no HTML, nothing that turns the direction of what follows, on one line."""
    line = " ".join(_CONTROLS.sub("\ufffd", text).split())
    if len(line) > longest:
        line = line[:longest] + "\N{HORIZONTAL ELLIPSIS}"
    line = re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
