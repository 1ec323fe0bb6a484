"""The job that every leg does: inputs in a file, and the recipe and template that have them answered.

The task is free text, because the bare loop reads nothing out of a reply either. The template holds the instruction and
the input alone, so that both send the same messages and meet the same latencies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = "A customer wrote to a shop. Answer with one JSON object: label, score and id."


@dataclass(frozen=True)
class Job:
    """A folder with `recipe.yaml`, `label.j2` and `pool.jsonl`."""

    folder: Path
    base_url: str
    rows: int
    concurrency: int
    max_failed: float = 0.01
    teacher: Mapping[str, float] = field(default_factory=dict)
    """What else the recipe says about the teacher."""

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def pool(self) -> Path:
        return self.folder / "pool.jsonl"

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    @property
    def journal(self) -> Path:
        """Where the bare loop writes."""
        return self.folder / "journal.jsonl"

    def write(self) -> None:
        teacher: dict[str, object] = {
            "kind": "openai",
            "model": "mock",
            "base_url": self.base_url,
            "concurrency": self.concurrency,
        }
        teacher |= self.teacher
        recipe = {
            "name": "benchmark",
            "task": {"kind": "generate", "instruction": SYSTEM, "unlabeled": self.pool.name},
            "prompts": {"label": "label.j2"},
            "teachers": {"lead": teacher},
            "max_failed": self.max_failed,
        }
        self.folder.mkdir()
        self.recipe.write_text(json.dumps(recipe))
        (self.folder / "label.j2").write_text("[system]\n{{ instruction }}\n[user]\n{{ input }}\n")
        self.add(0, self.rows)

    def add(self, first: int, last: int) -> None:
        """Append the inputs number ``first`` to ``last`` - 1."""
        with open(self.pool, "a") as pool:
            for number in range(first, last):
                pool.write(json.dumps({"input": text(number)}) + "\n")

    def inputs(self) -> list[str]:
        return [json.loads(line)["input"] for line in self.pool.read_text().splitlines()]


def text(number: int) -> str:
    """One input; about 100 characters, no two alike."""
    return f"Order {number}: it was due on Monday, tracking has not moved since, and nobody answers your telephone."


def messages(said: str) -> list[dict[str, str]]:
    """What the teacher reads for an input, as the recipe's template renders it."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said}]
