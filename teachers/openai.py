"""Any endpoint of the chat completions protocol: OpenAI, vLLM, SGLang, llama.cpp, gateways.

The `openai` package was weighed and left out: ten times the CPU of aiohttp per request, measured, and
retries that cannot tell a dead server from a bad row. A prompt is retried in place, on its own
slot, so that no round of retries waits for the slowest. A parameter that the server refuses is
dropped, learnt once and noted.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from ..data.config import plain
from ..data.errors import BadInput, TeacherUnreachable
from ..data.fingerprint import canonical
from ..data.rows import Answer, Failed, Prompt
from ..data.teacher import Sampling
from . import reply, request, secret
from .kind import TeacherRecipe
from .limits import EvenPace, Pace, Slots

if TYPE_CHECKING:
    from aiohttp import ClientSession

_LONGEST_BACKOFF = 8.0
_LONGEST_CONNECT = 20.0

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

    requests_per_minute: float | None = Field(None, gt=0)
    """Most requests in any minute, across all workers of a run; speed only."""

    tokens_per_minute: float | None = Field(None, gt=0)
    """Most tokens in any minute, read and written, across all workers of a run; estimated before, speed only."""

    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request, for what this server has beside the protocol; part of the ledger key."""

    headers_env: dict[str, str] = Field(default_factory=dict)
    """Headers to send, each with the name of the environment variable that holds its value."""

    tries: int = Field(6, gt=0, le=100)
    """Requests made for one prompt before it is a failed row."""

    choices: bool = False
    """Closed labels: have the server write nothing else, by vLLM's `structured_outputs`; noted where it cannot."""

    reasoning: Literal["drop", "keep"] = "drop"
    """What becomes of a `<think>` block before the answer."""

    @field_validator("api_key_env", "headers_env")
    @classmethod
    def _names_variables(cls, given: str | dict[str, str] | None) -> str | dict[str, str] | None:
        names = given.values() if isinstance(given, dict) else [given] if given else []
        if not all(name.isidentifier() for name in names):  # what it is instead is not shown: it may be the key
            raise ValueError(
                "is not the name of an environment variable; put the key in one, such as OPENAI_API_KEY, and its name "
                "here"
            )
        return given

    @field_validator("extra_body")
    @classmethod
    def _does_not_contradict(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(extra.keys() & request.OURS):
            raise ValueError(f"'{taken[0]}' is set from the recipe's own fields; remove it from `extra_body`")
        canonical(plain(extra))
        return {str(key): plain(value) for key, value in extra.items()}

    def build(self, name: str, folder: Path) -> OpenAITeacher:
        key = secret.from_environment(self.api_key_env, name, "api_key_env") if self.api_key_env else ""
        key = key.replace(" ", "")  # where it was wrapped
        headers = {
            header: secret.from_environment(variable, name, f"headers_env.{header}")
            for header, variable in self.headers_env.items()
        }
        return OpenAITeacher(name, self, key, headers=headers)


@dataclass(frozen=True, slots=True)
class _Fault:
    """What one request met instead of a reply to read."""

    kind: str
    message: str
    again: bool = False
    billed: bool = False
    """The server may have answered, and charge for it, though nobody read the answer."""
    after: float = 0.0
    """Seconds that the server asked to wait."""
    refusal: str = ""
    """Text in which a refused parameter would be named; empty where none can be."""


class OpenAITeacher:
    """One endpoint; usable from several event loops, one after the other.

    Args:
        name: the key under `teachers:`, for messages.
        key: the API key; goes into the Authorization header and nowhere else.
        headers: secret ones; treated as the key is.
        backoff: ceiling of the first retry's wait in seconds; each retry doubles it, up to 8.
    """

    def __init__(
        self,
        name: str,
        recipe: OpenAIRecipe,
        key: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        backoff: float = 0.25,
    ) -> None:
        self.notes: list[str] = []
        """One line for each thing that the endpoint did not do as asked."""
        self.pace: Pace = EvenPace(recipe.requests_per_minute, recipe.tokens_per_minute)
        """Where several workers share an endpoint, one that they share."""
        self.charge_again: Callable[[Prompt, Sampling], None] = lambda prompt, sampling: None
        """Called before a prompt is sent once more after a request that may have been billed."""
        self._where = f"teacher {name}: "
        self._recipe = recipe
        self._url = recipe.base_url.rstrip("/")
        self._headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        self._secrets = secret.credentials(key, *(headers or {}).values())
        self._unsayable = secret.spellings(self._secrets)
        self._written = 0.0
        """Tokens of an answer, a moving mean."""
        self._noted: set[str] = set()
        self._backoff = backoff
        self._refused: set[str] = set()
        self._answered = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: AsyncGenerator[ClientSession, None]
        self._session: ClientSession
        self._slots: Slots

    @property
    def name(self) -> str:
        return f"{self._recipe.model}@{self._recipe.revision}"

    @property
    def identity(self) -> dict[str, str]:
        named = {"kind": "openai", "model": self._recipe.model, "revision": self._recipe.revision}
        if self._recipe.extra_body:
            named["extra_body"] = canonical(self._recipe.extra_body)
        if self._recipe.choices:
            named["choices"] = "only"
        if self._recipe.reasoning == "keep":
            named["reasoning"] = "keep"
        return named

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        refused: dict[str, str] = {}
        while True:  # ends: each further round takes a field out of the body
            body = request.body(self._recipe, prompt, sampling, self._refused | refused.keys())
            outcome = await self._ask(
                "/chat/completions", body, self._recipe.tries, partial(self.charge_again, prompt, sampling)
            )
            if not isinstance(outcome, _Fault):
                self._learn(refused)
                return self._read(prompt, sampling, outcome)
            parameter = request.refused_field(outcome.refusal, body)
            if parameter in request.OPEN:
                raise self._cannot_go_on(f"it refused `{parameter}` ({outcome.message})")
            if parameter is None:
                return Failed(prompt.id, outcome.kind, outcome.message, outcome.billed)
            refused[parameter] = outcome.message

    async def check(self) -> str:
        """Names of the models that are served.

        Raises:
            TeacherUnreachable: no list of models came back.
        """
        outcome = await self._ask("/models", None, min(3, self._recipe.tries))
        fault = outcome.message if isinstance(outcome, _Fault) else "the reply has none"
        models = reply.at(outcome, "data")
        if isinstance(models, list):
            return ", ".join(str(reply.at(model, "id")) for model in models)
        raise self._unreachable("/models", f"gave no list of models: {fault}", "check base_url")

    async def close(self) -> None:
        if self._loop is not None:
            self._loop = None
            await self._keeper.aclose()

    def _learn(self, refused: Mapping[str, str]) -> None:
        """Remember what had to go, now that the rest passed: a refusal may just quote the prompt."""
        for name in refused.keys() - self._refused:
            self._refused.add(name)
            instead = "sent as `max_completion_tokens`" if name == "max_tokens" else "left out"
            found = f"the server refused `{name}` ({refused[name]}); it is now {instead}"
            self.notes.append(self._where + found)

    async def _ask(
        self, path: str, body: dict[str, Any] | None, tries: int, charge_again: Callable[[], None] = lambda: None
    ) -> dict[str, Any] | _Fault:
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
            if outcome.billed:
                charge_again()
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
        verb, url, sent = ("POST" if body else "GET"), self._url + path, request.packed(body) if body else None
        try:
            async with slots:
                await self.pace.wait(self._tokens_of(body))
                # A followed redirect would turn the POST into a GET.
                async with session.request(verb, url, data=sent, allow_redirects=False) as got:
                    text = (await got.read()).decode(errors="replace")
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
            UnicodeError,  # a host name that no resolver can be asked for
        ) as error:
            return _Fault("unreachable", reply.why(error), again=True)
        except TimeoutError:
            seconds = self._recipe.timeout_seconds
            return _Fault("timeout", f"no reply within {seconds:g} s", again=True, billed=True)
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError):
            return _Fault("malformed", "the reply was cut in the middle", again=True, billed=True)
        except (aiohttp.ClientError, ConnectionError):
            return _Fault("connection", "the connection was lost before a reply", again=True, billed=True)
        slots.refused() if got.status == 429 else slots.answered()
        self._answered = self._answered or got.status < 500
        return self._judge(path, got.status, got.headers, text)

    def _tokens_of(self, body: dict[str, Any] | None) -> int:
        """About what a request will count for: what it says, four bytes a token, and what answers took so far."""
        said = sum(len(message["content"]) for message in body["messages"]) if body else 0
        return said // 4 + round(self._written)

    def _judge(self, path: str, status: int, headers: Mapping[str, str], text: str) -> dict[str, Any] | _Fault:
        """The reply where there is one to read, else its fault; raises where none will come."""
        payload = reply.parsed(secret.hidden(text, self._unsayable))
        if status < 300 and payload is not None:
            if payload.get("choices") or not payload.get("error"):
                return payload
            status = 502  # gateways report a broken upstream inside a 200
        said = headers.get("Location", "") if 300 <= status < 400 else reply.words_of(payload, text)
        short = reply.short(said, self._secrets) or responses.get(status, "")
        if status >= 500 or (status in (408, 409, 429) and "insufficient_quota" not in text):
            kind = {408: "timeout", 429: "rate_limit"}.get(status, "server")
            after = reply.seconds(headers.get("Retry-After", "")) if status in (429, 503) else 0.0
            return _Fault(kind, short, again=True, after=after)
        html = "text/html" in headers.get("Content-Type", "") or re.match(r"\s*<(!doc|html)", text, re.I)
        if payload is None and html and (status < 300 or status in (400, 404, 405)):
            remedy = "check base_url" if self._url.endswith("/v1") else "base_url should end in /v1"
            raise self._unreachable(path, "answered with an HTML page, not JSON", remedy)
        if status < 300:
            found = f"not JSON: {short}"[: reply.LONGEST_MESSAGE] if text.strip() else "the reply is empty"
            return _Fault("malformed", found, again=True, billed=True)
        about_the_prompt = _ABOUT_THE_PROMPT.search(said.replace(self._recipe.model, ""))
        remedy = self._remedy(status)
        if remedy and not (status in (403, 404) and about_the_prompt):
            found = f"answered {status} ({responses.get(status, '')}): {short.rstrip('. ')}"
            raise self._unreachable(path, found, remedy)
        named = f"{reply.at(payload, 'error', 'param')} {said}"
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

    def _cannot_go_on(self, found: str) -> BadInput:
        remedy = "serve the model with vLLM, or use kind: vllm or transformers"
        return BadInput(f"{self._where}{self._url} cannot go on with an open message: {found}; {remedy}")

    def _read(self, prompt: Prompt, sampling: Sampling, payload: dict[str, Any]) -> Answer | Failed:
        choice, usage = reply.at(payload, "choices", 0), reply.at(payload, "usage")
        text, finish = reply.at(choice, "message", "content") or "", reply.at(choice, "finish_reason")
        speaker = reply.at(choice, "message", "role")
        if choice and prompt.open and speaker != prompt.messages[-1].role:  # a server that does not know the fields
            raise self._cannot_go_on(f"it answered as '{speaker}', not as '{prompt.messages[-1].role}'")
        if not isinstance(text, str):
            return Failed(prompt.id, "empty", "the content of the reply is not text")
        tokens = reply.tokens(reply.at(choice, "logprobs", "content")) if sampling.logprobs else ()
        thinking = text.lstrip().startswith("<think>") and "</think>" not in text
        if self._recipe.reasoning == "drop":
            text, tokens = reply.without_reasoning(text, tokens)
        if finish == "length" and (thinking or not text.strip()):
            spent = f"max_tokens = {sampling.max_tokens} ran out before the answer; raise it"
            return Failed(prompt.id, "truncated", spent)
        if not text.strip():
            if refusal := reply.at(choice, "message", "refusal"):
                return Failed(prompt.id, "refused", reply.short(str(refusal), self._secrets))
            found = f"no text (finish_reason: {finish})" if choice else "no choices"
            return Failed(prompt.id, "empty", f"the reply has {found}")
        read, written = reply.count(usage, "prompt_tokens"), reply.count(usage, "completion_tokens")
        self._written += (written - self._written) / 64
        self._note_another(payload)
        if not text.lstrip().startswith(first := reply.beginning(tokens)):
            tokens = ()
            self._note_other_tokens(first, text)
        return Answer(prompt.id, text, finish or "stop", read, written, tokens)

    def _note_another(self, payload: dict[str, Any]) -> None:
        """Say that the server names another model than the one that was asked."""
        named = reply.at(payload, "model")
        if isinstance(named, str) and named != self._recipe.model:
            found = f"asked for `{self._recipe.model}`, answered by `{reply.short(named, self._secrets)}`"
            self._note(named, f"{found}; if that is another model, give it a `revision` of its own")

    def _note_other_tokens(self, first: str, text: str) -> None:
        """Say that log-probabilities are not the answer's own, as where they are of the reasoning before it."""
        told, said = (reply.short(one, self._secrets)[:20] for one in (first, text))
        found = f"the server sent log-probabilities of other tokens than the answer's, `{told}` for `{said}`"
        self._note("tokens", f"{found}; such answers go without: draw several samples, or use another server")

    def _note(self, about: str, said: str) -> None:
        """Say it once."""
        if about not in self._noted:
            self._noted.add(about)
            self.notes.append(self._where + said)

    async def _connection(self) -> tuple[ClientSession, Slots]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._slots = Slots(self._recipe.concurrency)
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
            headers={"Content-Type": "application/json", **self._headers},
            cookie_jar=aiohttp.DummyCookieJar(),  # a sticky cookie would hold us to one replica
        ) as session:
            yield session
