"""A teacher around a teacher: asked once, answered from the ledger ever after.

Every model is reached through this one, so that each answer is durable before anybody parses it and each is counted.
The key says who answered and what was asked, never where, how fast or for how much.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from ..data.errors import BudgetReached
from ..data.fingerprint import canonical, digest
from ..data.ledger import Ledger, Record
from ..data.rows import Answer, Failed, Prompt, Token, message_dicts
from ..data.teacher import Sampling, Teacher
from .kind import Price


@dataclass
class Spend:
    """What a run asked and paid for; `usd` counts toward the cap together with what is reserved."""

    cap: float | None = None
    """Dollars this run may spend in all; None for no cap."""
    usd: float = 0.0
    reserved: float = 0.0
    requests: int = 0
    from_ledger: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    def reserve(self, usd: float) -> None:
        """Set money aside for a request that is about to leave.

        Raises:
            BudgetReached: it could take the run over its cap.
        """
        if self.cap is not None and self.usd + self.reserved + usd > self.cap:
            raise BudgetReached(
                f"budget: ${self.usd:.4f} spent and ${self.reserved:.4f} in flight of ${self.cap:g}, and the next "
                f"request may cost ${usd:.4f}; raise budget.usd and run again: nothing is asked twice"
            )
        self.reserved += usd

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
        price: dollars per token; None counts tokens only.
    """

    def __init__(self, teacher: Teacher, ledger: Ledger, spend: Spend, *, run: str, price: Price | None) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.spend = spend
        self.run = run
        self.price = price
        self.asking = True
        """False: a prompt that is not in the ledger is a failed row, not a request."""
        self._failures: dict[str, Failed] = {}
        self._in_flight: dict[str, asyncio.Future[Answer | Failed]] = {}

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
            return self._failures.get(key) or Failed(prompt.id, "pending", "not asked yet")
        if waiting := self._in_flight.get(key):  # the same question twice at once is asked once
            return _readdressed(await asyncio.shield(waiting), prompt.id)
        future: asyncio.Future[Answer | Failed] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = future
        try:
            answer = await self._ask(key, prompt, sampling)
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # nobody else may be waiting for it
            raise
        finally:
            del self._in_flight[key]
        future.set_result(answer)
        return answer

    async def close(self) -> None:
        await self.teacher.close()

    def _recorded(self, key: str, prompt: Prompt, sampling: Sampling) -> Answer | None:
        record = self.ledger.find(key, sampling.logprobs)
        if record is None:
            return None
        if self.asking:
            self.spend.from_ledger += 1
        return answer_from(record.body["answer"], prompt.id)

    async def _ask(self, key: str, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        most = self._most(prompt, sampling)
        self.spend.reserve(most)
        cost = most  # a request that ends in an error may have been answered and billed
        answer: Answer | Failed = Failed(prompt.id, "interrupted", "stopped before an answer came")
        try:
            answer = await self.teacher.answer(prompt, sampling)
            cost = self.price.usd(answer) if self.price and isinstance(answer, Answer) else 0.0
        finally:
            self.spend.settle(most, answer, cost)
        if isinstance(answer, Failed):
            self._failures[key] = answer
            return answer
        self._failures.pop(key, None)
        await self.ledger.append(self._record(key, prompt, sampling, answer, cost))
        return answer

    def _most(self, prompt: Prompt, sampling: Sampling) -> float:
        """Dollars that a request can cost at most: no tokenizer makes more than a token of two bytes of text."""
        if self.price is None:
            return 0.0
        tokens = sum(len(message.content.encode()) for message in prompt.messages) / 2 + 16
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


def request_key(identity: dict[str, str], prompt: Prompt, sampling: Sampling) -> str:
    """Thirty-two hex digits that say who was asked what, and in which draw."""
    asked = {
        "teacher": identity,
        "messages": message_dicts(prompt.messages),
        "choices": list(prompt.choices),
        "schema": prompt.schema,
        "sampling": sampling.model_dump(exclude={"logprobs"}),
        "sample": prompt.sample,
    }
    return digest(canonical(asked).encode())[:32]


def spent_before(ledger: Ledger, run: str) -> float:
    """Dollars that earlier invocations of a run paid, from the ledger itself."""
    return sum(float(record.body.get("usd", 0.0)) for record in ledger.records() if record.body.get("run") == run)


def answer_from(body: dict[str, Any], prompt_id: str) -> Answer:
    """An answer as it was recorded."""
    tokens = tuple(
        Token(text, logprob, tuple((other, value) for other, value in top)) for text, logprob, top in body["tokens"]
    )
    rest = {name: body[name] for name in ("text", "finish_reason", "input_tokens", "output_tokens", "scores")}
    return Answer(prompt_id, tokens=tokens, from_ledger=True, **rest)


def _answer_body(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "scores": dict(answer.scores) if answer.scores is not None else None,
        "tokens": [[token.text, token.logprob, [list(pair) for pair in token.top]] for token in answer.tokens],
    }


def _readdressed(answer: Answer | Failed, prompt_id: str) -> Answer | Failed:
    if isinstance(answer, Failed):
        return Failed(prompt_id, answer.kind, answer.message)
    return Answer(
        prompt_id,
        answer.text,
        answer.finish_reason,
        answer.input_tokens,
        answer.output_tokens,
        answer.tokens,
        answer.scores,
        from_ledger=True,
    )
