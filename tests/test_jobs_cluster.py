"""Asking on a real Ray cluster of two nodes on loopback: the same rows, the same cap, and a node that dies."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, BudgetReached, TeacherUnreachable
from understudy.data.storage import LocalStorage
from understudy.jobs.cluster import RayExecutor
from understudy.pipeline.context import Run
from understudy.pipeline.examples import read_examples
from understudy.pipeline.executor import Executor
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages

from .endpoint import Endpoint, Reply, error, says

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'understudy[ray]'")
from ray._private.state import state  # noqa: E402  after the skip
from ray.cluster_utils import Cluster  # noqa: E402
from ray.experimental import internal_kv  # noqa: E402

pytestmark = pytest.mark.slow

SECRET = "sk-very-secret-0123456789"
LABELS = ["billing", "delivery", "other"]
TEXTS = [f"message number {n} about order {n * 7919}" for n in range(600)]


@pytest.fixture(scope="module")
def cluster():
    """A head that takes no work and two nodes that do; ended by its own processes, never by `ray stop`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("THE_KEY", SECRET)
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_health_check_period_ms", "500")
        patched.setenv("RAY_health_check_failure_threshold", "3")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.add_node(num_cpus=1)
        made.add_node(num_cpus=1)
        yield made
        ray.shutdown()
        made.shutdown()


def recipe(folder: Path, endpoint: Endpoint, texts: list[str] = TEXTS, **fields) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pool.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in texts))
    lead = {"kind": "openai", "model": "m", "base_url": endpoint.base_url, "concurrency": 8, "tries": 2}
    task = {"kind": "classify", "instruction": "Which team?", "labels": LABELS, "unlabeled": "pool.jsonl"}
    whole = {"name": "t", "task": task, "teachers": {"lead": lead | fields.pop("lead", {})}, **fields}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole))
    return path


def label(path: Path, root: str, executor: Executor | None = None) -> tuple[list, dict]:
    run = Run(load_recipe(path), LocalStorage(path.parent / root), Reporter(), executor)
    try:
        manifest = run_stages(run, "label")["label"]
        return list(read_examples(artifacts(run)["label"][1])), manifest
    finally:
        run.close()


def asked(body: dict) -> str:
    return body["messages"][-1]["content"].removeprefix("Input: ")


def writes(body: dict) -> Reply:
    """An input decided by the candidate's prompt and number."""
    return says(f"about {sum(map(ord, body['messages'][-1]['content']))} and order {body['seed'] * 7919}")


def test_inputs_are_written_on_a_cluster_as_they_are_on_one_machine(cluster, tmp_path):
    strategies = [
        {"kind": "self-instruct"},
        {"kind": "attributes", "attributes": {"tone": ["calm", "angry"]}},
        {"kind": "documents", "path": "rules.md", "passage": 100},
    ]
    shards = []
    for executor, root in ((None, "one"), (RayExecutor(cluster.address, workers=2), "ray")):
        with Endpoint(then=writes) as endpoint:
            path = recipe(tmp_path, endpoint, TEXTS[:1], generate={"rows": 60, "strategies": strategies})
            whole = json.loads(path.read_text())
            whole["task"]["seeds"] = "seeds.jsonl"
            path.write_text(json.dumps(whole))
            (tmp_path / "seeds.jsonl").write_text('{"input": "where is it"}\n{"input": "my bill"}\n')
            (tmp_path / "rules.md").write_text("\n\n".join(f"Rule {n} says {n * 37}." for n in range(40)))
            run = Run(load_recipe(path), LocalStorage(tmp_path / root), Reporter(), executor)
            try:
                shards.append(run_stages(run, "generate")["generate"]["shards"])
            finally:
                run.close()
            assert len(endpoint.requests) == 60
    assert shards[0] == shards[1]


def team(body: dict) -> Reply:
    return Reply(says(LABELS[sum(asked(body).encode()) % 3]).body, delay=0.02)


