"""What a student takes in memory where it runs: measured in a process of its own, which does nothing but answer.

Most of it is torch; a server that answers has that too, so it is counted.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.rows import Message, Prompt
from ..data.teacher import Sampling

_AT_ONCE = 16
_LONGEST = 600.0
"""Seconds after which nobody waits any more: it is a figure for the report, not worth a run."""


def footprint(folder: Path, inputs: Sequence[str], labels: Sequence[str], max_tokens: int) -> int | None:
    """Bytes that a process holds at most while it answers some messages; None where that could not be measured."""
    asked = {"folder": str(folder), "inputs": list(inputs), "labels": list(labels), "max_tokens": max_tokens}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=json.dumps(asked), capture_output=True, text=True, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        return None
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


def main() -> None:
    """Answer what is read from stdin, and print the peak."""
    from ..teachers.transformers import TransformersTeacher

    asked = json.load(sys.stdin)
    model = TransformersTeacher(Path(asked["folder"]), batch=_AT_ONCE)
    sampling = Sampling(temperature=0.0, max_tokens=asked["max_tokens"])
    prompts = [
        Prompt(str(number), (Message("user", text),), choices=tuple(asked["labels"]))
        for number, text in enumerate(asked["inputs"])
    ]

    async def answer() -> None:
        await asyncio.gather(*(model.answer(prompt, sampling) for prompt in prompts))
        await model.close()

    asyncio.run(answer())
    print(_peak())


def _peak() -> int:
    """Resident bytes at most. `getrusage` would tell what the parent had in memory when it forked."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # not Linux
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
