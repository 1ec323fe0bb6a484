"""The teacher that every leg asks: `mock_teacher.py` of the shared tools, as a process of its own on loopback.

Its latencies, faults and replies are a function of prompt and attempt, and `reset` makes every attempt the first again:
two legs that send the same prompts meet the same server.
"""

from __future__ import annotations

import json
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

SHARED = Path(__file__).resolve().parents[3] / "shared"
TOOL = SHARED / "tools" / "mock_teacher.py"
_SEED = 7
_PATIENCE_SECONDS = 60


class MockTeacher:
    """Serves while the `with` block runs.

    Args:
        median: latency in seconds; lognormal with sigma 0.5, or none at 0.
        faults: shares of requests by the tool's flag, such as ``p500=0.05``.
    """

    def __init__(self, median: float = 0.3, **faults: float) -> None:
        self._port = _free_port()
        flags = {"port": self._port, "median": median, "seed": _SEED, **faults}
        self._flags = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        self._open = build_opener(ProxyHandler({})).open
        self._functions = runpy.run_path(str(TOOL))
        self._poisoned = faults.get("p_poison", 0.0)
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, str(TOOL), *self._flags])
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self.stats()
                return self
            except URLError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.__exit__()
                    raise
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def stats(self) -> dict[str, Any]:
        """What was asked since the last reset."""
        with self._open(f"http://127.0.0.1:{self._port}/stats", timeout=_PATIENCE_SECONDS) as reply:
            counts: dict[str, Any] = json.load(reply)
            return counts

    def reset(self) -> None:
        """Forget what was asked, once nothing is in flight any more."""
        self.settle()
        self._open(Request(f"http://127.0.0.1:{self._port}/reset", method="POST"), timeout=_PATIENCE_SECONDS).close()

    def settle(self) -> None:
        """Wait until every request that came in was answered, also those of a client that died."""
        while self.stats()["in_flight"]:
            time.sleep(0.05)

    def reply(self, prompt: str) -> str:
        """What it says to a prompt, where nothing goes wrong."""
        return str(self._functions["expected_reply"](_SEED, prompt))

    def poisons(self, prompt: str) -> bool:
        """Whether a prompt fails for ever."""
        return bool(self._functions["h"](_SEED, "poison", prompt) % 10**6 / 10**6 < self._poisoned)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
