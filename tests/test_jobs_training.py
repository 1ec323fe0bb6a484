"""Students on a real Ray cluster on loopback: the weights of one process, on any number of workers, whoever dies."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from understudy.data.errors import BadInput, NotEnoughData, UnderstudyError
from understudy.data.object_storage import ObjectStorage
from understudy.data.storage import LocalStorage
from understudy.jobs import training
from understudy.jobs.cluster import RayExecutor
from understudy.jobs.training import Room, room
from understudy.pipeline.context import Run
from understudy.pipeline.executor import Executor
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import run_stages

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'understudy[ray]'")
boto3 = pytest.importorskip("boto3", reason="moto is not installed; pip install 'understudy[test]'")
from ray.cluster_utils import Cluster  # noqa: E402  after the skip

from .endpoint import Endpoint, Reply, says  # noqa: E402
from .s3 import BUCKET, a_store  # noqa: E402

pytestmark = pytest.mark.slow

LABELS = ["billing", "delivery", "other"]
SAYS = {"billing": "invoice card", "delivery": "parcel door", "other": "hello jobs"}


@pytest.fixture(scope="module")
def bucket():
    """The URL of an object store's bucket, which every process of this module can use."""
    with pytest.MonkeyPatch.context() as patched, a_store() as store:
        for name, value in store.environment.items():
            patched.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def cluster(bucket, tmp_path_factory):
    """A head that takes no work and two nodes that do; ended by its own processes, never by `ray stop`.

    Copies of what is in an object store are each node's own.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patched.setenv("RAY_worker_niceness", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for name in ("one", "other"):
            made.add_node(num_cpus=1, env_vars={"UNDERSTUDY_CACHE": str(tmp_path_factory.mktemp(name))})
        yield made
        ray.shutdown()
        made.shutdown()


def write_job(folder: Path, rows: int = 60, **student) -> Path:
    """A recipe whose teacher is a table, and a student of 0.3M parameters that learns in a few steps."""
    pairs = [(f"{SAYS[label].split()[n % 2]} number {n} about {n * 7919 % 97}", label) for n, label in _numbered(rows)]
    for name in ("pool", "answers"):
        lines = [json.dumps({"input": text, "output": label}) + "\n" for text, label in pairs]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    recipe = {
        "name": "t",
        "task": {
            "kind": "classify",
            "instruction": "Which?",
            "labels": LABELS,
            "unlabeled": {"path": "pool.jsonl", "input": "{input}"},
        },
        "split": {"test": 0, "validation": 0.1, "calibration": 0},
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "student": {
            "init": {"parameters": "0.3M", "vocabulary": 512, **student.pop("init", {})},
            "train": {"epochs": 3, "batch": 16, **student},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def _numbered(rows: int) -> list[tuple[int, str]]:
    return [(n, LABELS[n * n % 3]) for n in range(rows)]


def train(recipe: Path, root: Path, executor: Executor | None = None) -> Path:
    """Folder of the trained student."""
    run = Run(load_recipe(recipe), LocalStorage(root), Reporter(), executor)
    try:
        run_stages(run, "train")
    finally:
        run.close()
    return student_in(root)


def student_in(root: Path) -> Path:
    (student,) = root.glob("stages/train-*/seed-0")
    return student


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A folder with a recipe, and below `one` what a single process made of it."""
    folder = tmp_path_factory.mktemp("job")
    train(write_job(folder), folder / "one")
    return folder


def curated(job: Path, root: Path) -> Path:
    """A root on which the same student is to be trained."""
    shutil.copytree(job / "one", root)
    shutil.rmtree(student_in(root).parent)
    return root


def apart(one: Path, other: Path) -> float:
    """The largest difference between two students' weights."""
    here, there = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert here.keys() == there.keys()
    return max((here[name] - there[name]).abs().max().item() for name in here)


def result(student: Path) -> dict:
    return json.loads((student / "trained.json").read_text())


