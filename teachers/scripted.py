"""A teacher that answers from a function and remembers what it was asked. For tests, never for claims."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..data.rows import Answer, Failed, Prompt
from ..data.teacher import Sampling


class ScriptedTeacher:
    """Answers with what ``reply`` makes of the last message; a `Failed` from it is a failed row.

    Args:
        reply: the last message's text to the answer, or to a whole `Answer` or `Failed`.
        delay: seconds that an answer takes.
    """

    def __init__(
        self, reply: Callable[[str], str | Answer | Failed], *, name: str = "scripted@main", delay: float = 0.0
    ) -> None:
        self.reply = reply
        self.delay = delay
        self.asked: list[str] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> dict[str, str]:
        model, _, revision = self._name.partition("@")
        return {"kind": "scripted", "model": model, "revision": revision}

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        self.asked.append(prompt.id)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(self.delay)
            said = self.reply(prompt.messages[-1].content)
        finally:
            self._in_flight -= 1
        if isinstance(said, str):
            return Answer(prompt.id, said)
        return said

    async def close(self) -> None:
        """Nothing to give back."""
