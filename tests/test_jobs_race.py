"""Two schedulers that start the same recipe on the same root at the same moment, fifty times over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from .endpoint import Endpoint, Reply, says

ROUNDS, NEW = 50, 4

SCHEDULER = """
import sys
from pathlib import Path
from understudy.data.errors import Locked
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import run_stages

print("ready", flush=True)
for _ in sys.stdin:
    run = Run(load_recipe(Path("recipe.yaml")), LocalStorage(Path("root")), Reporter(quiet=True))
    try:
        run_stages(run, "curate")
        print("done", flush=True)
    except Locked:
        print("locked", flush=True)
    finally:
        run.close()
"""


@pytest.mark.slow
def test_two_schedulers_never_ask_for_the_same_row_and_one_of_them_always_gets_through(tmp_path):
    def reply(body: dict) -> Reply:
        time.sleep(0.01)
        return says("ab"[len(body["messages"][-1]["content"]) % 2])

    with Endpoint(then=reply) as endpoint:
        recipe = {
            "name": "t",
            "task": {"kind": "classify", "instruction": "?", "labels": ["a", "b"], "unlabeled": "pool.jsonl"},
            "teachers": {"lead": {"kind": "openai", "model": "m", "base_url": endpoint.base_url}},
            "curate": {"duplicates": {"near": None}},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
        schedulers = [start(tmp_path) for _ in range(2)]
        ends = [round_of(tmp_path, schedulers, number) for number in range(ROUNDS)]
        for scheduler in schedulers:
            scheduler.communicate(timeout=30)

    assert all("done" in end for end in ends)
    assert {name for end in ends for name in end} == {"done", "locked"}, "they did meet"
    assert Counter(body["messages"][-1]["content"] for body in endpoint.bodies).most_common(1)[0][1] == 1
    assert len(endpoint.bodies) == ROUNDS * NEW


def start(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    scheduler = subprocess.Popen(
        [sys.executable, "-c", SCHEDULER],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert scheduler.stdout is not None
    assert scheduler.stdout.readline() == "ready\n"
    return scheduler


def round_of(folder: Path, schedulers: list[subprocess.Popen], number: int) -> list[str]:
    """How both end that start at once, a few rows after the last time."""
    rows = [{"input": f"message number {n} about order {n * 7919}"} for n in range((number + 1) * NEW)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for scheduler in schedulers:
        scheduler.stdin.write("\n")
        scheduler.stdin.flush()
    return [scheduler.stdout.readline().strip() for scheduler in schedulers]
