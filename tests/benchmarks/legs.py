"""Running one leg as a process: to its end, or until it is killed half way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .gauge import Report
from .job import Job
from .server import MockTeacher

ROOT = Path(__file__).resolve().parents[2]


def bare(job: Job, server: MockTeacher) -> Report:
    """The bare loop over the job's pool, on a server that has seen nothing."""
    server.reset()
    return _report(bare_command(job))


def ours(job: Job, server: MockTeacher, step: str = "ask") -> Report:
    """Our path over the job's pool, on a server that has seen nothing."""
    server.reset()
    return _report(_module("ours", job.recipe, job.root, job.rows, step))


def on_ray(job: Job, workers: int) -> list[float]:
    """When each answer was durable, in seconds, with so many workers on a Ray of this machine; in order."""
    times: list[float] = json.loads(finish(_module("workers", job.recipe, job.root, workers)))
    return times


def on_engine(recipe: Path, rows: int, how: str) -> Report:
    """A vLLM engine asked by the label stage (`ours`) or directly (`direct`)."""
    return _report(_module("engine", recipe, recipe.parent / "runs", rows, how))


def bare_command(job: Job) -> list[str]:
    return _module("bare", job.pool, job.journal, job.base_url, job.rows, job.concurrency)


def label_command(job: Job) -> list[str]:
    """The command line as a user starts it."""
    return [str(Path(sys.executable).with_name("understudy")), "label", str(job.recipe), "--root", str(job.root)]


def edited_command(job: Job) -> list[str]:
    """The same with another parser."""
    return _module("edited", *label_command(job)[1:])


def finish(command: Sequence[str]) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def kill_half_way(command: Sequence[str], server: MockTeacher, rows: int) -> None:
    """Kill a command when half of its rows are answered; returns when what it had in flight is answered too."""
    server.reset()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while server.stats()["ok"] < rows / 2:
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended before it was killed: {process.communicate()[1]}")
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    server.settle()


def _report(command: Sequence[str]) -> Report:
    return Report(**json.loads(finish(command)))


def _module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"{__package__}.{name}", *map(str, arguments)]