def workers_of(cluster: Cluster) -> list[int]:
    """Ids of the processes that train on a cluster, and on no other of this machine."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def start(cluster: Cluster, recipe: Path, root: Path, *flags: str) -> subprocess.Popen:
    """The command, on a cluster."""
    command = [sys.executable, "-m", "understudy.jobs", "train", recipe.name, "--root", str(root), "--json"]
    return subprocess.Popen(
        [*command, "--on", "ray", "--address", cluster.address, *flags],
        cwd=recipe.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen, root: Path, name: str) -> None:
    until = time.monotonic() + 90
    while not list(root.glob(f"stages/train-*/seed-0/work/{name}")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def test_whoever_is_killed_the_same_command_ends_in_the_student_of_one_process(cluster, job, tmp_path):
    root, recipe = curated(job, tmp_path / "root"), job / "recipe.yaml"
    process = start(cluster, recipe, root, "--workers", "2")
    wait_for(process, root, "checkpoint-2")
    os.kill(workers_of(cluster)[-1], signal.SIGKILL)
    wait_for(process, root, "checkpoint-6/whole")  # the group was started anew meanwhile, and goes on
    doomed = workers_of(cluster)
    process.kill()
    for worker in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    process.communicate()
    assert len(doomed) == 2
    assert not list(root.glob("stages/train-*/seed-0/trained.json"))

    process = start(cluster, recipe, root, "--fsdp")  # by default on each node that has a CPU
    out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    done = [event["done"] for event in map(json.loads, out.splitlines()) if event["event"] == "progress"]
    assert min(done) > 6, f"it went on from where it was: {done}"
    student, alone = student_in(root), student_in(job / "one")
    assert apart(student, alone) < 1e-5
    here, there = result(alone), result(student)
    assert there.pop("validation_loss") == pytest.approx(here.pop("validation_loss"), rel=1e-5)
    assert {**there, "seconds": 0} == {**here, "seconds": 0}
    assert not (student / "work").exists()


def test_nodes_that_share_an_object_store_alone_learn_the_student_of_one_process(cluster, job, bucket, tmp_path):
    """They ask first: what asking holds of the CPUs has to be given back."""
    known = {row["input"]: row["output"] for row in map(json.loads, (job / "answers.jsonl").read_text().splitlines())}

    def label(body: dict) -> Reply:
        return says(next(label for text, label in known.items() if text in body["messages"][-1]["content"]))

    with Endpoint(then=label) as endpoint:
        teacher = f"teachers={{people: {{kind: openai, model: m, base_url: {endpoint.base_url}}}}}"
        storage = ObjectStorage(f"{bucket}/runs", tmp_path / "here")
        run = Run(load_recipe(job / "recipe.yaml", [teacher]), storage, Reporter(), RayExecutor(cluster.address))
        try:
            run_stages(run, "train")
        finally:
            run.close()
    assert len(endpoint.requests) == len(known)

    elsewhere = ObjectStorage(f"{bucket}/runs", tmp_path / "elsewhere")
    (stage,) = [folder for folder in elsewhere.folders("stages") if "train-" in folder]
    student = elsewhere.fetch(f"{stage}/seed-0")
    assert apart(student, student_in(job / "one")) < 1e-5
    assert not [path for path, _ in elsewhere.list(stage) if "/work/" in path]


def test_an_interrupted_command_says_so_and_ends_with_143(cluster, job, tmp_path):
    root = curated(job, tmp_path / "root")
    process = start(cluster, job / "recipe.yaml", root)
    wait_for(process, root, "ray")  # Ray Train is at it
    process.terminate()
    _, said = process.communicate(timeout=60)

    assert process.returncode == 143
    assert said.splitlines()[-1] == "understudy: stopped; run the same command again to go on"


def test_what_a_worker_says_in_the_end_arrives_in_its_own_words(cluster, job, tmp_path, monkeypatch):
    class Raises:
        path = "stages/train-0/seed-0"

        def __init__(self, error: type[Exception]) -> None:
            self.error = error

        def __call__(self, run: Run, *_: object) -> dict:
            raise self.error(f"{run.recipe.name}: no row fits")

    monkeypatch.setattr(training, "LOSSES", 0)
    executor = RayExecutor(cluster.address, workers=1)
    run = Run(load_recipe(job / "recipe.yaml"), LocalStorage(tmp_path / "root"), Reporter(), executor)
    try:
        with pytest.raises(NotEnoughData, match=r"^t: no row fits$"):
            executor.learn(run, Raises(NotEnoughData), lambda *_: None)
        with pytest.raises(
            UnderstudyError,
            match=r"^a worker that trained ended: t: no row fits; run again: it goes on from the last checkpoint$",
        ):
            executor.learn(run, Raises(ValueError), lambda *_: None)
    finally:
        run.close()


def test_more_workers_than_the_cluster_has_cpus_are_refused(cluster, job, tmp_path):
    with pytest.raises(BadInput) as caught:
        train(job / "recipe.yaml", curated(job, tmp_path / "root"), RayExecutor(cluster.address, workers=3))

    assert str(caught.value) == (
        "--workers 3: each worker that trains takes a CPU, and the cluster has 2; lower --workers or add nodes"
    )


def node(cpus: float, cards: int = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": cards}}


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([node(0), node(8), node(8)], None, Room(2, 8, 0)),
        ([node(8), node(8)], 4, Room(4, 4, 0)),
        ([node(8), node(4)], 3, Room(3, 4, 0)),
        ([node(32, 4), node(32, 4), node(64, alive=False)], None, Room(8, 8, 1)),
        ([node(32, 4), node(32)], 6, Room(6, 10, 0)),
    ],
)
def test_each_worker_has_the_cpus_of_its_node_that_no_other_needs_and_a_card_where_all_can(nodes, workers, expected):
    assert room(nodes, workers) == expected
