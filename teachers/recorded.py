"""A teacher around a teacher: asked once, answered from the ledger ever after.

Every model is reached through this one, so that each answer is durable before anybody parses it and each is counted.
The key says who answered and what was asked, never where, how fast or for how much. A request is a task of its own:
whoever waits for it may be cancelled without it, because it is paid for either way and others may wait for it too.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..data.errors import BudgetReached
from ..data.fingerprint import digest, packed
from ..data.ledger import Ledger, Record
from ..data.rows import Answer, Failed, Prompt, Token, message_dicts
from ..data.teacher import Sampling, Teacher
from .kind import HourlyPrice, Price

_FRAME_TOKENS = 16
"""More than any chat template puts around a message."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass
class Spend:
    """What a run asked and paid for; paid before, paid now and reserved count toward the cap together."""

    cap: float | None = None
    """Dollars that may be spent in all; None for no cap."""
    before: float = 0.0
    """Dollars toward the cap that earlier runs paid."""
    usd: float = 0.0
    reserved: float = 0.0
    requests: int = 0
    from_ledger: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def paid(self) -> float:
        """Dollars toward the cap, whoever paid them."""
        return self.before + self.usd

    def reserve(self, usd: float) -> None:
        """Set money aside for a request that is about to leave.

        Raises:
            BudgetReached: it could take the run over its cap.
        """
        if self.cap is not None and self.paid + self.reserved + usd > self.cap:
            raise self.reached(f"${usd:.4f}")
        self.reserved += usd

    def reached(self, next_request: str = "more than is left") -> BudgetReached:
        """The refusal to spend more.

        Args:
            next_request: what it may cost.
        """
        return BudgetReached(
            f"budget: ${self.paid:.4f} spent and ${self.reserved:.4f} in flight of ${self.cap or 0:g}, and the next "
            f"request may cost {next_request}; raise budget.usd and run again: nothing is asked twice"
        )

    def take(self) -> Spend:
        """What was counted since the last call; the cap is lowered by what was paid."""
        taken = replace(self, cap=None, reserved=0.0)
        if self.cap is not None:
            self.cap -= self.usd
        self.usd, self.failed = 0.0, {}
        self.requests = self.from_ledger = self.input_tokens = self.output_tokens = 0
        return taken

    def add(self, other: Spend) -> None:
        """Count what was asked and paid elsewhere."""
        for name in ("usd", "requests", "from_ledger", "input_tokens", "output_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, n in other.failed.items():
            self.failed[kind] = self.failed.get(kind, 0) + n

    def line(self, in_flight: int, unit: str = "") -> str:
        """Where the asking stands, for a progress line."""
        parts = [
            " ".join(filter(None, (str(in_flight), unit, "in flight"))),
            f"{self.input_tokens + self.output_tokens:,} tokens",
        ]
        parts += [f"${self.paid:.4f}"] if self.paid else []
        parts += [f"{n} {kind}" for kind, n in self.failed.items()]
        return ", ".join(parts)

    def settle(self, reserved: float, answer: Answer | Failed, usd: float) -> None:
        """Replace a reservation by what the request cost."""
        self.reserved -= reserved
        self.requests += 1
        self.usd += usd
        if isinstance(answer, Answer):
            self.input_tokens += answer.input_tokens
            self.output_tokens += answer.output_tokens
        else:
            self.failed[answer.kind] = self.failed.get(answer.kind, 0) + 1


class RecordedTeacher:
    """Answers from the ledger where it can, and otherwise asks, records, and only then answers.

    Args:
        run: name of the run that pays, written into each record.
        price: of tokens, or of the hours that answers take; None counts tokens only.
    """

    def __init__(
        self, teacher: Teacher, ledger: Ledger, spend: Spend, *, run: str, price: Price | HourlyPrice | None
    ) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.spend = spend
        self.run = run
        self.price = price
        self.asking = True
        """False: a prompt that is not in the ledger is a failed row, not a request."""
        if hasattr(teacher, "charge_again"):
            teacher.charge_again = self._charge_again
        self._charged: dict[tuple[str, int], float] = {}
        """Dollars for requests that may have been billed and brought no answer, by prompt and draw."""
        self._paid_until = 0.0
        """When the last answer came, on the monotonic clock: an hour is paid for up to here."""
        self._dearest = 0.0
        """Dollars of the longest stretch of time so far, where hours are paid for."""
        self._failures: dict[str, Failed] = {}
        self._in_flight: dict[tuple[str, int], asyncio.Task[Answer | Failed]] = {}
        """Requests that have left, by key and log-probabilities asked for."""

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def identity(self) -> dict[str, str]:
        return self.teacher.identity

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        key = request_key(self.identity, prompt, sampling)
        if found := self._recorded(key, prompt, sampling):
            return found
        if not self.asking:
            failed = self._failures.get(key, Failed(prompt.id, "pending", "not asked yet"))
            return replace(failed, id=prompt.id)
        request = (key, sampling.logprobs)
        if asked := self._in_flight.get(request):  # the same question twice at once is asked once
            answer = await asyncio.shield(asked)
            if isinstance(answer, Failed):
                return replace(answer, id=prompt.id)
            self.spend.from_ledger += 1
            return replace(answer, prompt_id=prompt.id, from_ledger=True)
        task = asyncio.create_task(self._ask(key, prompt, sampling))
        self._in_flight[request] = task
        task.add_done_callback(lambda done: self._landed(request, done))
        return await asyncio.shield(task)

    def take_failures(self) -> dict[str, Failed]:
        """Requests that failed since the last call, by key."""
        taken, self._failures = self._failures, {}
        return taken

    def add_failures(self, failures: Mapping[str, Failed]) -> None:
        """Know of requests that failed elsewhere."""
        self._failures.update(failures)

    @property
    def in_flight(self) -> int:
        """Requests that have left and are not answered yet."""
        return len(self._in_flight)

    async def close(self) -> None:
        await self.teacher.close()

    def _recorded(self, key: str, prompt: Prompt, sampling: Sampling) -> Answer | None:
        record = self.ledger.find(key, sampling.logprobs)
        if record is None:
            return None
        if self.asking:
            self.spend.from_ledger += 1
        return answer_from(record.body["answer"], prompt.id)

    def _landed(self, request: tuple[str, int], task: asyncio.Task[Answer | Failed]) -> None:
        del self._in_flight[request]
        if not task.cancelled():
            task.exception()  # seen, even where everybody who waited was cancelled

    async def _ask(self, key: str, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        most = self._most(prompt, sampling)
        self.spend.reserve(most)
        since = time.monotonic()
        cost = most  # a request that ends in an error may have been answered and billed
        stopped = Failed(prompt.id, "interrupted", "stopped before an answer came")
        answer: Answer | Failed = stopped
        try:
            said = await self.teacher.answer(prompt, sampling)
            cost = self._cost(said, most, since)
            answer = _storable(said)
        except BudgetReached:  # no money to ask once more; what was asked before may be billed all the same
            await self.ledger.append(
                self._charge(key, stopped, cost + self._charged.get((prompt.id, prompt.sample), 0.0))
            )
            raise
        finally:
            lost = self._charged.pop((prompt.id, prompt.sample), 0.0)
            self.spend.settle(most + lost, answer, cost + lost)
        if isinstance(answer, Failed):
            self._failures[key] = answer
            if cost + lost:
                await self.ledger.append(self._charge(key, answer, cost + lost))
            return answer
        self._failures.pop(key, None)
        await self.ledger.append(self._record(key, prompt, sampling, answer, cost + lost))
        return answer

    def _charge_again(self, prompt: Prompt, sampling: Sampling) -> None:
        """Keep what the last request of a prompt may have cost, and set the same aside for the next.

        Raises:
            BudgetReached: that could take the run over its cap.
        """
        if isinstance(self.price, HourlyPrice):
            return  # the time of all tries is paid for at the end
        most = self._most(prompt, sampling)
        self.spend.reserve(most)
        draw = (prompt.id, prompt.sample)
        self._charged[draw] = self._charged.get(draw, 0.0) + most

    def paid(self, prompt: Prompt, sampling: Sampling) -> float:
        """Dollars that a recorded answer cost when it was asked for."""
        record = self.ledger.find(request_key(self.identity, prompt, sampling), sampling.logprobs)
        return float(record.body["usd"]) if record else 0.0

    def _cost(self, said: Answer | Failed, most: float, since: float) -> float:
        """Dollars of one outcome; where nobody counted the tokens, the most it can have cost.

        Args:
            since: when it was asked for, on the monotonic clock.
        """
        if isinstance(self.price, HourlyPrice):
            since, self._paid_until = max(since, self._paid_until), time.monotonic()
            usd = self.price.usd(self._paid_until - since)
            self._dearest = max(self._dearest, usd)
            return usd
        if isinstance(said, Failed):
            return most if said.billed else 0.0
        if self.price is None:
            return 0.0
        return self.price.usd(said) if said.input_tokens and said.output_tokens else most

    def _most(self, prompt: Prompt, sampling: Sampling) -> float:
        """Dollars that a request can cost at most: no tokenizer makes more tokens than a text has bytes.

        Nobody knows the time that an answer will take, so by the hour it is what one took at most until now: a cap may
        be passed by what is in flight.
        """
        if self.price is None:
            return 0.0
        if isinstance(self.price, HourlyPrice):
            return self._dearest
        texts = (*(message.content for message in prompt.messages), prompt.schema)
        tokens = sum(len(text.encode()) + _FRAME_TOKENS for text in texts)
        return (self.price.input * tokens + self.price.output * sampling.max_tokens) / 1e6

    def _record(self, key: str, prompt: Prompt, sampling: Sampling, answer: Answer, usd: float) -> Record:
        body = {
            "teacher": self.identity,
            "messages": message_dicts(prompt.messages),
            "sampling": sampling.model_dump(),
            "sample": prompt.sample,
            "answer": _answer_body(answer),
            "run": self.run,
            "usd": usd,
            "at": round(time.time(), 3),
        }
        return Record(key, sampling.logprobs, body)

    def _charge(self, key: str, failed: Failed, usd: float) -> Record:
        """What may have been paid for no answer: not found by any request, and part of every sum of dollars."""
        at = round(time.time(), 3)
        body = {"teacher": self.identity, "failed": failed.kind, "run": self.run, "usd": usd, "at": at}
        return Record(digest(f"{key}\0{time.time_ns()}".encode())[:32], 0, body)


def request_key(identity: dict[str, str], prompt: Prompt, sampling: Sampling) -> str:
    """Thirty-two hex digits that say who was asked what, and in which draw."""
    asked = {
        "teacher": identity,
        "messages": message_dicts(prompt.messages),
        "choices": list(prompt.choices),
        "schema": prompt.schema,
        "sampling": sampling.model_dump(exclude={"logprobs"}),
        "sample": prompt.sample,
        **({"open": True} if prompt.open else {}),  # older than this field are most ledgers
    }
    return digest(packed(asked))[:32]


def spent_before(ledger: Ledger, run: str, since: float = 0.0) -> float:
    """Dollars that a run paid from a moment on (seconds since 1970), from the ledger itself."""
    records = (record.body for record in ledger.records())
    return sum(float(body.get("usd", 0.0)) for body in records if body.get("run") == run and body["at"] >= since)


def answer_from(body: dict[str, Any], prompt_id: str) -> Answer:
    """An answer as it was recorded."""
    tokens = tuple(_token(*parts) for parts in body["tokens"])
    rest = {name: body[name] for name in ("text", "finish_reason", "input_tokens", "output_tokens", "scores")}
    return Answer(prompt_id, tokens=tokens, from_ledger=True, **rest)


def _answer_body(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "scores": dict(answer.scores) if answer.scores is not None else None,
        "tokens": [_token_parts(token) for token in answer.tokens],
    }


def _token(
    text: str, logprob: float, top: Sequence[tuple[str, float]], id: int = -1, top_ids: Sequence[int] = ()
) -> Token:
    return Token(text, logprob, tuple((other, value) for other, value in top), id, tuple(top_ids))


def _token_parts(token: Token) -> list[Any]:
    """A token as it is recorded: ids only where the model said them, and in records younger than ids."""
    ids = [token.id, list(token.top_ids)] if token.id >= 0 else []
    return [token.text, token.logprob, [list(pair) for pair in token.top], *ids]


def _storable(answer: Answer | Failed) -> Answer | Failed:
    """The answer in what JSON, UTF-8 and Parquet can all hold.

    Half of a surrogate pair, which a text cut in the middle of an emoji ends with, becomes U+FFFD.
    """
    if isinstance(answer, Failed) or not (answer.tokens or answer.scores or _HALF_PAIR.search(answer.text)):
        return answer
    numbers = [value for token in answer.tokens for value in (token.logprob, *(value for _, value in token.top))]
    if not all(map(math.isfinite, [*numbers, *(answer.scores or {}).values()])):
        return Failed(answer.prompt_id, "broken", "a log-probability in the answer is not a finite number")
    tokens = tuple(
        replace(token, text=_whole(token.text), top=tuple((_whole(text), value) for text, value in token.top))
        for token in answer.tokens
    )
    return replace(answer, text=_whole(answer.text), tokens=tokens)


def _whole(text: str) -> str:
    return _HALF_PAIR.sub("\ufffd", text)
