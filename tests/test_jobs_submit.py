"""Runs as jobs of a real Ray cluster on loopback: a head, a node, ports of their own, token authentication on."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from understudy.data.errors import BadInput, TeacherUnreachable, UnderstudyError
from understudy.jobs import shipment
from understudy.jobs.cli import cli
from understudy.jobs.follow import Screen, exit_code, follow
from understudy.jobs.shipment import pack_code, pack_recipe
from understudy.jobs.submit import Order
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe

from .endpoint import Endpoint, Reply, says

pytest.importorskip("ray", reason="Ray is not installed; pip install 'understudy[ray]'")
from .ray_cluster import RayCluster

SECRET = "sk-very-secret-0123456789"
LABELS = ["billing", "delivery", "other"]
TEXTS = [f"message number {n} about order {n * 7919}" for n in range(120)]
HEAD = ["submit", "recipe.yaml", "--address", "http://127.0.0.1:1"]


def asked(body: dict) -> str:
    return body["messages"][-1]["content"].removeprefix("Input: ")


def team(body: dict) -> Reply:
    return Reply(says(LABELS[sum(asked(body).encode()) % 3]).body, delay=0.02)


def write_job(folder: Path, base_url: str = "http://127.0.0.1:1/v1", **lead) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pool.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in TEXTS))
    lead = {"kind": "openai", "model": "m", "base_url": base_url, "concurrency": 8, "tries": 1, **lead}
    task = {"kind": "classify", "instruction": "Which team?", "labels": LABELS, "unlabeled": "pool.jsonl"}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"name": "t", "task": task, "teachers": {"lead": lead}}))
    return path


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "UNDERSTUDY_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "understudy.jobs", *words],
        cwd=folder,
        env={**kept, "NO_PROXY": "127.0.0.1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *words: str, **environment: str) -> tuple[int, list[dict], str]:
    """Exit code, events and lines."""
    process = start(folder, *words, **environment)
    out, err = process.communicate(timeout=240)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def shards(root: Path, stage: str) -> dict[str, bytes]:
    (manifest,) = root.glob(f"stages/{stage}-*/manifest.json")
    parts = json.loads(manifest.read_text())["shards"]
    return {part["path"]: (manifest.parent / part["path"]).read_bytes() for some in parts.values() for part in some}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


# --- on the cluster


@pytest.mark.slow
def test_two_submissions_at_once_are_one_job_with_the_rows_of_a_local_run(cluster, tmp_path):
    gate = threading.Event()

    def reply(body: dict) -> Reply:
        gate.wait(60)  # until both have submitted
        return team(body)

    with Endpoint(then=reply) as endpoint:
        folder = write_job(tmp_path / "job", endpoint.base_url, api_key_env="THE_KEY").parent
        there = [*HEAD[:2], "--address", cluster.address, "--root", str(tmp_path / "there")]
        there += ["--env", "THE_KEY", "--json"]
        submitted = [start(folder, *there, THE_KEY=SECRET, **cluster.environment) for _ in range(2)]
        firsts = [json.loads(process.stdout.readline()) for process in submitted]
        gate.set()
        ends = [process.communicate(timeout=240) for process in submitted]
        assert [process.returncode for process in submitted] == [0, 0], ends
        assert run(folder, "run", "recipe.yaml", "--root", str(tmp_path / "here"), THE_KEY=SECRET)[0] == 0
        again = run(folder, *there, "--on", "local", "--installed", THE_KEY=SECRET, **cluster.environment)

    assert sorted(first["state"] for first in firsts) == ["running", "submitted"]
    assert len({first["id"] for first in firsts}) == 1
    assert Counter(map(asked, endpoint.bodies)) == dict.fromkeys(TEXTS, 2), "once there and once here"
    assert {request.headers["Authorization"] for request in endpoint.requests} == {f"Bearer {SECRET}"}
    assert shards(tmp_path / "there", "curate") == shards(tmp_path / "here", "curate")
    for out, err in ends:
        events = [json.loads(line) for line in out.splitlines()]
        assert ("label", "finished") in {(event.get("stage"), event.get("state")) for event in events}
        assert events[-1]["exit_code"] == 0
        assert "label: done in " in err
        assert "job_manager" not in err
        assert SECRET not in out + err
    assert (again[0], again[1][0]["id"]) == (0, f"{firsts[0]['id']}-2"), "what has ended is another attempt"


@pytest.mark.slow
def test_a_job_ends_with_the_code_and_the_line_of_its_run(cluster, tmp_path):
    write_job(tmp_path, api_key_env="ONLY_HERE")
    there = ["--address", cluster.address, "--root", str(tmp_path / "root"), "--on", "local"]
    code, _, err = run(tmp_path, *HEAD[:2], *there, ONLY_HERE="x", **cluster.environment)

    assert code == 2
    assert err.splitlines()[0] == "ONLY_HERE has to be set on the cluster's nodes; --env ONLY_HERE passes it on"
    assert (
        "understudy: teacher lead: ONLY_HERE is not set in the environment; export it, or remove `api_key_env`" in err
    )
    assert err.splitlines()[-1].endswith(": ended with exit code 2")


@pytest.mark.slow
def test_a_job_is_left_looked_at_followed_again_and_stopped(cluster, tmp_path):
    with Endpoint(then=Reply(says("other").body, delay=1.0)) as endpoint:
        folder = write_job(tmp_path / "job", endpoint.base_url, concurrency=1).parent
        there = [*HEAD[:2], "--address", cluster.address]
        root = ["--root", str(tmp_path / "root"), "--on", "local", "--installed"]
        code, _, err = run(folder, *there, *root, "--detach", **cluster.environment)
        assert code == 0
        assert err.splitlines()[-1].endswith(
            f"the same command follows it; `understudy submit recipe.yaml --address {cluster.address} --stop` stops it"
        )
        follower = start(folder, *there, *root, "--json", **cluster.environment)
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["state"] == "running"
        until = time.monotonic() + 120
        while not endpoint.requests and time.monotonic() < until:
            time.sleep(0.1)
        follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=60)
        assert follower.returncode == 130, err
        assert " goes on: the same command follows it again; `understudy submit " in err.splitlines()[-1]

        code, (event,), _ = run(folder, *there, "--status", "--json", **cluster.environment)
        assert (code, event["state"], event["root"]) == (0, "running", str(tmp_path / "root"))
        follower = start(folder, *there, *root, **cluster.environment)
        code, (event,), _ = run(folder, *there, "--stop", "--id", event["id"], "--json", **cluster.environment)
        assert (code, event["state"]) == (0, "stopped")
        follower.communicate(timeout=60)
        assert follower.returncode in (143, 0)  # 0: it came too late, and its own attempt was stopped by nobody


def test_ctrl_c_before_the_first_line_of_a_job_leaves_no_warning(monkeypatch, recwarn):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        follow(None, "job", Reporter(), events=False)
    gc.collect()

    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.slow
def test_what_the_cluster_refuses_is_said_in_one_line(cluster, tmp_path):
    write_job(tmp_path)
    there = [*HEAD[:2], "--address", cluster.address]
    wrong = tmp_path / "token"
    wrong.write_text("fedcba9876543210" * 4)
    remedy = "; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token\n"
    begins = f"understudy: --address {cluster.address}: "

    none = run(tmp_path, *there, "--status", RAY_AUTH_MODE="disabled")
    assert (none[0], none[2]) == (2, f"{begins}asks for a token, and none was sent{remedy}")
    refused = run(tmp_path, *there, "--status", **{**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(wrong)})
    assert (refused[0], refused[2]) == (2, f"{begins}refuses the token{remedy}")
    unknown = run(tmp_path, *there, "--stop", "--id", "nope", **cluster.environment)
    assert unknown[0] == 2
    assert unknown[2].startswith(f"understudy: --id nope: no such job on {cluster.address}; the last ones there: ")


# --- what is refused before anything is sent


def refusal(folder: Path, *words: str, monkeypatch, error: type[UnderstudyError] = BadInput) -> str:
    monkeypatch.chdir(folder)
    with pytest.raises(error) as caught:
        cli.main(words, standalone_mode=False)
    return str(caught.value)


def test_an_address_where_no_job_server_is_is_refused(tmp_path, monkeypatch):
    write_job(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")  # Ray itself would go there
    said = refusal(tmp_path, *HEAD, "--status", monkeypatch=monkeypatch, error=TeacherUnreachable)
    assert said.startswith("--address http://127.0.0.1:1: no Ray job server answers there: ")
    assert said.endswith("; start the cluster, or give its dashboard's address, such as http://head:8265")
    assert refusal(tmp_path, *HEAD[:3], "ray://head:10001", "--status", monkeypatch=monkeypatch) == (
        "--address ray://head:10001: expected the cluster's dashboard, such as http://head:8265"
    )


@pytest.mark.parametrize(
    ("ray", "python", "said"),
    [
        ("2.59.1", "3.11.9", "has Ray 2.59.1, and this is Ray "),
        (None, "3.9.1", f"has Python 3.9, and this is Python {sys.version_info[0]}.{sys.version_info[1]}; "),
    ],
)
def test_a_cluster_with_another_ray_or_python_is_refused(ray, python, said, tmp_path, monkeypatch):
    import ray as installed

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = {"ray_version": ray or installed.__version__, "data": {"pythonVersion": python}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: object) -> None: ...

    write_job(tmp_path)
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = refusal(tmp_path, *HEAD[:3], address, "--status", monkeypatch=monkeypatch)
        server.shutdown()
    assert found.startswith(f"--address {address}: the cluster {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "recipe.yaml: no --root, and a cluster cannot be expected to see a folder of this machine; give a path"),
        (["--root", "runs"], "--root runs: is relative to this folder, and a cluster cannot be expected to see"),
        (["--root", "/r", "--env", "NOT_SET"], "--env NOT_SET: is not set in this environment; export it, or leave"),
        (
            ["--root", "/r", "--env", SECRET],
            "--env: expected the name of a variable, such as OPENAI_API_KEY, and never",
        ),
    ],
)
def test_an_order_that_cannot_be_followed_is_refused(words, said, tmp_path, monkeypatch):
    write_job(tmp_path)
    found = refusal(tmp_path, *HEAD, *words, monkeypatch=monkeypatch)
    assert said in found
    assert SECRET not in found


# --- what travels


def test_only_what_the_recipe_names_travels_and_keeps_its_place(tmp_path):
    job = tmp_path / "jobs" / "t"
    job.mkdir(parents=True)
    for name in (
        "recipe.yaml",
        "seeds.jsonl",
        "notes.txt",
        "label.j2",
        "checks.py",
        "model/config.json",
        "reader/config.json",
        "../../x.csv",
    ):
        (job / name).parent.mkdir(exist_ok=True)
        (job / name).write_text("input\nhello\n")
    recipe = {
        "name": "t",
        "task": {
            "kind": "classify",
            "instruction": "?",
            "labels": LABELS,
            "unlabeled": "../../*.csv",
            "seeds": "seeds.jsonl",
        },
        "teachers": {
            "lead": {"kind": "transformers", "model": "model"},
            "far": {"kind": "table", "model": "/data/a.csv"},
        },
        "label": {"teacher": "lead"},
        "prompts": {"label": "label.j2"},
        "curate": {"filters": [{"kind": "function", "path": "checks.py:ok"}], "meaning": {"model": "org/hub-model"}},
        "student": {"init": {"kind": "encoder", "model": "reader"}},
    }
    (job / "recipe.yaml").write_text(json.dumps(recipe))

    packed = [pack_recipe(load_recipe(job / "recipe.yaml"), tmp_path / name) for name in ("a", "b")]

    assert packed[0].recipe == "jobs/t/recipe.yaml"
    assert packed[0].content == packed[1].content
    files = {path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert files == {
        "x.csv",
        *(f"jobs/t/{name}" for name in ("recipe.yaml", "seeds.jsonl", "label.j2", "checks.py")),
    } | {"jobs/t/model/config.json", "jobs/t/reader/config.json"}


def test_files_that_are_too_large_are_refused_and_the_biggest_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shipment, "MOST_BYTES", 5000)
    loaded = load_recipe(write_job(tmp_path))
    size = (tmp_path / "pool.jsonl").stat().st_size
    with pytest.raises(BadInput) as caught:
        pack_recipe(loaded, tmp_path / "packed")
    assert str(caught.value).endswith(
        f" bytes, and a job server takes 5,000; the biggest is {tmp_path}/pool.jsonl, {size:,}: put it where the "
        "cluster sees it, and name it by its whole path"
    )


def test_the_code_that_travels_is_the_package_and_nothing_beside_it(tmp_path):
    (packed,) = {pack_code(tmp_path / "code")}
    names = {path.relative_to(packed).as_posix() for path in packed.rglob("*")}
    assert {"jobs/cli.py", "data/py.typed", "pipeline/templates/label.j2", "jobs/support-triage/recipe.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests", "understudy")) or "__pycache__" in name]


def test_code_that_is_not_whole_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipment, "_ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.setuptools\n")
    with pytest.raises(BadInput) as caught:
        pack_code(tmp_path / "code")
    assert str(caught.value).startswith(f"{tmp_path}: this code cannot be packed: ")
    assert str(caught.value).endswith("; mend or reinstall it, or submit with --installed to a cluster that has it")


@pytest.mark.parametrize(
    ("there", "code"), [("understudy, version 0.1.0", 0), ("understudy, version 0.0.9", 2), ("", 2)]
)
def test_an_image_with_another_version_is_refused_where_it_runs(there, code, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *--version) echo "{there}";; *) echo "$@";; esac\n')
    python.chmod(0o755)
    order = Order(load_recipe(write_job(tmp_path)), "s3://b/runs", "ray", 3, ["a='b c'"], True, {})
    done = subprocess.run(
        ["sh", "-c", order.entrypoint("jobs/t/recipe.yaml")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    if code:
        assert done.stderr.startswith(
            "understudy: the cluster has no understudy 0.1.0, which submits; give it an image "
        )
    else:
        run = "run jobs/t/recipe.yaml --root s3://b/runs --json --on ray --set a='b c' --workers 3 --address auto"
        assert done.stdout == f"-m understudy.jobs {run}\n"


# --- what comes back


def test_lines_and_events_of_a_job_are_told_apart(capsys):
    screen = Screen(Reporter(events=True), events=True)
    for line in ("label: done", '{"event": "stage", "stage": "label"}', '{"event": broken', '{"other": 1}'):
        screen.show(line)
    told = capsys.readouterr()
    assert told.out == '{"event": "stage", "stage": "label"}\n'
    assert told.err == 'label: done\n{"event": broken\n{"other": 1}\n'


def test_the_bar_of_a_job_is_drawn_from_its_events_and_its_lines_stay(tmp_path):
    progress = {"event": "progress", "stage": "label", "total": 120, "unit": "rows", "detail": "in flight"}
    lines = [json.dumps({**progress, "done": done}) for done in (7, 70)]
    lines[1:1] = ["  label: 50/120 rows, 9 rows/s", "  a note"]
    code = (
        "from understudy.jobs.follow import Screen\n"
        "from understudy.pipeline.progress import Reporter\n"
        f"screen = Screen(Reporter(), events=False)\n"
        f"for line in {lines}: screen.show(line)\n"
        "screen.clear(); screen.show('label: done')\n"
    )
    ours, theirs = pty.openpty()
    with open(theirs, "wb") as terminal:
        subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "7/120" in drawn
    assert "  a note\r\n" in drawn
    assert "50/120" not in drawn
    assert drawn.rstrip().endswith("label: done")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"driver_exit_code": -9}, "job j: was killed by signal 9, perhaps for want of memory: the end; submit again"),
        ({"driver_exit_code": 127}, "job j: ended with code 127: the end; submit again: it goes on where it stopped"),
        ({"error_type": "RUNTIME_ENV_SETUP_FAILURE"}, "job j: a node could not unpack what was sent: the end; mend"),
        ({"error_type": "JOB_SUPERVISOR_ACTOR_DIED"}, "job j: the cluster lost it: the end; submit again: it goes on"),
    ],
)
def test_a_job_that_ends_without_a_code_of_ours_is_one_line(fields, said):
    job = {
        "submission_id": "j",
        "status": "FAILED",
        "message": "a\nthe end\n",
        "driver_exit_code": None,
        "error_type": None,
    }
    with pytest.raises(UnderstudyError) as caught:
        exit_code(SimpleNamespace(**{**job, **fields}))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
