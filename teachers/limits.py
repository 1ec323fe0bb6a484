"""How much an endpoint takes: requests at once, which it teaches us, and requests and tokens a minute, which it states.

A refusal (429) costs the request that met it a wait and nobody else. Only where more than one reply in twenty is a
refusal do fewer requests go out at once, by a quarter each time, and one more again after every 25 answers (additive
increase, multiplicative decrease: Chiu and Jain 1989). A quarter less at every refusal would settle at 8 requests
in flight of 256 where 2% of replies are refused at random.

A minute's allowance is spread evenly instead of being spent at its start: nobody then waits for the minute to end, and
no 60 seconds, wherever they begin, hold more than the limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Protocol, Self

_TOLERATED = 1 / 20
"""Share of refusals that changes nothing."""

_PATIENCE = 4.0
"""Refusals beyond the tolerated share that make for fewer requests at once."""

_STEP = 25
"""Answers after which one more request goes out at once."""

_MINUTE = 61.0
"""Seconds that a minute's allowance is spread over: what left evenly may arrive a little less so."""


class Slots:
    """Requests in flight: at most ``most``, and fewer while the other side refuses. Used as ``async with slots``."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.busy = 0
        self._strain = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def answered(self) -> None:
        """Something other than a refusal came back."""
        self._strain = max(0.0, self._strain - _TOLERATED)
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + 1 / _STEP)
            self._let_in()

    def refused(self) -> None:
        """The other side asked for fewer requests."""
        self._strain += 1
        if self._strain > _PATIENCE:
            self._strain = 0.0
            self.limit = max(1.0, 0.75 * min(self.limit, float(self.busy)))

    async def __aenter__(self) -> Self:
        if self._waiting or self.busy >= int(self.limit):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn  # whoever lets us in has counted us already
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        else:
            self.busy += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self.busy -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.busy < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.busy += 1
                turn.set_result(None)


class Pace(Protocol):
    """When the next request may leave."""

    async def wait(self, tokens: int) -> None:
        """Return when a request of about so many tokens may leave; every call takes a place of its own."""
        ...


class EvenPace:
    """Requests and tokens a minute, spread evenly; None for no limit."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        self._seconds_a_request = _MINUTE / requests if requests else 0.0
        self._seconds_a_token = _MINUTE / tokens if tokens else 0.0
        self._next = 0.0

    def delay(self, tokens: int) -> float:
        """Seconds from now until the place that this call took."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + max(self._seconds_a_request, tokens * self._seconds_a_token)
        return start - now

    async def wait(self, tokens: int) -> None:
        if (seconds := self.delay(tokens)) > 0:
            await asyncio.sleep(seconds)
