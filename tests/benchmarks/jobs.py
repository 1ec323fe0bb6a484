"""How long a submitted run takes to its first question beyond what Ray itself takes, and what a lost head costs.

    python -m tests.benchmarks.jobs [--rounds 3]

Ray's own is a job that starts one actor, which asks once; both are counted from the start of the command that submits,
and take turns on one cluster on loopback. Then a cluster is killed in mid-run, another one is started on the same root,
and the recipe is submitted again: what was asked twice is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ..endpoint import Endpoint, Reply, says
from ..ray_cluster import RayCluster

LABELS = ["billing", "delivery", "other"]
TEXTS = [f"message number {n} about order {n * 7919}" for n in range(1200)]
WINDOW = 8

_ACTOR = """
import json, sys, urllib.request
import ray

ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=0.1)
class Asker:
    def ask(self, url):
        body = json.dumps({"messages": [{"content": "Input: a question of Ray's own"}]}).encode()
        urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})).read()

ray.get(Asker.remote().ask.remote(sys.argv[1]))
"""
_SUBMIT = """
import sys
from ray.job_submission import JobSubmissionClient

JobSubmissionClient(sys.argv[1]).submit_job(entrypoint=sys.argv[2])
"""


def reply(body: dict) -> Reply:
    return Reply(says(LABELS[len(body["messages"][-1]["content"]) % 3]).body, delay=0.05)


def write_job(folder: Path, name: str, base_url: str, texts: list[str]) -> Path:
    folder.mkdir()
    (folder / "pool.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in texts))
    lead = {"kind": "openai", "model": "m", "base_url": base_url, "concurrency": WINDOW, "tries": 1}
    task = {"kind": "classify", "instruction": "Which team?", "labels": LABELS, "unlabeled": "pool.jsonl"}
    (folder / "recipe.yaml").write_text(json.dumps({"name": name, "task": task, "teachers": {"lead": lead}}))
    return folder / "recipe.yaml"


def start(cluster: RayCluster, *command: str) -> subprocess.Popen:
    environment = {**os.environ, **cluster.environment, "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def submit(cluster: RayCluster, recipe: Path, root: Path) -> subprocess.Popen:
    words = ["submit", str(recipe), "--address", cluster.address, "--root", str(root)]
    return start(cluster, "-m", "understudy.jobs", *words)


def to_first_question(endpoint: Endpoint, begin: float, process: subprocess.Popen) -> float:
    before = len(endpoint.requests)
    while len(endpoint.requests) == before:
        time.sleep(0.02)
    process.wait()
    return endpoint.requests[before].at - begin


def beyond_ray(scratch: Path, rounds: int) -> None:
    """Print seconds to the first question, Ray's own and ours."""
    (scratch / "actor.py").write_text(_ACTOR)
    (scratch / "submit.py").write_text(_SUBMIT)
    own, ours = [], []
    with Endpoint(then=reply) as endpoint, RayCluster(scratch) as cluster:
        for number in range(rounds):
            asking = f"python {scratch / 'actor.py'} {endpoint.base_url}/chat/completions"
            begin = time.monotonic()
            process = start(cluster, str(scratch / "submit.py"), cluster.address, asking)
            own.append(to_first_question(endpoint, begin, process))
            recipe = write_job(scratch / f"job{number}", "t", endpoint.base_url, TEXTS[number * 20 : number * 20 + 20])
            begin = time.monotonic()
            ours.append(to_first_question(endpoint, begin, submit(cluster, recipe, scratch / f"root{number}")))
    print(f"first question: Ray's own {statistics.median(own):.1f} s, submit {statistics.median(ours):.1f} s")
    print("beyond Ray: " + ", ".join(f"{one - other:.1f}" for one, other in zip(ours, own, strict=True)) + " s")


def lost_head(scratch: Path) -> None:
    """Print what a run asked twice whose cluster was killed."""
    with Endpoint(then=reply) as endpoint:
        recipe = write_job(scratch / "lost", "lost", endpoint.base_url, TEXTS)
        (scratch / "a").mkdir()
        (scratch / "b").mkdir()
        with RayCluster(scratch / "a") as cluster:
            process = submit(cluster, recipe, scratch / "lost-root")
            while len(endpoint.requests) < len(TEXTS) // 3:
                time.sleep(0.02)
            cluster.kill()
            code = process.wait()
        with RayCluster(scratch / "b") as cluster:
            again = submit(cluster, recipe, scratch / "lost-root").wait()
    asked = Counter(body["messages"][-1]["content"] for body in endpoint.bodies)
    twice = sum(asked.values()) - len(TEXTS)
    print(f"head lost: submit ended with {code}, and again with {again}; {len(asked)} rows, {twice} asked twice")
    print(f"           (in flight: at most {2 * WINDOW})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    with tempfile.TemporaryDirectory() as scratch:
        beyond_ray(Path(scratch), parser.parse_args().rounds)
        lost_head(Path(scratch))


if __name__ == "__main__":
    main()