def test_two_workers_write_the_rows_that_one_process_writes(tmp_path, cluster):
    with Endpoint(then=team) as endpoint:
        path = recipe(tmp_path / "job", endpoint)
        here, _ = label(path, "here")
        there, manifest = label(path, "there", RayExecutor(cluster.address, workers=2))
        again, repeated = label(path, "there", RayExecutor(cluster.address, workers=2))

    assert there == here == again
    assert manifest["spend"]["requests"] == 600
    assert Counter(map(asked, endpoint.bodies)) == dict.fromkeys(TEXTS, 2)
    assert len(list((tmp_path / "job/there/ledger/segments").iterdir())) == 2
    assert repeated == manifest


def scores(body: dict) -> Reply:
    """A score decided by the row."""
    text = body["messages"][-1]["content"]
    return says(str(1 + sum(text.encode()) % 5)) if "The rubric:" in text else team(body)


def test_rows_are_judged_on_a_cluster_as_they_are_on_one_machine(cluster, tmp_path):
    shards = []
    for executor, root in ((None, "one"), (RayExecutor(cluster.address, workers=2), "ray")):
        with Endpoint(then=scores) as endpoint:
            judge = {"teacher": "lead", "rubric": "The team is right.", "minimum": 3}
            path = recipe(tmp_path, endpoint, TEXTS[:100], curate={"judge": judge, "duplicates": {"near": None}})
            run = Run(load_recipe(path), LocalStorage(tmp_path / root), Reporter(), executor)
            try:
                manifest = run_stages(run, "curate")["curate"]
            finally:
                run.close()
            assert manifest["rows"]["rejected"]["judged_low"] > 0
            assert len(endpoint.requests) == 100 + sum(manifest["summary"]["judge"]["scores"].values())
            shards.append(manifest["shards"])
    assert shards[0] == shards[1]


def test_a_failed_row_is_a_failed_row_with_the_words_of_the_server(tmp_path, cluster):
    def reply(body: dict) -> Reply:
        return error(400, "flagged") if asked(body) == TEXTS[7] else team(body)

    with Endpoint(then=reply) as endpoint:
        path = recipe(tmp_path / "job", endpoint, TEXTS[:60], max_failed=0.1)
        _, here = label(path, "here")
        _, there = label(path, "there", RayExecutor(cluster.address, workers=2))

    assert there["rows"] == here["rows"]
    assert there["rows"]["failed"] == {"refused": 1}
    assert there["shards"]["failed"] == here["shards"]["failed"]


def test_all_workers_together_keep_the_cap_and_a_higher_one_goes_on(tmp_path, cluster):
    dollar = {"price": {"input": 0.0, "output": 500_000.0}}  # an answer of two tokens costs one dollar
    with Endpoint(then=team) as endpoint:
        path = recipe(
            tmp_path / "job", endpoint, TEXTS[:200], lead=dollar, budget={"usd": 50.5}, label={"max_tokens": 2}
        )
        for _ in range(2):  # what was paid the first time is known the second time, before the first request
            with pytest.raises(
                BudgetReached,
                match=r"budget: \$50.0000 spent and \$0.0000 in flight of \$50.5, and the next request may cost more",
            ):
                label(path, "root", RayExecutor(cluster.address, workers=2))
            assert len(endpoint.requests) == 50
        path = recipe(
            tmp_path / "job", endpoint, TEXTS[:200], lead=dollar, budget={"usd": 500}, label={"max_tokens": 2}
        )
        _, manifest = label(path, "root", RayExecutor(cluster.address, workers=2))

    assert manifest["rows"]["accepted"] == 200
    assert manifest["spend"]["usd"] == 150
    assert Counter(Counter(map(asked, endpoint.bodies)).values()) == {1: 200}


def test_two_workers_keep_one_minutes_requests(tmp_path, cluster):
    with Endpoint(then=lambda body: says("other")) as endpoint:
        path = recipe(tmp_path / "job", endpoint, TEXTS[:40], lead={"requests_per_minute": 600})
        label(path, "root", RayExecutor(cluster.address, workers=2))
        came = sorted(request.at for request in endpoint.requests)

    assert came[-1] - came[0] > 3.4  # forty places of 0.1 s, two at a time


def test_a_teacher_that_is_not_there_ends_the_run_with_its_own_line(tmp_path, cluster):
    with Endpoint() as endpoint:
        path = recipe(tmp_path / "job", endpoint, TEXTS[:20])
    with pytest.raises(TeacherUnreachable) as caught:
        label(path, "root", RayExecutor(cluster.address, workers=2))

    assert str(caught.value).startswith("teacher lead: http://127.0.0.1:")
    assert "\n" not in str(caught.value)


