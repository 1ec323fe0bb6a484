"""A generative teacher for `extract`, on real data: it writes requests to an assistant and fills their slots.

`python -m tests.benchmarks.snips --out DIR` has a `table` teacher, half of snips' gold by hand, train a student of 5M
parameters on both skills through one chat template, by the product's own command; its folder is then a teacher of kind
`transformers`. Its own score, on snips' validation texts, is printed. It took 36 minutes on one core; run again, it
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from understudy.data.rows import Answer, Failed, Message, Prompt
from understudy.data.teacher import Sampling
from understudy.jobs.cli import main as understudy
from understudy.pipeline.scorers import field_f1
from understudy.teachers.transformers import TransformersTeacher

SNIPS = Path(__file__).parents[3] / "shared" / "datasets" / "snips"
SLOTS = json.loads((SNIPS / "slots_by_intent.json").read_text()) if SNIPS.exists() else {}
FILL = "[user]\nFill: {{ input }}\n"
WRITE = """\
[user]
Write: {{ intent }}
{% if examples %}
Like: {{ (examples[0].split())[:6] | join(" ") }}
{% endif %}
"""
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": sorted(SLOTS)}}
    | {
        slot: {"type": ["string", "array"], "items": {"type": "string"}}
        for slot in sorted({slot for slots in SLOTS.values() for slot in slots})
    },
    "required": ["intent"],
    "additionalProperties": False,
}


def gold(split: str) -> list[dict[str, str]]:
    """Texts with their intent and slots, as one flat JSON object."""
    rows = pq.read_table(SNIPS / f"{split}.parquet").to_pylist()
    return [
        {
            "input": row["text"],
            "output": json.dumps({"intent": row["intent"], **json.loads(row["slots"])}, ensure_ascii=False),
        }
        for row in rows
    ]


def halves() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The training texts, by the parity of their hash: the teacher's half, and the one that it never saw."""
    rows = gold("train")
    ours = [row for row in rows if sha256(row["input"].encode()).digest()[0] % 2 == 0]
    return ours, [row for row in rows if row not in ours]


def lessons(rows: list[dict[str, str]], seed: int = 0) -> Iterator[dict[str, str]]:
    """Both skills for each text: to fill its slots, and to write it for its intent, half of the time like another."""
    draw = random.Random(seed)
    by_intent: dict[str, list[str]] = {}
    for row in rows:
        by_intent.setdefault(json.loads(row["output"])["intent"], []).append(row["input"])
    for row in rows:
        yield {"input": f"Fill: {row['input']}", "output": row["output"]}
        intent = json.loads(row["output"])["intent"]
        like = " ".join(draw.choice(by_intent[intent]).split()[:6])
        shown = f"\nLike: {like}" if draw.random() < 0.5 else ""
        yield {"input": f"Write: {intent}{shown}", "output": row["input"]}


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_teacher(out: Path, parameters: str, epochs: int) -> None:
    """A job like any other: the table labels the lessons, the student learns them."""
    out.mkdir(parents=True, exist_ok=True)
    mine, _ = halves()
    taught = list(lessons(mine))
    write_rows(out / "lessons.jsonl", taught)
    write_rows(out / "unlabeled.jsonl", [{"input": row["input"]} for row in taught])
    write_rows(
        out / "test.jsonl", [{"input": f"Fill: {row['input']}", "output": row["output"]} for row in gold("validation")]
    )
    (out / "lesson.j2").write_text("[user]\n{{ input }}\n")
    recipe: dict[str, Any] = {
        "name": "snips-teacher",
        "task": {
            "kind": "generate",
            "instruction": "Write a request, or fill its slots.",
            "unlabeled": "unlabeled.jsonl",
            "test": {"gold": "test.jsonl"},
            "scorer": "exact",
        },
        "split": {"validation": 0.02, "calibration": 0},
        "prompts": {"label": "lesson.j2"},
        "teachers": {"gold": {"kind": "table", "model": "lessons.jsonl"}},
        "label": {"max_tokens": 200},
        "curate": {"duplicates": {"near": None}},
        "student": {
            "init": {"kind": "dense", "parameters": parameters, "vocabulary": 4096},
            "train": {"epochs": epochs, "max_length": 160, "dropout": 0.05},
        },
        "evaluate": {"second_opinions": 0},
    }
    (out / "recipe.yaml").write_text(json.dumps(recipe, indent=1))
    with contextlib.suppress(SystemExit):
        understudy(["train", str(out / "recipe.yaml"), "--root", str(out / "runs")])


def print_score(out: Path) -> None:
    """How well the teacher fills slots, and where its folder is."""
    [folder] = (out / "runs" / "stages").glob("train-*/seed-0")
    teacher, rows = TransformersTeacher(folder, batch=64), gold("validation")
    prompts = [Prompt(str(n), (Message("user", f"Fill: {row['input']}"),)) for n, row in enumerate(rows)]
    sampling = Sampling(temperature=0, max_tokens=128)

    async def ask() -> list[Answer | Failed]:
        return await asyncio.gather(*(teacher.answer(prompt, sampling) for prompt in prompts))

    said = [answer.text if isinstance(answer, Answer) else "" for answer in asyncio.run(ask())]
    scores = [field_f1(text, row["output"]) for text, row in zip(said, rows, strict=True)]
    exact = sum(score == 1 for score in scores) / len(scores)
    print(f"{folder}: field F1 {100 * sum(scores) / len(scores):.1f}, exact {100 * exact:.1f}, on {len(rows)} texts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parameters", default="5M")
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    make_teacher(given.out, given.parameters, given.epochs)
    print_score(given.out)


if __name__ == "__main__":
    main()
