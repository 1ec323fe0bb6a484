"""Any endpoint of the chat completions protocol: OpenAI, vLLM, SGLang, llama.cpp, gateways.

The `openai` package was weighed and left out: ten times the CPU of aiohttp per request, measured, and
retries that cannot tell a dead server from a bad row. A prompt is retried in place, on its own
slot, so that no round of retries waits for the slowest. A parameter that the server refuses is
dropped, learnt once and noted.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ..data.errors import BadInput, TeacherUnreachable
from ..data.rows import Answer, Failed, Prompt, Token, message_dicts
from ..data.teacher import Sampling
from .kind import TeacherRecipe

if TYPE_CHECKING:
    from aiohttp import ClientSession

_LONGEST_BACKOFF = 8.0
_LONGEST_RETRY_AFTER = 60.0
_LONGEST_CONNECT = 20.0
_LONGEST_MESSAGE = 200
_LOWEST_LOGPROB = -9999.0  # vLLM's word for minus infinity, which JSON cannot spell

_PARAMETER = re.compile(r"\b(temperature|(?:top_)?logprobs|seed|response_format|json_schema|top_p|max_tokens)\b", re.I)
_SENT_AS = {"top_logprobs": "logprobs", "json_schema": "response_format"}
_ABOUT_THE_PROMPT = re.compile(r"context (length|window)|prompt|too long|too many tokens|flagged|moderation", re.I)


class OpenAIRecipe(TeacherRecipe):
    """An OpenAI-compatible endpoint; `model` is the name it serves."""

    kind: Literal["openai"]

    base_url: str = Field("https://api.openai.com/v1", pattern=r"^https?://[^\s@?#]+$")
    """Address that `/chat/completions` is added to."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; absent: no key is sent."""

    timeout_seconds: float = Field(120.0, gt=0)
    """Longest wait for one whole reply."""

    tries: int = Field(6, gt=0, le=100)
    """Requests made for one prompt before it is a failed row."""

    reasoning: Literal["drop", "keep"] = "drop"
    """What becomes of a `<think>` block before the answer."""

    def build(self, name: str, folder: Path) -> OpenAITeacher:
        variable = self.api_key_env
        key = "".join(os.environ.get(variable, "").split()) if variable else ""
        if variable and not key:
            found = f"{variable} is not set in the environment"
            raise BadInput(f"teacher {name}: {found}; export it, or remove `api_key_env`")
        return OpenAITeacher(name, self, key)


@dataclass(frozen=True, slots=True)
class _Fault:
    """What one request met instead of a reply to read."""

    kind: str
    message: str
    again: bool = False
    after: float = 0.0
    """Seconds that the server asked to wait."""
    refusal: str = ""
    """Text in which a refused parameter would be named; empty where none can be."""


