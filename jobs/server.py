"""The job server of a Ray cluster: what runs there, starting and stopping a job, and what a job says and ends with.

Every way in which Ray says no becomes one line here. Ray would follow RAY_ADDRESS before the address that it is
given, so that variable is put away; and it starts jobs by HTTP without a limit on time, so we knock first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..data.errors import BadInput, TeacherUnreachable, UnderstudyError

Answer = TypeVar("Answer")

_PATIENCE = 30.0
"""Seconds for a head that has just started, or is busy, to come to itself."""

_TRIES = 3
"""To read the rest of what a job said that has ended."""

_NOISE = re.compile(r"\d{4}-\d\d-\d\d .*\sINFO job_manager\.py:\d+ -- |Running entrypoint for job ")
"""Lines that Ray writes into a job's log."""


class JobServer:
    """One cluster, by the address of its dashboard.

    Raises:
        TeacherUnreachable: nobody answers there, or it is no job server.
        BadInput: it refuses the token, or has another Ray or Python.
    """

    def __init__(self, address: str) -> None:
        self.address = address if "://" in address else f"http://{address}"
        if urlsplit(self.address).scheme not in ("http", "https"):
            raise BadInput(f"--address {address}: expected the cluster's dashboard, such as http://head:8265")
        try:
            import ray.job_submission  # noqa: F401  here, so that its absence is told first
        except ImportError:
            raise BadInput("submit: ray is not installed; run `pip install 'understudy[ray]'`") from None
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        self._client = self._ask(self._connected, patience=0)
        self._refuse_another_ray()

    def jobs(self) -> dict[str, Any]:
        """Ray's details of every job by its id, in the order in which they began."""
        found = [job for job in self._ask(self._client.list_jobs) if job.submission_id]
        return {job.submission_id: job for job in sorted(found, key=lambda job: job.start_time or 0)}

    def job(self, name: str) -> Any:
        """Ray's details of one job."""
        return self._ask(lambda: self._client.get_job_info(name))

    def start(self, name: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
        """Start a job; False, and nothing started, where there is one of this id."""

        def submit() -> bool:
            try:
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=name,
                    runtime_env=dict(runtime_env),
                    metadata=dict(metadata),
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                if "status code 5" in str(error):  # such as: no agent yet
                    raise
                raise UnderstudyError(f"job {name}: {self.address} did not take it: {_last_line(error)}") from None
            return True

        return self._ask(submit)

    def stop(self, name: str) -> bool:
        """Ask a job to stop, and wait until it has; False where it had ended before."""
        stopped: bool = self._ask(lambda: self._client.stop_job(name))
        while stopped and not self.job(name).status.is_terminal():
            time.sleep(0.2)
        return stopped

    async def lines(self, name: str) -> AsyncIterator[str]:
        """What a job says, from its first line to its last, across a connection that breaks."""
        from aiohttp import ClientError

        seen = broken = 0
        while True:
            said, text = 0, ""
            try:
                async for part in self._client.tail_job_logs(name):
                    *whole, text = (text + part).split("\n")
                    for line in whole:
                        said += 1
                        if said > seen:
                            seen, broken = said, 0
                            if line.strip() and not _NOISE.match(line):
                                yield line
                broken = 0
            except (ClientError, OSError, RuntimeError):
                broken += 1
            if self.job(name).status.is_terminal() and (not broken or broken > _TRIES):
                if text.strip():
                    yield text
                return
            await asyncio.sleep(1)

    def _connected(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        self._knock()
        return JobSubmissionClient(self.address)

    def _knock(self) -> None:
        """Fail at once where nobody listens."""
        place = urlsplit(self.address)
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout=5).close()

    def _refuse_another_ray(self) -> None:
        """Where the code was never run; the driver and all workers have the cluster's Ray and Python."""
        import ray

        there = self._ask(lambda: self._client._do_request("GET", "/api/version").json())
        more = self._ask(lambda: self._client._do_request("GET", "/api/v0/cluster_metadata").json()["data"])
        found = {"Ray": there["ray_version"], "Python": more["pythonVersion"].rpartition(".")[0]}
        here = {"Ray": ray.__version__, "Python": platform.python_version().rpartition(".")[0]}
        for what, version in here.items():
            if found[what] != version:
                raise BadInput(
                    f"--address {self.address}: the cluster has {what} {found[what]}, and this is {what} {version}; "
                    f"submit from an environment with {what} {found[what]}, or give the cluster an image with {version}"
                )

    def _ask(self, call: Callable[[], Answer], patience: float = _PATIENCE) -> Answer:
        """What a call returns; it is repeated while the head is not itself."""
        from ray.exceptions import AuthenticationError

        until = time.monotonic() + patience
        while True:
            try:
                return call()
            except AuthenticationError as error:
                refused = "refuses the token" if "Invalid" in str(error) else "asks for a token, and none was sent"
                raise BadInput(
                    f"--address {self.address}: {refused}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file "
                    "with the cluster's token"
                ) from None
            except (OSError, RuntimeError, ValueError, KeyError) as error:
                if time.monotonic() >= until:
                    raise TeacherUnreachable(
                        f"--address {self.address}: no Ray job server answers there: {_last_line(error)}; start the "
                        "cluster, or give its dashboard's address, such as http://head:8265"
                    ) from None
            time.sleep(1)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].strip()[:300] if lines else type(error).__name__
