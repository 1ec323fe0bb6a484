"""A chat completions endpoint on loopback that replies what a test wrote down, faults included."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Reply:
    """What goes back for one request."""

    body: Any = None
    """Text as it is; anything else as JSON."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the first byte."""
    fault: str = ""
    """`drop` hangs up before a status line, `headers` after the headers, `cut` after half of the body; `stall` stays
    silent after the headers."""


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: Any
    at: float
    """Seconds on the monotonic clock."""


def says(text: str | None, *, finish: str = "stop", logprobs: Any = None, **message: Any) -> Reply:
    choice = {
        "message": {"role": "assistant", "content": text} | message,
        "finish_reason": finish,
        "logprobs": logprobs,
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return Reply({"object": "chat.completion", "choices": [choice], "usage": usage})


def error(status: int, message: str, **headers: str) -> Reply:
    """An error as OpenAI words it; ``Retry_After`` becomes the header of that name."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "type": "error"}}, status, named)


class Endpoint:
    """Serves from a thread with its own loop while the `with` block runs.

    Args:
        script: replies to the first requests, in their order.
        then: the reply to every later request, or what makes it from the request's body.
        together: no request is answered before this many wait at once, or 5 s have passed.
    """

    def __init__(
        self,
        *script: Reply,
        then: Reply | Callable[[Any], Reply] | None = None,
        together: int = 0,
    ) -> None:
        self.requests: list[Asked] = []
        self.most_in_flight = 0
        self.base_url = ""
        self._script = list(script)
        self._then = then or says("ok")
        self._together = together
        self._in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._runner: web.AppRunner

    def __enter__(self) -> Self:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def bodies(self) -> list[Any]:
        return [asked.body for asked in self.requests]

    async def _start(self) -> int:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._met = asyncio.Event()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        return self._runner.addresses[0][1]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw) if raw else None
        self.requests.append(Asked(request.path, dict(request.headers), body, time.monotonic()))
        reply = self._script.pop(0) if self._script else self._then
        if not isinstance(reply, Reply):
            reply = reply(body)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await self._wait(reply.delay)
        finally:
            self._in_flight -= 1
        return await self._send(request, reply)

    async def _wait(self, delay: float) -> None:
        if self._in_flight >= self._together:
            self._met.set()
        try:
            await asyncio.wait_for(self._met.wait(), 5)
        except TimeoutError:
            self._met.set()
        await asyncio.sleep(delay)

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        data = text.encode()
        headers = {"Content-Type": "application/json"} | dict(reply.headers)
        transport = request.transport
        if not reply.fault or transport is None:
            return web.Response(body=data, status=reply.status, headers=headers)
        if reply.fault != "drop":
            response = web.StreamResponse(status=reply.status, headers=headers)
            response.content_length = len(data)
            await response.prepare(request)
        if reply.fault == "cut":
            await response.write(data[: len(data) // 2])
        if reply.fault == "stall":
            await asyncio.sleep(30)
        transport.close()
        return web.Response()
