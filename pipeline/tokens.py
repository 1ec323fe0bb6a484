"""Whether two models read the same tokens."""

from __future__ import annotations

from typing import Any


def differing(one: Any, other: Any) -> list[tuple[int, str | None, str | None]]:
    """Tokens by number that are not the same in two tokenizers, in order; None where one has none of that number.

    Rows of a model's matrix above its tokenizer's, which families pad theirs with, do not count.
    """
    ours, theirs = ({number: token for token, number in each.get_vocab().items()} for each in (one, other))
    numbers = sorted({*ours, *theirs})
    return [(n, ours.get(n), theirs.get(n)) for n in numbers if ours.get(n) != theirs.get(n)]
