"""kill -9 at any moment, the same command again, and nothing is lost, doubled or paid for twice."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .endpoint import Endpoint, Reply, says

pytestmark = pytest.mark.slow

UNDERSTUDY = Path(sys.executable).with_name("understudy")
LABELS = ("billing", "delivery", "other")
WORDS = {"billing": "invoice charge card", "delivery": "parcel courier door", "other": "hello thanks jobs"}
WINDOW = 16


def text(number: int) -> str:
    draw = random.Random(number)
    kinds = WORDS[LABELS[number % 3]].split()
    return f"{draw.choice(kinds)} {draw.choice(kinds)} {number} {draw.randrange(10**6)}"


TEXTS = [text(number) for number in range(160)]
LABEL_OF = {said: LABELS[number % 3] for number, said in enumerate(TEXTS)}


def asked(body: dict) -> str:
    return body["messages"][-1]["content"].removeprefix("Input: ")


def labels(jitter: random.Random) -> Callable[[dict], Reply]:
    """Answers after a while; one in eight only when it is asked a second time."""

    def reply(body: dict) -> Reply:
        of = asked(body)
        vague = TEXTS.index(of) % 8 == 0 and "seed" not in body
        return Reply(says("hm" if vague else LABEL_OF[of]).body, delay=0.01 + jitter.random() * 0.04)

    return reply


def write_job(folder: Path, base_url: str) -> None:
    folder.mkdir()
    recipe = {
        "name": "t",
        "task": {
            "kind": "classify",
            "instruction": "Which team?",
            "labels": list(LABELS),
            "unlabeled": "pool.jsonl",
        },
        "teachers": {"lead": {"kind": "openai", "model": "m", "base_url": base_url, "concurrency": WINDOW, "tries": 1}},
        "split": {"test": 0.1, "validation": 0.1, "calibration": 0},
        "student": {"init": {"parameters": "0.3M"}, "train": {"epochs": 2, "batch": 8}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "pool.jsonl").write_text("".join(json.dumps({"input": said}) + "\n" for said in TEXTS))


def start(folder: Path, command: str, root: str) -> subprocess.Popen:
    return subprocess.Popen(
        [UNDERSTUDY, command, "recipe.yaml", "--root", root, "--json"],
        cwd=folder,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"},  # two threads on busy cores wait in turns
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, command: str, root: str) -> None:
    process = start(folder, command, root)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def kill_when(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def shards(folder: Path, stage: str, root: str) -> dict[str, bytes]:
    """What the one finished folder of a stage consists of, by name."""
    (manifest,) = (folder / root / "stages").glob(f"{stage}-*/manifest.json")
    parts = json.loads(manifest.read_text())["shards"]
    return {part["path"]: (manifest.parent / part["path"]).read_bytes() for some in parts.values() for part in some}


def test_a_kill_while_labelling_repeats_only_what_was_in_flight(tmp_path):
    moments = random.Random(7)
    with Endpoint(then=labels(random.Random(1))) as endpoint:
        folder = tmp_path / "job"
        write_job(folder, endpoint.base_url)
        finish(folder, "label", "whole")
        all_at_once = len(endpoint.requests)
        assert all_at_once == 180
        kills = 3
        for _ in range(kills):
            seen = len(endpoint.requests) + moments.randrange(5, 50)
            kill_when(start(folder, "label", "killed"), lambda seen=seen: len(endpoint.requests) >= seen)
        finish(folder, "label", "killed")
        requests = Counter((asked(body), body.get("seed")) for body in endpoint.bodies[all_at_once:])
    assert len(requests) == all_at_once
    assert max(requests.values()) <= 1 + kills
    assert 0 <= sum(requests.values()) - all_at_once <= kills * WINDOW
    assert shards(folder, "label", "killed") == shards(folder, "label", "whole")
    assert len(shards(folder, "label", "whole")) > 20


def test_a_kill_while_curating_leaves_nothing_half_done(tmp_path):
    with Endpoint(then=labels(random.Random(2))) as endpoint:
        folder = tmp_path / "job"
        write_job(folder, endpoint.base_url)
        finish(folder, "label", "whole")
        shutil.copytree(folder / "whole", folder / "killed")
        finish(folder, "curate", "whole")
        killed = 0
        for delay in (0.0, 0.02, 0.1):  # into a stage that takes about 0.3 s, most of it spent on reading libraries
            process = start(folder, "curate", "killed")
            assert process.stdout is not None
            while json.loads(process.stdout.readline()).get("stage") != "curate":
                pass
            time.sleep(delay)
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
        assert killed > 0
        finish(folder, "curate", "killed")
        assert len(endpoint.requests) == 180
    assert shards(folder, "curate", "killed") == shards(folder, "curate", "whole")


def test_a_kill_while_training_ends_in_the_same_student(tmp_path):
    with Endpoint(then=labels(random.Random(3))) as endpoint:
        folder = tmp_path / "job"
        write_job(folder, endpoint.base_url)
        finish(folder, "curate", "whole")
        shutil.copytree(folder / "whole", folder / "killed")
        finish(folder, "train", "whole")
        stages = folder / "killed" / "stages"
        kill_when(
            start(folder, "train", "killed"), lambda: bool(list(stages.glob("train-*/seed-0/work/checkpoint-*/whole")))
        )
        assert not list(stages.glob("train-*/seed-0/trained.json"))
        finish(folder, "train", "killed")
        assert len(endpoint.requests) == 180
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (whole,) = (folder / "whole" / "stages").glob(f"train-*/seed-0/{name}")
        (killed,) = stages.glob(f"train-*/seed-0/{name}")
        assert killed.read_bytes() == whole.read_bytes()
    assert not list(stages.glob("train-*/seed-0/work"))