class OpenAITeacher:
    """One endpoint; usable from several event loops, one after the other.

    Args:
        name: the key under `teachers:`, for messages.
        key: the API key; goes into the Authorization header and nowhere else.
        backoff: ceiling of the first retry's wait in seconds; each retry doubles it, up to 8.
    """

    def __init__(self, name: str, recipe: OpenAIRecipe, key: str = "", *, backoff: float = 0.25) -> None:
        self.notes: list[str] = []
        """One line for each thing that the endpoint did not do as asked."""
        self._where = f"teacher {name}: "
        self._recipe = recipe
        self._url = recipe.base_url.rstrip("/")
        self._key = key
        self._backoff = backoff
        self._refused: set[str] = set()
        self._answered = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: AsyncGenerator[ClientSession, None]
        self._session: ClientSession
        self._slots: asyncio.Semaphore

    @property
    def name(self) -> str:
        return f"{self._recipe.model}@{self._recipe.revision}"

    @property
    def identity(self) -> dict[str, str]:
        return {"kind": "openai", "model": self._recipe.model, "revision": self._recipe.revision}

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        refused: dict[str, str] = {}
        while True:  # ends: each further round takes one of six parameters out of the body
            body = self._body(prompt, sampling, self._refused | refused.keys())
            outcome = await self._ask("/chat/completions", body, self._recipe.tries)
            if not isinstance(outcome, _Fault):
                self._learn(refused)
                return self._read(prompt, sampling, outcome)
            parameter = _parameter(outcome.refusal, body)
            if parameter is None:
                return Failed(prompt.id, outcome.kind, outcome.message)
            refused[parameter] = outcome.message

    async def check(self) -> str:
        """Names of the models that are served.

        Raises:
            TeacherUnreachable: no list of models came back.
        """
        outcome = await self._ask("/models", None, min(3, self._recipe.tries))
        fault = outcome.message if isinstance(outcome, _Fault) else "the reply has none"
        models = _at(outcome, "data")
        if isinstance(models, list):
            return ", ".join(str(_at(model, "id")) for model in models)
        raise self._unreachable("/models", f"gave no list of models: {fault}", "check base_url")

    async def close(self) -> None:
        if self._loop is not None:
            self._loop = None
            await self._keeper.aclose()

    def _body(self, prompt: Prompt, sampling: Sampling, without: Collection[str]) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        body: dict[str, Any] = {
            "model": self._recipe.model,
            "messages": message_dicts(prompt.messages),
            "temperature": sampling.temperature,
            limit: sampling.max_tokens,
        }
        if sampling.top_p != 1:
            body["top_p"] = sampling.top_p
        if sampling.temperature > 0:
            body["seed"] = prompt.sample
        if sampling.logprobs > 0 and "logprobs" not in without:
            body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        if prompt.schema:
            schema = {"name": "answer", "strict": True, "schema": json.loads(prompt.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {key: value for key, value in body.items() if key not in without}

    def _learn(self, refused: Mapping[str, str]) -> None:
        """Remember what had to go, now that the rest passed: a refusal may just quote the prompt."""
        for name in refused.keys() - self._refused:
            self._refused.add(name)
            instead = "sent as `max_completion_tokens`" if name == "max_tokens" else "left out"
            found = f"the server refused `{name}` ({refused[name]}); it is now {instead}"
            self.notes.append(self._where + found)

    async def _ask(self, path: str, body: dict[str, Any] | None, tries: int) -> dict[str, Any] | _Fault:
        """The reply, or the fault that stood after the last try."""
        seen: Counter[str] = Counter()
        while True:
            outcome = await self._attempt(path, body)
            if not isinstance(outcome, _Fault):
                return outcome
            seen[outcome.kind] += 1
            self._stop_if_dead(path, outcome, seen, tries)
            if not outcome.again or seen.total() >= tries:
                return outcome
            ceiling = min(_LONGEST_BACKOFF, self._backoff * 2 ** (seen.total() - 1))
            await asyncio.sleep(outcome.after + random.uniform(0, ceiling))

    def _stop_if_dead(self, path: str, fault: _Fault, seen: Counter[str], tries: int) -> None:
        """Raise where the server is to blame; less patient while nothing was ever answered."""
        if fault.kind == "unreachable":
            patience = tries if self._answered else min(tries, 3)
            if seen["unreachable"] >= patience or seen.total() >= tries:
                found = f"cannot be reached: {fault.message}"
                raise self._unreachable(path, found, "start the server, or check base_url")
        if fault.kind == "timeout" and not self._answered and seen["timeout"] >= min(tries, 2):
            remedy = "check that the model is loaded, or raise `timeout_seconds`"
            raise self._unreachable(path, f"gave {fault.message}", remedy)

    async def _attempt(self, path: str, body: dict[str, Any] | None) -> dict[str, Any] | _Fault:
        import aiohttp

        session, slots = await self._connection()
        verb, url = "POST" if body else "GET", self._url + path
        try:
            # A followed redirect would turn the POST into a GET.
            async with slots, session.request(verb, url, json=body, allow_redirects=False) as got:
                text = (await got.read()).decode(errors="replace")
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
            UnicodeError,  # a host name that no resolver can be asked for
        ) as error:
            return _Fault("unreachable", _why(error), again=True)
        except TimeoutError:
            seconds = self._recipe.timeout_seconds
            return _Fault("timeout", f"no reply within {seconds:g} s", again=True)
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError):
            return _Fault("malformed", "the reply was cut in the middle", again=True)
        except (aiohttp.ClientError, ConnectionError):
            return _Fault("connection", "the connection was lost before a reply", again=True)
        self._answered = self._answered or got.status < 500
        return self._judge(path, got.status, got.headers, text)

    def _judge(self, path: str, status: int, headers: Mapping[str, str], text: str) -> dict[str, Any] | _Fault:
        """The reply where there is one to read, else its fault; raises where none will come."""
        payload = _json(text)
        if status < 300 and payload is not None:
            if payload.get("choices") or not payload.get("error"):
                return payload
            status = 502  # gateways report a broken upstream inside a 200
        said = headers.get("Location", "") if 300 <= status < 400 else _said(payload, text)
        short = _short(said, self._key) or responses.get(status, "")
        if status >= 500 or (status in (408, 409, 429) and "insufficient_quota" not in text):
            kind = {408: "timeout", 429: "rate_limit"}.get(status, "server")
            after = _seconds(headers.get("Retry-After", "")) if status in (429, 503) else 0.0
            return _Fault(kind, short, again=True, after=after)
        html = "text/html" in headers.get("Content-Type", "") or re.match(r"\s*<(!doc|html)", text, re.I)
        if payload is None and html and (status < 300 or status in (400, 404, 405)):
            remedy = "check base_url" if self._url.endswith("/v1") else "base_url should end in /v1"
            raise self._unreachable(path, "answered with an HTML page, not JSON", remedy)
        if status < 300:
            return _Fault("malformed", f"not JSON: {short}"[:_LONGEST_MESSAGE], again=True)
        about_the_prompt = _ABOUT_THE_PROMPT.search(said.replace(self._recipe.model, ""))
        remedy = self._remedy(status)
        if remedy and not (status in (403, 404) and about_the_prompt):
            found = f"answered {status} ({responses.get(status, '')}): {short.rstrip('. ')}"
            raise self._unreachable(path, found, remedy)
        named = f"{_at(payload, 'error', 'param')} {said}"
        return _Fault("refused", short, refusal=named if status in (400, 422) else "")

    def _remedy(self, status: int) -> str:
        """What to do about a status that every prompt would meet; empty for one prompt's own."""
        if status in (401, 403):
            variable = self._recipe.api_key_env or "an environment variable"
            return f"set {variable} to a valid key, or check `api_key_env`"
        if status in (402, 429):
            return "check the account's credit and limits"
        if status in (404, 405):
            return "check base_url and model"
        return "put that address in base_url" if status < 400 else ""

    def _unreachable(self, path: str, found: str, remedy: str) -> TeacherUnreachable:
        return TeacherUnreachable(f"{self._where}{self._url}{path} {found}; {remedy}")

    def _read(self, prompt: Prompt, sampling: Sampling, payload: dict[str, Any]) -> Answer | Failed:
        choice, usage = _at(payload, "choices", 0), _at(payload, "usage")
        text, finish = _at(choice, "message", "content") or "", _at(choice, "finish_reason")
        if not isinstance(text, str):
            return Failed(prompt.id, "empty", "the content of the reply is not text")
        tokens = _tokens(_at(choice, "logprobs", "content")) if sampling.logprobs else ()
        thinking = text.lstrip().startswith("<think>") and "</think>" not in text
        if self._recipe.reasoning == "drop":
            text, tokens = _without_reasoning(text, tokens)
        if finish == "length" and (thinking or not text.strip()):
            spent = f"max_tokens = {sampling.max_tokens} ran out before the answer; raise it"
            return Failed(prompt.id, "truncated", spent)
        if not text.strip():
            if refusal := _at(choice, "message", "refusal"):
                return Failed(prompt.id, "refused", _short(str(refusal), self._key))
            found = f"no text (finish_reason: {finish})" if choice else "no choices"
            return Failed(prompt.id, "empty", f"the reply has {found}")
        read, written = _at(usage, "prompt_tokens") or 0, _at(usage, "completion_tokens") or 0
        return Answer(prompt.id, text, finish or "stop", read, written, tokens)

    async def _connection(self) -> tuple[ClientSession, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._slots = asyncio.Semaphore(self._recipe.concurrency)
            self._keeper = self._open()
            self._session = await anext(self._keeper)
        return self._session, self._slots

    async def _open(self) -> AsyncGenerator[ClientSession, None]:
        """A session that ends with its loop: a loop closes its generators when it shuts down."""
        import aiohttp

        seconds = self._recipe.timeout_seconds
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._recipe.concurrency),
            timeout=aiohttp.ClientTimeout(seconds, sock_connect=min(seconds, _LONGEST_CONNECT)),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            cookie_jar=aiohttp.DummyCookieJar(),  # a sticky cookie would hold us to one replica
        ) as session:
            yield session


