"""One run at a time per recipe and root: a lock with a holder and an expiry.

The lock is an object that is created, renewed and taken over by compare-and-swap, so that it works where there are no
file locks. A holder that was killed leaves it behind; it is taken over at once when the holder's process is known to
be gone (same machine), else when it expires.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .errors import Locked
from .storage import Storage

EXPIRY_SECONDS = 60.0


class Lock:
    """Held inside a ``with`` block, renewed by a thread.

    Raises:
        Locked: another run holds it; the message says who and since when.
    """

    def __init__(self, storage: Storage, path: str, expiry: float = EXPIRY_SECONDS) -> None:
        self.storage = storage
        self.path = path
        self.expiry = expiry
        self._since = time.time()
        self._held = b""
        self._stop = threading.Event()
        self._lost = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        for _ in range(3):  # a lock released between our two looks is tried again
            mine = self._content()
            if self.storage.create(self.path, mine):
                return self._hold(mine)
            try:
                found = self.storage.read(self.path)
            except FileNotFoundError:
                continue
            holder = _holder(found)
            if holder is not None and _alive(holder):
                since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
                raise Locked(
                    f"{self.path}: held by process {holder['pid']} on {holder['host']} since {since}; "
                    "wait for it to end, or stop it: this run loses nothing"
                )
            if self.storage.swap(self.path, found, mine):
                return self._hold(mine)
        raise Locked(f"{self.path}: another run took it first; wait for it to end")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self._lost:
            self.storage.delete(self.path)

    def check(self) -> None:
        """Raise `Locked` if another run has taken over, so that nothing is finished twice."""
        if self._lost:
            raise Locked(
                f"{self.path}: taken over by another run while this one was stalled; "
                "this one stops: everything paid for is in the ledger"
            )

    def _hold(self, mine: bytes) -> Self:
        self._held = mine
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()
        return self

    def _renew(self) -> None:
        while not self._stop.wait(self.expiry / 4):
            mine = self._content()
            if not self.storage.swap(self.path, self._held, mine):
                self._lost = True
                return
            self._held = mine

    def _content(self) -> bytes:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": self._since,
            "expires": time.time() + self.expiry,
        }
        return json.dumps(holder).encode()


def _holder(content: bytes) -> dict[str, Any] | None:
    """Who holds the lock; None for a file that was cut short, which nobody holds."""
    try:
        holder = json.loads(content)
        return {key: holder[key] for key in ("host", "pid", "started", "since", "expires")}
    except (ValueError, KeyError, TypeError):
        return None


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname():
        return bool(_started(holder["pid"]) == holder["started"] is not None) or (
            holder["started"] is None and holder["expires"] > time.time()
        )
    return bool(holder["expires"] > time.time())


def _started(pid: int) -> str | None:
    """When a process of this machine started, in clock ticks; None where it is gone or cannot be told.

    A process id alone is not enough: it is used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
