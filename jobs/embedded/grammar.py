"""The corpus of the embedded teacher: hand-written phrasings, composed into messages by a grammar.

A phrasing file has sections (`[core]`, `[detail]`, `[ask]`), alternatives in brackets `(my|the)` and slots in braces. A
message is a core, which alone decides its label, with a second core, an opening, a detail, a mood, an ask, small talk
and a closing around it or not, in one of several ways of typing. A tenth of each section, whole productions, is held
out for the grammar test.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.fingerprint import fraction

CORPUS = Path(__file__).parent / "corpus"
HELD_OUT = 0.1
"""Share of the productions that training never sees."""

_GROUP = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_NEIGHBOURS = {
    "a": "sq",
    "e": "wr",
    "i": "uo",
    "o": "ip",
    "t": "ry",
    "s": "ad",
    "r": "et",
    "n": "bm",
    "h": "gj",
    "l": "k",
}


@dataclass(frozen=True)
class Sections:
    """One phrasing file."""

    core: tuple[str, ...]
    detail: tuple[str, ...]
    ask: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Composed:
    """A message with the label that its core decides, and the way it is typed and built."""

    text: str
    label: str
    style: tuple[bool, bool]
    """(typed carelessly, long): what an example shows a writer beside its label."""


class Grammar:
    """Composes messages; equal seeds compose equal messages."""

    def __init__(self, folder: Path = CORPUS) -> None:
        self.shared = _read(folder / "shared.txt")
        self.labels: dict[str, Sections] = {}
        for file in sorted(folder.glob("*.txt")):
            if file.stem != "shared":
                parts = _read(file)
                self.labels[file.stem] = Sections(tuple(parts["core"]), tuple(parts["detail"]), tuple(parts["ask"]))

    def side(self, label: str, *, held_out: bool) -> Sections:
        """The productions of one side."""

        def of_side(section: Sequence[str]) -> tuple[str, ...]:
            return tuple(line for line in section if (fraction("held-out", label, line) < HELD_OUT) == held_out)

        whole = self.labels[label]
        return Sections(of_side(whole.core), of_side(whole.detail), of_side(whole.ask))

    def messages(self, label: str, seed: int, *, held_out: bool = False) -> Iterator[Composed]:
        """Messages without end, from the productions of one side."""
        draw = random.Random(f"{seed}/{label}/{held_out}")
        sections = self.side(label, held_out=held_out)
        while True:
            yield self._compose(label, sections, draw)

    def _compose(self, label: str, sections: Sections, draw: random.Random) -> Composed:
        careless, long = draw.random() < 0.45, draw.random() < 0.25
        more = 1.6 if long else 0.4
        parts = [draw.choice(sections.core)]
        if draw.random() < (0.7 if long else 0.2):
            parts.insert(draw.choice((0, 1, 1)), draw.choice(sections.detail))
        if draw.random() < (0.95 if long else 0.85):
            parts.append(draw.choice(sections.core))
        if draw.random() < 0.13 * more:
            parts.insert(draw.choice((0, 1)), draw.choice(self.shared["mood"]))
        if draw.random() < 0.10 * more:
            parts.insert(draw.choice((0, len(parts))), draw.choice(self.shared["smalltalk"]))
        if draw.random() < (0.6 if long else 0.3):
            parts.append(draw.choice(sections.ask))
        if draw.random() < 0.18 * more:
            parts.insert(0, draw.choice(self.shared["opening"]))
        if draw.random() < 0.14 * more:
            parts.append(draw.choice(self.shared["closing"]))
        sentences = [_expand(part, self.shared, draw) for part in parts]
        return Composed(_type(_join(sentences, draw), draw, careless), label, (careless, long))


def _read(file: Path) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1], [])
        elif line.strip():
            section.append(line.strip())
    return sections


def _expand(phrase: str, shared: Mapping[str, Sequence[str]], draw: random.Random) -> str:
    chosen = _GROUP.sub(lambda group: draw.choice(group[1].split("|")), phrase)
    return " ".join(_SLOT.sub(lambda slot: _slot(slot[1], shared, draw), chosen).split())


def _slot(name: str, shared: Mapping[str, Sequence[str]], draw: random.Random) -> str:
    if name == "number":
        digits = str(draw.randrange(10**4, 10**8))
        return draw.choice((digits, f"#{digits}", f"{draw.choice('ABKRSTX')}{digits}", f"{digits[:3]}-{digits[3:]}"))
    if name == "amount":
        value = draw.choice(
            (str(draw.randrange(3, 400)), f"{draw.randrange(3, 200)}.{draw.choice(('99', '50', '95', '49'))}")
        )
        return draw.choice((f"${value}", f"{value} euros", f"{value} dollars", f"{value} pounds", value))
    return draw.choice(shared[name])


def _join(sentences: Sequence[str], draw: random.Random) -> str:
    """Sentences in a row; one that ends without a mark is followed by a mark, a comma or a line break."""
    text = sentences[0]
    for sentence in sentences[1:]:
        gap = " " if text[-1] in ".!?,:;" else draw.choice((". ", ". ", ", ", " - ", "\n", " "))
        text = f"{text}{gap}{sentence}"
    return text


def _type(text: str, draw: random.Random, careless: bool) -> str:
    if not careless:
        return text if draw.random() < 0.5 else text[0].upper() + text[1:]
    if draw.random() < 0.6:
        text = text.lower()
    elif draw.random() < 0.12:
        text = text.upper()
    if draw.random() < 0.5:
        text = text.replace("'", "")
    if draw.random() < 0.35:
        text = text.rstrip(".!?")
    words = text.split(" ")
    typos = 0.05 if draw.random() < 0.6 else 0.0
    return " ".join(_mistype(word, draw) if len(word) > 3 and draw.random() < typos else word for word in words)


def _mistype(word: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(word) - 1)
    kind = draw.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    near = _NEIGHBOURS.get(word[at], word[at])
    return word[:at] + draw.choice(near) + word[at + 1 :]
