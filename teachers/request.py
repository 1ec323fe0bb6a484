"""What is sent to an OpenAI-compatible endpoint, and which part of it a server names when it refuses.

Source: the Chat Completions API; `structured_outputs` is vLLM's (its OpenAI server, from 0.12 on), and so is what
leaves a message open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from ..data.rows import Prompt, message_dicts
from ..data.teacher import Sampling

if TYPE_CHECKING:
    from .openai import OpenAIRecipe

OPEN = {"continue_final_message": True, "add_generation_prompt": False}
"""Has a vLLM server go on with the last message, whoever speaks; the model's own end tokens end it."""

OURS = frozenset(
    {"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "top_p", "seed", "n", "stream"}
)
OURS |= {"logprobs", "top_logprobs", "response_format"}
"""Fields that the recipe's own settings decide."""

_REFUSABLE = re.compile(
    r"\b(temperature|(?:top_)?logprobs|seed|response_format|json_schema|structured_outputs|top_p|max_tokens|"
    r"continue_final_message|add_generation_prompt)\b",
    re.I,
)
_SENT_AS = {"top_logprobs": "logprobs", "json_schema": "response_format"}


def body(recipe: OpenAIRecipe, prompt: Prompt, sampling: Sampling, without: Collection[str]) -> dict[str, Any]:
    """The request for one prompt.

    Args:
        without: fields that the server refused before.
    """
    limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
    said: dict[str, Any] = {
        "model": recipe.model,
        "messages": message_dicts(prompt.messages),
        "temperature": sampling.temperature,
        limit: sampling.max_tokens,
    }
    if sampling.top_p != 1:
        said["top_p"] = sampling.top_p
    if sampling.temperature > 0:
        said["seed"] = prompt.sample
    if sampling.logprobs > 0 and "logprobs" not in without:
        said |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if prompt.schema:
        schema = {"name": "answer", "strict": True, "schema": json.loads(prompt.schema)}
        said["response_format"] = {"type": "json_schema", "json_schema": schema}
    if recipe.choices and prompt.choices:
        said["structured_outputs"] = {"choice": list(prompt.choices)}
    said |= recipe.extra_body
    if prompt.open:
        said |= OPEN
    return {key: value for key, value in said.items() if key not in without}


def packed(body: Mapping[str, Any]) -> bytes:
    """JSON in the order given: a schema's order may be the order in which a server writes."""
    try:
        return orjson.dumps(body)
    except TypeError:  # half of a surrogate pair, which JSON can spell and UTF-8 cannot
        return json.dumps(body).encode()


def refused_field(refusal: str, sent: Mapping[str, Any]) -> str | None:
    """The first field of the request that a refusal names."""
    named = (match[0].lower() for match in _REFUSABLE.finditer(refusal))
    return next((name for word in named if (name := _SENT_AS.get(word, word)) in sent), None)
