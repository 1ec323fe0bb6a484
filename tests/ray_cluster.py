"""A Ray cluster on loopback as people start one: a head and a node, ports of their own, token authentication on.

It is ended by the ids of its own processes: `ray stop` would stop every Ray on the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Self

_RAY = Path(sys.executable).with_name("ray")


class RayCluster:
    """Runs while the `with` block does.

    Args:
        folder: for its token, logs and session.
    """

    def __init__(self, folder: Path) -> None:
        self.token = folder / "token"
        self.token.write_text("0123456789abcdef" * 4)
        self._folder = folder
        self._session = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path in it has 107 characters at most
        self._processes: list[subprocess.Popen] = []
        gcs, dashboard, client, *self._agents = _free_ports(5)
        self.address = f"http://127.0.0.1:{dashboard}"
        self._gcs = f"127.0.0.1:{gcs}"
        self._head = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def __enter__(self) -> Self:
        self._start("--head", *self._head, "--num-cpus=0", f"--temp-dir={self._session}")
        self._wait()
        self._start(f"--address={self._gcs}", "--num-cpus=2")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()  # what `ray start --block` started ends with it
        for process in self._processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self._session, ignore_errors=True)

    def kill(self) -> None:
        """Every process at once, as when a machine is lost."""
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes = []

    def _start(self, *arguments: str) -> None:
        """One node; the job's python is this one, whose folder has to be on the path."""
        path = f"{_RAY.parent}:{os.environ['PATH']}"
        agent = f"--dashboard-agent-listen-port={self._agents[len(self._processes)]}"
        ports = [agent, "--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1"]
        with open(self._folder / f"node-{len(self._processes)}.log", "w") as log:
            self._processes.append(
                subprocess.Popen(
                    [_RAY, "start", "--block", "--disable-usage-stats", *ports, *arguments],
                    env={**os.environ, **self.environment, "PATH": path, "OMP_NUM_THREADS": "1"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _wait(self) -> None:
        """Until the head's job server answers."""
        asked = urllib.request.Request(f"{self.address}/api/version")
        asked.add_header("Authorization", f"Bearer {self.token.read_text()}")
        until = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(asked, timeout=5).close()
                return
            except OSError:
                assert self._processes[0].poll() is None, (self._folder / "node-0.log").read_text()
                assert time.monotonic() < until, (self._folder / "node-0.log").read_text()
                time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