def test_a_key_that_the_nodes_do_not_have_is_named(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("ONLY_ON_THE_DRIVER", "secret")
    with Endpoint() as endpoint:
        path = recipe(tmp_path / "job", endpoint, TEXTS[:20], lead={"api_key_env": "ONLY_ON_THE_DRIVER"})
        with pytest.raises(BadInput) as caught:
            label(path, "root", RayExecutor(cluster.address, workers=2))

    assert str(caught.value) == (
        "on a Ray worker: teacher lead: ONLY_ON_THE_DRIVER is not set in the environment; export it, or remove "
        "`api_key_env`"
    )


def test_a_key_is_in_no_file_of_the_run_and_in_no_log_or_table_of_the_cluster(tmp_path, cluster, capfd):
    def reply(body: dict) -> Reply:
        echo = {TEXTS[7]: error(400, f"no credit for {SECRET}"), TEXTS[8]: says(f"the key is {SECRET}")}
        return echo.get(asked(body)) or team(body)

    key = {"api_key_env": "THE_KEY", "headers_env": {"X-Gate": "THE_KEY"}}
    with Endpoint(then=reply) as endpoint:
        path = recipe(tmp_path / "job", endpoint, TEXTS[:40], lead=key, max_failed=0.5)
        _, manifest = label(path, "root", RayExecutor(cluster.address, workers=2))
    assert endpoint.requests[0].headers["X-Gate"] == SECRET
    assert manifest["rows"]["failed"] == {"refused": 1}

    session = Path(cluster.head_node.get_session_dir_path())
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    tables = state._connect_and_get_accessor()
    jobs, actors = tables.get_job_table(), tables.get_actor_table(None, None)
    kept = {name: internal_kv._internal_kv_get(name) for name in internal_kv._internal_kv_list(b"")}
    ray.shutdown()
    told = repr((jobs, actors, kept, capfd.readouterr()))
    assert "Worker" in told
    assert SECRET not in told
    left = [file for folder in (tmp_path, session) for file in folder.rglob("*") if file.is_file()]
    assert any(b"the key is ***" in file.read_bytes() for file in left if "ledger" in file.parts)
    assert any("logs" in file.parts for file in left)
    assert not [file for file in left if SECRET.encode() in file.read_bytes()]


def test_a_cluster_that_is_not_there_is_refused_in_one_line(tmp_path):
    ray.shutdown()
    with Endpoint() as endpoint, pytest.raises(TeacherUnreachable) as caught:
        label(recipe(tmp_path / "job", endpoint), "root", RayExecutor("127.0.0.1:1", workers=1))

    assert str(caught.value).startswith("--address 127.0.0.1:1: no Ray cluster answers there: ")
    assert str(caught.value).endswith("; start it, or check the address")


def test_a_node_that_dies_half_way_costs_only_what_was_in_flight(tmp_path, cluster):
    with Endpoint(then=team) as endpoint:
        path = recipe(tmp_path / "job", endpoint)
        here, _ = label(path, "here")
        before = len(endpoint.requests)
        doomed = cluster.add_node(num_cpus=1)
        killer = threading.Thread(target=_kill_at, args=(cluster, doomed, endpoint, before + 300))
        killer.start()
        there, manifest = label(path, "there", RayExecutor(cluster.address, workers=3))
        killer.join()
        repeated = len(endpoint.requests) - before - 600

    assert there == here
    assert manifest["rows"]["accepted"] == 600
    assert 0 <= repeated <= 8  # the window of the actor that died


def _kill_at(cluster: Cluster, node: object, endpoint: Endpoint, requests: int) -> None:
    while len(endpoint.requests) < requests:
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)


def test_flags_of_ray_without_ray_are_refused():
    from understudy.jobs.cli import _executor

    with pytest.raises(BadInput, match="--workers is for Ray; add --on ray"):
        _executor("local", None, 2)
    with pytest.raises(BadInput, match="--fsdp is for Ray; add --on ray"):
        _executor("local", None, None, fsdp=True)
