"""From what a model said to what the task wants: a label, a JSON object, or text; and how sure the model was.

Reading an answer costs nothing and may change at any time, because the ledger keeps what was said.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from ..data.duplicates import fold
from ..data.pii import redacted, redacted_output
from ..data.rows import Answer, Rejected, TopTokens
from .recipe import JobRecipe

Evidence = Literal["scored", "keys", "logprobs", "samples", "hard"]

_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)
_LEAD = re.compile(r"(?:label|answer)\s*:", re.IGNORECASE)
_DECORATION = " *`\"'."
_SURE = 0.99
"""Share of an answer's first token that must belong to known labels for its alternatives to count."""

_LEAST_KEYS = 0.5
"""The same for keys: what is not a key begins another way of answering, and says nothing against any label."""


def parse(answer: Answer, recipe: JobRecipe) -> str | Rejected:
    """The output in the task's form; `Rejected` with what was said where it has another form.

    Personal data that is no label goes the way of the recipe: whoever says it made it up, or learnt it elsewhere.
    """
    output = _read(answer, recipe)
    if recipe.task.pii == "off":
        return output
    if isinstance(output, Rejected):
        return replace(output, evidence=redacted(output.evidence)[0])
    clean, personal = ("", ()) if recipe.labels else redacted_output(output)
    if personal and recipe.task.pii == "reject":
        return Rejected(answer.prompt_id, "personal_data", ", ".join(personal))
    return clean if personal else output


def _read(answer: Answer, recipe: JobRecipe) -> str | Rejected:
    if recipe.labels:
        key = _unfenced(answer.text).strip(_DECORATION + "()")
        label = recipe.keys.get(key) or read_label(answer.text, tuple(recipe.labels))
        return label or Rejected(answer.prompt_id, "not_a_label", answer.text[:200])
    if recipe.schema_text:
        return _object(answer, recipe.schema_text)
    text = answer.text.strip()
    if answer.finish_reason == "length":
        return Rejected(answer.prompt_id, "cut_short", text[-200:])
    return text or Rejected(answer.prompt_id, "empty")


def label_probabilities(
    answer: Answer, labels: Sequence[str], keys: Mapping[str, str] | None = None
) -> tuple[dict[str, float] | None, Evidence]:
    """The probability of every label, where the answer tells it; they sum to 1.

    Exact scores are taken as they are. Of the first token's alternatives those count that are a label's key, or,
    where labels have no keys, that begin one label alone; what they leave of the mass is spread evenly over the labels
    not named. A token that is a label and begins another tells nothing: the other label's mass is in it too.

    Args:
        keys: labels by the letter that was asked for in their place.
    """
    if answer.scores is not None and set(answer.scores) == set(labels):
        return {label: math.exp(answer.scores[label]) for label in labels}, "scored"
    if not answer.tokens or not answer.tokens[0].top:
        return None, "hard"
    first = answer.tokens[0]
    alternatives = dict(first.top)
    alternatives.setdefault(first.text, first.logprob)
    found: dict[str, float] = {}
    lost = 0.0
    for token, logprob in alternatives.items():
        owners = _key_owners(token.strip(), keys) if keys else _owners(token.strip(), tuple(labels))
        mass = math.exp(min(0.0, logprob))
        if len(owners) == 1:
            found[owners[0]] = found.get(owners[0], 0.0) + mass
        else:
            lost += mass
    known = sum(found.values())
    if not known or lost > (_LEAST_KEYS if keys else 1 - _SURE):
        return None, "hard"
    rest = max(0.0, 1 - known)
    unnamed = [label for label in labels if label not in found]
    probs = {label: found.get(label, rest / len(unnamed) if unnamed else 0.0) for label in labels}
    total = sum(probs.values())
    return {label: value / total for label, value in probs.items()}, "keys" if keys else "logprobs"


def top_tokens(answer: Answer) -> TopTokens | None:
    """The answer's tokens with their alternatives, K at each; None where it does not tell them, or was cut short.

    The token itself takes the place of the last alternative where it is none of them.
    """
    import numpy as np

    kept = min((len(token.top_ids) for token in answer.tokens), default=0)
    if not kept or answer.finish_reason != "stop" or any(token.id < 0 for token in answer.tokens):
        return None
    ids: list[int] = []
    logprobs: list[float] = []
    for token in answer.tokens:
        best = dict(zip(token.top_ids[:kept], (logprob for _, logprob in token.top), strict=False))
        if token.id not in best:
            best.popitem()
            best[token.id] = token.logprob
        ids += best.keys()
        logprobs += best.values()
    said = np.array([token.id for token in answer.tokens], np.int32)
    return TopTokens(said, np.array(ids, np.int32), np.array(logprobs, np.float16))


def vote_shares(votes: Mapping[str, int], labels: Sequence[str]) -> dict[str, float]:
    """Probabilities from draws, with one vote more spread evenly: a label that was never drawn is not impossible."""
    total = sum(votes.values()) + 1
    return {label: (votes.get(label, 0) + 1 / len(labels)) / total for label in labels}


def same(left: str, right: str, recipe: JobRecipe) -> bool:
    """Whether two outputs say the same by the task's own measure: label, JSON value, or folded text."""
    if recipe.labels:
        return bool(left == right)
    if recipe.schema_text:
        return bool(_canonical(left) == _canonical(right))
    return fold(left) == fold(right)


def _key_owners(token: str, keys: Mapping[str, str]) -> tuple[str, ...]:
    return (keys[token],) if token in keys else ()


@lru_cache(maxsize=65536)
def _owners(token: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label for label in labels if token and label.startswith(token))


@lru_cache(maxsize=16)
def _folded(labels: tuple[str, ...]) -> dict[str, str]:
    """Labels by their words; those that share their words (C, C++) or have none (+, -) are found as they are only."""
    words = {label: fold(label.replace("_", " ")) for label in labels}
    shared = Counter(words.values())
    return {folded: label for label, folded in words.items() if folded and shared[folded] == 1}


def read_label(text: str, labels: tuple[str, ...]) -> str | None:
    """The label that a text says, whatever stands around it; None where it says another thing."""
    said = _unfenced(text)
    if said in labels:
        return said
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):  # not JSON, a number of 5,000 digits, or brackets without end
        value = None
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, str | int | float):
        said = value if isinstance(value, str) else json.dumps(value)
    said = said.strip().partition("\n")[0]
    if lead := _LEAD.match(said):
        said = said[lead.end() :]
    for form in (said.strip(), said.strip(_DECORATION)):
        if form in labels:
            return form
    return _folded(labels).get(fold(said.replace("_", " ")))


def _object(answer: Answer, schema_text: str) -> str | Rejected:
    import jsonschema

    text = _unfenced(answer.text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        fault = jsonschema.exceptions.best_match(_validator(schema_text).iter_errors(value))
    except json.JSONDecodeError as error:
        reason = "cut_short" if answer.finish_reason == "length" else "not_json"
        return Rejected(answer.prompt_id, reason, f"{error.msg} in {text[:160]}")
    except (ValueError, RecursionError) as error:  # NaN, a number of 5,000 digits, or brackets without end
        return Rejected(answer.prompt_id, "not_json", f"{error} in {text[:160]}")
    if fault is not None:
        place = "/".join(str(part) for part in fault.absolute_path) or "the object"
        return Rejected(answer.prompt_id, "not_by_schema", f"{place}: {fault.message}"[:200])
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=8)
def _validator(schema_text: str) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads(schema_text))


def _unfenced(text: str) -> str:
    stripped = text.strip()
    match = _FENCE.match(stripped)
    return match[1].strip() if match else stripped


def _canonical(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