def _parameter(refusal: str, body: Mapping[str, Any]) -> str | None:
    """The first parameter of the body that a refusal names."""
    named = (match[0].lower() for match in _PARAMETER.finditer(refusal))
    return next((name for word in named if (name := _SENT_AS.get(word, word)) in body), None)


def _at(value: Any, *path: str | int) -> Any:
    """What stands at a path of keys and positions in JSON; None where nothing does."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _json(text: str) -> dict[str, Any] | None:
    try:
        payload = json.loads(text)
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None


def _tokens(content: Any) -> tuple[Token, ...]:
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


def _without_reasoning(text: str, tokens: tuple[Token, ...]) -> tuple[str, tuple[Token, ...]]:
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


def _said(payload: Any, text: str) -> str:
    """The server's own words."""
    for path in (("error", "message"), ("error",), ("message",), ("detail",)):
        if words := _at(payload, *path):
            return words if isinstance(words, str) else json.dumps(words)
    return re.sub(r"<[^>]*>", " ", text)


def _short(text: str, key: str) -> str:
    """One printable line without the key, which goes first because a cut could halve it."""
    text = text.replace(key, "***") if key else text
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())[:_LONGEST_MESSAGE]


def _seconds(retry_after: str) -> float:
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


def _why(error: Exception) -> str:
    if getattr(error, "errno", None) == errno.ECONNREFUSED:
        return "connection refused"
    return _short(getattr(error, "strerror", None) or str(error), "")
