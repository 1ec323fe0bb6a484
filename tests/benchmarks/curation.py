"""What curation and balance are worth, at equal teacher requests, over paired seeds.

`python -m tests.benchmarks.curation --teacher DIR --out DIR` has the generative teacher of `tests.benchmarks.snips`
write requests and fill their slots, once for each seed; students learn from all rows, from the curated ones, and from
curated rows written from seeds whose intents are as unequal as 1 to 1/7. Curated means: near-duplicates out, rows out
to which three draws give three answers, leaks from the test out. All are judged on snips' validation texts, which
neither teacher nor students saw. Prints each score, and the mean difference with its 90% interval (Student's t).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from understudy.jobs.cli import main as understudy

from .snips import FILL, SCHEMA, SLOTS, gold, halves, write_rows

SEEDS = 140
"""Shown to the writer, one with each request: its intent, and its first six words."""

WRITE = """\
[user]
{% set intent, like = examples[0].split(" | ") %}
Write: {{ intent }}
Like: {{ (like.split())[:6] | join(" ") }}
"""

ARMS = ("raw", "curated", "unbalanced")


def recipe(teacher: Path, name: str, rows: int, arm: str, seed: int) -> dict[str, Any]:
    """A job like any other."""
    curate: dict[str, Any] = {"duplicates": {"near": None}, "decontaminate": None}
    if arm != "raw":
        curate = {"duplicates": {"near": 0.8}, "agreement": 0.5}
    return {
        "name": name,
        "task": {
            "kind": "extract",
            "instruction": "Fill the slots of the request.",
            "schema": SCHEMA,
            "seeds": f"seeds-{seed}-{'skewed' if arm == 'unbalanced' else 'even'}.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "split": {"validation": 0.05, "calibration": 0},
        "prompts": {"label": "fill.j2", "generate": "write.j2"},
        "teachers": {"lead": {"kind": "transformers", "model": str(teacher), "batch": 128}},
        "generate": {
            "rows": rows,
            "examples": 1,
            "max_tokens": 48,
            "ceiling": 20,
        },
        "label": {"samples": 3, "temperature": 0.7, "max_tokens": 96, "retries": 0},
        "curate": curate,
        "max_failed": 1,
        "student": {"init": {"parameters": "1M"}, "train": {"epochs": 16, "max_length": 160, "seeds": [seed]}},
        "evaluate": {"second_opinions": 0},
    }


def drawn(weights: list[float], seed: int) -> list[dict[str, str]]:
    """Seeds that the teacher never saw, of each intent as many as its weight says."""
    draw, by_intent = random.Random(seed), dict[str, list[dict[str, str]]]()
    for row in halves()[1]:
        by_intent.setdefault(json.loads(row["output"])["intent"], []).append(row)
    counts = [round(SEEDS * weight / sum(weights)) for weight in weights]
    return [
        {"input": f"{intent} | {row['input']}"}
        for intent, count in zip(sorted(by_intent), counts, strict=True)
        for row in draw.sample(by_intent[intent], count)
    ]


def run(out: Path, written: dict[str, Any], until: str = "run") -> None:
    path = out / f"{written['name']}.json"
    path.write_text(json.dumps(written, indent=1))
    with contextlib.suppress(SystemExit):
        understudy([until, str(path), "--root", str(out / "runs"), "--no-gate"])


def manifest(out: Path, stage: str, name: str) -> dict[str, Any]:
    report = json.loads((out / "runs" / name / "report.json").read_text())
    folder = f"{stage}-{report['provenance']['stages'][stage]}"
    found: dict[str, Any] = json.loads((out / "runs" / "stages" / folder / "manifest.json").read_text())
    return found


def score(out: Path, name: str) -> float:
    report = json.loads((out / "runs" / name / "report.json").read_text())
    return float(report["models"]["student"]["score"]["gold"]["value"])


def compared(name: str, one: list[float], other: list[float]) -> str:
    gaps = np.array(one) - np.array(other)
    half = stats.t.ppf(0.95, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return (
        f"{name}: {gaps.mean():+.1f} points ({gaps.mean() - half:+.1f} to {gaps.mean() + half:+.1f}), {len(gaps)} pairs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="the folder that tests.benchmarks.snips printed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1400)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "gold.jsonl", gold("validation"))
    (out / "fill.j2").write_text(FILL)
    (out / "write.j2").write_text(WRITE)
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(given.seeds):
        for kind, weights in (
            ("even", [1.0] * len(SLOTS)),
            ("skewed", [1 / (place + 1) for place in range(len(SLOTS))]),
        ):
            write_rows(out / f"seeds-{seed}-{kind}.jsonl", drawn(weights, seed))
        rows = given.rows
        for arm in ("curated", "raw", "unbalanced"):
            name = f"seed-{seed}-{arm}"
            if arm == "raw":  # the candidates that the curated arm asked for, and no other
                counts = manifest(out, "generate", f"seed-{seed}-curated")["rows"]
                rows = counts["accepted"] + counts["rejected"].get("near_duplicate", 0)
            run(out, recipe(given.teacher.resolve(), name, rows if arm == "raw" else given.rows, arm, seed))
            scores[arm].append(score(out, name))
            asked = sum(manifest(out, stage, name)["rows"]["requested"] for stage in ("generate", "label"))
            learnt = manifest(out, "curate", name)["summary"]["sides"]["train"]
            print(f"{name}: field F1 {scores[arm][-1]:.1f}, {asked} rows asked for, {learnt} learnt", flush=True)
    print(compared("curated against all rows", scores["curated"], scores["raw"]))
    print(compared("balanced against unbalanced", scores["curated"], scores["unbalanced"]))


if __name__ == "__main__":
    main()
