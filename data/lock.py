"""One run at a time per recipe and root: a lock with a holder and an expiry.

The lock is an object that is created, renewed, taken over and given back by compare-and-swap, so that it works where
there are no file locks. A holder that was killed leaves it behind; it is taken over at once when the holder's process
is known to be gone (same machine, same container), else when it has expired and is not renewed while one looks on.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, Self

from .errors import Locked, UnderstudyError
from .storage import Storage

EXPIRY_SECONDS = 60.0

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "host": str,
    "namespace": str,
    "pid": int,
    "started": (str, NoneType),
    "since": str,
    "expires": (int, float),
}
_GONE = "gone"


class Lock:
    """Held inside a ``with`` block, renewed by a thread.

    Raises:
        Locked: another run holds it; the message says who and since when.
    """

    def __init__(self, storage: Storage, path: str, expiry: float = EXPIRY_SECONDS) -> None:
        self.storage = storage
        self.path = path
        self.expiry = expiry
        self._since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._held = b""
        self._turn = threading.Lock()
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
            if holder is not None and self._alive(holder, found):
                raise Locked(
                    f"{self.path}: held by process {holder['pid']} on {holder['host']} since {holder['since']}; "
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
        self.storage.drop(self.path, self._held)

    def _alive(self, holder: dict[str, Any], found: bytes) -> bool:
        """Whether the holder still works: by its process where that can be seen, else by the expiry.

        Where the expiry is past, or further ahead than any is set, one of the clocks is wrong or the holder is gone:
        then the lock is watched for as long as two renewals take, because a clock must not decide that two may run.
        """
        if (holder["host"], holder["namespace"]) == (socket.gethostname(), _namespace()):
            started = _started(holder["pid"])
            if started is not None:
                return bool(started != _GONE and started == holder["started"])
        if 0 < holder["expires"] - time.time() <= self.expiry:
            return True
        until = time.monotonic() + self.expiry / 2
        while time.monotonic() < until:
            time.sleep(min(1.0, self.expiry / 16))
            try:
                if self.storage.read(self.path) != found:
                    return True
            except FileNotFoundError:
                return False
        return False

    def check(self) -> None:
        """Raise `Locked` if another run has taken over, so that nothing is finished twice."""
        self._renew()
        if self._lost:
            raise Locked(
                f"{self.path}: taken over by another run, or removed, while this one was stalled; "
                "this one stops: everything paid for is in the ledger"
            )

    def _hold(self, mine: bytes) -> Self:
        self._held = mine
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)
        self._thread.start()
        return self

    def _keep(self) -> None:
        while not self._lost and not self._stop.wait(self.expiry / 4):
            self._renew()

    def _renew(self) -> None:
        with self._turn:
            mine = self._content()
            try:
                renewed = not self._lost and self.storage.swap(self.path, self._held, mine)
            except UnderstudyError:  # a full disk takes no renewal; what stands there is ours until it expires
                self._lost = not self._still_ours()
                return
            self._lost = not renewed
            if renewed:
                self._held = mine

    def _still_ours(self) -> bool:
        try:
            return self.storage.read(self.path) == self._held
        except FileNotFoundError:
            return False

    def _content(self) -> bytes:
        holder = {
            "host": socket.gethostname(),
            "namespace": _namespace(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": self._since,
            "expires": time.time() + self.expiry,
        }
        return json.dumps(holder).encode()


def _holder(content: bytes) -> dict[str, Any] | None:
    """Who holds the lock; None for a file that was cut short or overwritten, which nobody holds."""
    try:
        holder = json.loads(content)
    except ValueError:
        return None
    whole = isinstance(holder, dict) and all(isinstance(holder.get(key), kind) for key, kind in _FIELDS.items())
    return holder if whole else None


def _namespace() -> str:
    """Which process ids are meant: two containers may share a host name, but not these."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine started, in clock ticks; `_GONE` where there is none, None where it is not told.

    A process id alone is not enough: it is used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode("ascii", "replace")
    except OSError:
        return _GONE if _gone(pid) else None
    fields = stat.rpartition(")")[2].split()
    return _GONE if fields[0] in "ZX" else fields[19]  # a zombie holds nothing any more


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is there, and somebody else's
        pass
    return False
