"""The records of a training: lines of a file, what they say to people, and what in them is worrying."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "health.jsonl"
"""In the folder of a student."""


def as_line(record: Mapping[str, Any]) -> str:
    """One record in its file."""
    return json.dumps(record) + "\n"


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of a training, in the order of its steps; a line that was cut short ends them."""
    records = []
    for line in file.read_text().splitlines(keepends=True) if file.exists() else ():
        if not line.endswith("\n"):
            break
        records.append(json.loads(line))
    return records


def live_line(record: Mapping[str, Any]) -> str:
    """`loss 0.412, agrees 87.1, 31k tokens/s`, and what else matters."""
    said = [f"loss {record['loss']:.3f}"]
    if "agreement" in record:
        said.append(f"agrees {record['agreement']:.1f}")
    speed = record["tokens_per_second"]
    said.append(f"{speed / 1000:.0f}k tokens/s" if speed >= 10_000 else f"{speed:,.0f} tokens/s")
    if record["mfu"] is not None:
        said.append(f"{record['mfu']:.0%} MFU")
    if record.get("dead_experts"):
        said.append(f"{record['dead_experts']:.0%} of experts idle")
    if "tail" in record:
        said.append(f"tail {record['tail']:.0%}")
    return ", ".join(said)


def alarms(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What in the records of a training is worrying, a line each: how its last tenth went.

    Length has collapsed if the student no longer tells where an answer ends from where it goes on: the gap between its
    probabilities of the end is below a tenth, or below half of what it was at its best.
    """
    last = records[-max(1, len(records) // 10) :]

    def mean(name: str) -> float | None:
        known = [record[name] for record in last if name in record]
        return sum(known) / len(known) if known else None

    found = []
    if (dead := mean("dead_experts")) is not None and dead > 0.5:
        found.append(f"{dead:.0%} of the experts are dead: no token chooses them; lower init.experts, or learning_rate")
    if (gap := mean("end_gap")) is not None:
        best = max(record.get("end_gap", 0.0) for record in records)
        if gap < max(0.1, best / 2):
            found.append(
                f"the student does not know where answers end: its probability of the end is {gap:.2f} higher there "
                f"than where they go on, and was {best:.2f} at best; lower learning_rate, or train for more epochs"
            )
    if (tail := mean("tail")) is not None and tail > 0.3:
        found.append(
            f"the teacher's stored tokens leave out {tail:.0%} of its probability, and of that nothing is learnt but "
            "how much it is; raise label.logprobs"
        )
    return found
