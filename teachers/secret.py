"""What only the environment may hold, and how it is kept out of everything that a server says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from ..data.errors import BadInput

_SHORTEST = 16  # letters; a shorter one is a word that stands in for a key (EMPTY), and may stand in an answer too


def from_environment(variable: str, name: str, key: str) -> str:
    """The value of a variable, without the line end it was pasted with.

    Args:
        name: the teacher's, for the message.
        key: of the recipe, which names the variable.

    Raises:
        BadInput: it is not set.
    """
    value = " ".join(os.environ.get(variable, "").split())
    if not value:
        found = f"{variable} is not set in the environment"
        raise BadInput(f"teacher {name}: {found}; export it, or remove `{key}`")
    return value


def credentials(*values: str) -> tuple[str, ...]:
    """The words of all, as one may be a scheme such as `Basic`; longer ones first, for they may hold others."""
    words = {word for value in values for word in value.split()}
    return tuple(sorted(words, key=lambda word: (-len(word), word)))


def spellings(secrets: Iterable[str]) -> tuple[str, ...]:
    """The secrets that no answer would hold by chance, in every form that JSON may give them."""
    long = [secret for secret in secrets if len(secret) >= _SHORTEST]
    spelt = [form for secret in long for form in (secret, json.dumps(secret)[1:-1])]
    return tuple(dict.fromkeys([*spelt, *(form.replace("/", "\\/") for form in spelt)]))


def hidden(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
