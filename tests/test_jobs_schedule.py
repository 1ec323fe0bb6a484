"""What schedulers are handed: the same times in everybody's words, sound manifests, and exit codes told apart."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
from click.testing import CliRunner
from cronsim import CronSim
from ruamel.yaml import YAML

from understudy.data.errors import BadInput
from understudy.jobs import rayjob
from understudy.jobs.cli import cli
from understudy.jobs.cron import Cron
from understudy.jobs.manifests import Workload, ray_job

HERE = Path(__file__).parent
KUBERNETES = HERE.parent / "jobs" / "kubernetes"
RAY_SCHEMA = json.loads((HERE / "kuberay_schema.json").read_text())
_TIME = re.compile(r"(Next elapse|Iter\. #\d+): ")
ON_KUBERNETES = ["--image", "registry/tickets:1.0", "--root", "s3://bucket/runs"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "my shop" / "jobs" / "Tickets_50%"
    folder.mkdir(parents=True)
    task = {"kind": "classify", "instruction": "Which team?", "labels": ["a", "b"], "unlabeled": "pool.jsonl"}
    teachers = {
        "lead": {"kind": "openai", "model": "m", "api_key_env": "THE_KEY", "headers_env": {"X": "THE_GATE"}},
        "big": {"kind": "vllm", "model": "org/m", "engine": {"tensor_parallel_size": 4}},
    }
    whole = {"name": "Tickets_50", "task": task, "teachers": teachers, "label": {"teacher": "lead"}}
    (folder / "recipe.yaml").write_text(json.dumps(whole))
    return folder / "recipe.yaml"


def schedule(*words: object) -> tuple[str, str]:
    """What is printed, and what is said."""
    done = CliRunner().invoke(cli, ["schedule", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout, done.stderr


def refusal(*words: object) -> str:
    with pytest.raises(BadInput) as caught:
        cli.main(["schedule", *map(str, words)], standalone_mode=False)
    return str(caught.value)


def documents(text: str) -> list[dict]:
    return list(YAML(typ="safe").load_all(text))


# --- times


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "0 fields; expected five: minute, hour, day-of-month, month, day-of-week, such as '0 3 * * *'"),
        ("@daily", "1 fields; expected five: minute, hour,"),
        ("0 0 3 * * *", "6 fields; expected five: minute, hour,"),
        ("60 3 * * *", "minute cannot be '60'; expected 0 to 59, a list, a range, or * with a step such as */15"),
        ("0 24 * * *", "hour cannot be '24'; expected 0 to 23,"),
        ("0 3 32 * *", "day-of-month cannot be '32'; expected 1 to 31,"),
        ("0 3 31 2 *", "day-of-month cannot be '31'; expected 1 to 31,"),
        ("0 3 * 13 *", "month cannot be '13'; expected 1 to 12,"),
        ("0 3 * * 8", "day-of-week cannot be '8'; expected 0 to 7,"),
        ("0 3 L * *", "day-of-month cannot be 'L';"),
        ("0 3 * * 1#2", "day-of-week cannot be '1#2';"),
        ("5/15 3 * * *", "minute cannot be '5/15';"),
        ("*/0 3 * * *", "minute cannot be '*/0';"),
        ("0 5-3 * * *", "hour cannot be '5-3';"),
        ("0,,5 3 * * *", "minute cannot be '0,,5';"),
        ("0 3 */2 * 1", "crontabs take days that fit both */2 and 1, Kubernetes those that fit either; write out the"),
    ],
)
def test_a_line_that_schedulers_do_not_read_alike_is_refused_and_its_field_named(line, said):
    with pytest.raises(BadInput) as caught:
        Cron(line)
    assert str(caught.value).startswith(f"--cron '{line}': {said}")


def test_a_time_zone_that_is_none_is_refused():
    with pytest.raises(BadInput, match="--time-zone Mars/Olympus: no such time zone; expected one such as Europe/"):
        Cron("0 3 * * *", "Mars/Olympus")


@pytest.mark.parametrize(("line", "time"), [("30 2 * * *", "02:30"), ("0 * * * *", "02:00"), ("0 2 * * 0", "02:00")])
def test_times_that_a_change_of_clocks_would_set_apart_are_refused(line, time):
    with pytest.raises(BadInput) as caught:
        Cron(line, "Europe/Berlin").on_calendar()
    assert str(caught.value) == (
        f"--cron '{line}': {time} is where clocks change in Europe/Berlin, and systemd would leave out a run that cron "
        "does; choose another hour, or --time-zone Etc/UTC"
    )


def test_systemds_words_are_exact():
    assert Cron("30 2 * * 1-6", "Europe/Berlin").on_calendar() == [
        "Mon,Tue,Wed,Thu,Fri,Sat *-*-* 02:30:00 Europe/Berlin"
    ], "clocks change on a Sunday"
    assert Cron("0 3 * * *", "Europe/Berlin").on_calendar() == ["*-*-* 03:00:00 Europe/Berlin"]
    assert Cron("*/20 8-10 * mar-may,12 1-5").on_calendar() == [
        "Mon,Tue,Wed,Thu,Fri *-03,04,05,12-* 08,09,10:00,20,40:00"
    ]
    assert Cron("30 4 1,15 * 7").on_calendar() == ["*-*-01,15 04:30:00", "Sun *-*-* 04:30:00"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_is_due_when_cron_is():
    draw = random.Random(5)

    def field(low: int, high: int) -> str:
        values = sorted(draw.sample(range(low, high + 1), 3))
        choices = ["*", "*", str(values[0]), ",".join(map(str, values)), f"{values[0]}-{values[1]}", f"{low}-{high}/2"]
        return draw.choice(choices)

    begin = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
    for _ in range(12):
        line = " ".join([field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)])
        due = [f"{time:%Y-%m-%d %H:%M}" for time in islice(CronSim(line, begin), 20)]
        found: set[str] = set()
        for words in Cron(line, "Etc/UTC").on_calendar():
            asked = ["systemd-analyze", "calendar", "--iterations=20", f"--base-time={begin:%Y-%m-%d %H:%M} UTC", words]
            told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
            found |= {" ".join(line.split()[-3:-1])[:16] for line in told.splitlines() if _TIME.search(line)}
        assert sorted(found)[:20] == due, line


# --- on this machine


def test_a_crontab_line_holds_whole_paths_and_no_bare_percent_sign(recipe, tmp_path):
    text, said = schedule(recipe, "--cron", "0  3 * * *", "--for", "crontab", "--root", tmp_path / "runs")
    *comments, line = text.splitlines()
    assert all(comment.startswith("#") for comment in comments)
    assert "# THE_KEY=...   set it here: cron's environment is empty" in comments
    assert line.startswith("0 3 * * * ")
    assert "%" not in line.replace(r"\%", "")
    words = shlex.split(line.removeprefix("0 3 * * * ").replace(r"\%", "%"))
    assert words[-6:] == ["run", str(recipe), "--root", str(tmp_path / "runs"), f">>{recipe.parent}/cron.log", "2>&1"]
    assert said.splitlines()[0] == "`crontab -e` takes these lines"
    assert said.count("due: ") == 3
    assert refusal(recipe, "--cron", "0 3 * * *", "--for", "crontab", "--time-zone", "Etc/UTC") == (
        "--time-zone: cron keeps the machine's own; leave it out, or use --for systemd"
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units_and_does_not_try_final_codes_again(recipe, tmp_path):
    _, said = schedule(recipe, "--cron", "0 3 1 * 1", "--for", "systemd", "--to", tmp_path / "units")
    service, timer = (tmp_path / "units" / f"understudy-Tickets_50.{kind}" for kind in ("service", "timer"))
    for unit in (service, timer):
        checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert (checked.returncode, str(tmp_path) in checked.stderr) == (0, False), checked.stderr
    assert "\nRestartPreventExitStatus=2 3 4 6\n" in service.read_text()
    assert f'run "{recipe}"\n'.replace("%", "%%") in service.read_text()
    assert timer.read_text().count("OnCalendar=") == 2
    assert "THE_GATE=..." in said
    assert "systemctl --user enable --now understudy-Tickets_50.timer" in said


# --- on Kubernetes


def check(document: dict) -> None:
    """A document against the schema of its kind, pods and all."""
    if document["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(document, "1.34", strict=True)
        return
    jsonschema.validate(document, {**RAY_SCHEMA, "$ref": f"#/$defs/{document['kind']}"})
    cluster = document["spec"].get("jobTemplate", document["spec"])["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_a_planted_mistake_is_found(recipe):
    (made,) = documents(schedule(recipe, "--for", "kuberay", *ON_KUBERNETES)[0])
    for change in ({"entrypont": "x"}, {"backoffLimit": "2"}, {"submissionMode": "Http"}):
        with pytest.raises(jsonschema.ValidationError):
            check({**made, "spec": {**made["spec"], **change}})


def test_a_ray_cron_job_fits_its_schema_and_says_that_it_is_alpha(recipe):
    text, said = schedule(recipe, "--cron", "0 3 * * *", "--for", "kuberay", *ON_KUBERNETES, "--workers", 3)
    (made,) = documents(text)
    check(made)
    assert (made["spec"]["schedule"], made["spec"]["timeZone"]) == ("0 3 * * *", "Etc/UTC")
    (group,) = made["spec"]["jobTemplate"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert group["replicas"] == 3
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert [one["name"] for one in container["env"]] == ["THE_KEY", "THE_GATE"]
    assert "RayCronJob is alpha: KubeRay 1.7 has it behind a gate" in said
    assert '`kubectl create secret generic tickets-50-env --from-literal=THE_KEY="$THE_KEY" ' in said


def test_a_cron_job_waits_for_the_ray_job_that_it_creates_and_fails_at_once_where_another_try_is_no_use(recipe):
    text, _ = schedule(
        recipe, "--cron", "0 3 * * *", "--for", "kubernetes", *ON_KUBERNETES, "--time-zone", "Europe/Berlin"
    )
    made = {document["kind"]: document for document in documents(text)}
    for document in made.values():
        check(document)
    (template,) = documents(made["ConfigMap"]["data"]["rayjob.yaml"])
    check(template)
    assert template["spec"]["entrypoint"].startswith("understudy run /understudy/jobs/Tickets_50%/recipe.yaml --root ")
    spec = made["CronJob"]["spec"]
    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Europe/Berlin")
    job = spec["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    never, _ = job["podFailurePolicy"]["rules"]
    assert (never["action"], never["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4, 6])
    assert never["onExitCodes"]["containerName"] == container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert made["Role"]["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}
    ]


def test_what_kubernetes_cannot_be_told_is_refused(recipe):
    assert refusal(recipe, "--cron", "0 3 * * 7", "--for", "kubernetes", *ON_KUBERNETES) == (
        "--cron '0 3 * * 7': day-of-week 7 is unknown to Kubernetes; write 0 for Sunday"
    )
    assert refusal(recipe, "--cron", "0 3 * * 0", "--for", "kuberay", "--root", "s3://b/r") == (
        "--for kuberay: no --image; add one that all pods see, such as registry/tickets:1.0"
    )
    assert refusal(recipe, "--cron", "0 3 * * 0", "--for", "kuberay", "--image", "i") == (
        "--for kuberay: no --root; add one that all pods see, such as s3://bucket/runs"
    )
    assert refusal(recipe, "--for", "crontab") == "--for crontab: no --cron; add one, such as --cron '0 3 * * *'"


@pytest.mark.parametrize(
    ("codes", "tries", "code"),
    [("0", 1, 0), ("4", 1, 4), ("2", 1, 2), ("5 0", 2, 0), ("7 9 3", 3, 3), ("1 1 1 1", 3, 1)],
)
def test_an_entrypoint_tries_again_what_may_go_on(codes, tries, code, tmp_path):
    (tmp_path / "codes").write_text(codes.replace(" ", "\n") + "\n")
    (tmp_path / "understudy").write_text('#!/bin/sh\necho "$@" >>asked\nexit $(sed -n "$(wc -l <asked)p" codes)\n')
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for name in ("understudy", "sleep"):
        (tmp_path / name).chmod(0o755)
    load = Workload("t", "jobs/my tickets/recipe.yaml", "s3://b/r", "i", ["--set", "label.samples=3"])
    entrypoint = ray_job(load, retries=True)["spec"]["entrypoint"]
    done = subprocess.run(
        ["bash", "-ce", "--", entrypoint],  # as KubeRay's submitter does
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    assert (len(asked), done.returncode) == (tries, code)
    assert asked[0].startswith(
        "run /understudy/jobs/my tickets/recipe.yaml --root s3://b/r --on ray --address auto --set"
    )


class Api(BaseHTTPRequestHandler):
    """The part of Kubernetes that a pod asks for RayJobs."""

    jobs: dict[str, dict]
    ends: list[dict]

    def do_GET(self) -> None:
        path, _, asked = self.path.partition("?")
        name = path.rpartition("/")[2]
        if name == "rayjobs":
            label = asked.partition("=")[2].partition("=")[2]
            self._tell({"items": [job for job in self.jobs.values() if label in job["metadata"]["labels"].values()]})
        elif self.ends and not self.ends[0]:
            self.ends.pop(0)
            self.send_error(503)
        else:
            self.jobs[name]["status"] = self.ends.pop(0)
            self._tell(self.jobs[name])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer the-token"
        self.jobs[body["metadata"]["name"]] = body
        self._tell(body)

    def _tell(self, body: dict) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None: ...


FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([{"jobDeploymentStatus": "Running"}, {}, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}], 0),
        ([{**FAILED, "message": "Job entrypoint command failed with exit code 4, last available logs"}], 4),
        ([{**FAILED, "message": "The RayJob has passed the activeDeadlineSeconds."}], 1),
    ],
)
def test_a_pod_ends_with_the_code_of_the_run_and_goes_on_waiting_in_anothers_place(ends, code, tmp_path):
    (tmp_path / "namespace").write_text("ml")
    (tmp_path / "token").write_text("the-token\n")
    Api.jobs, Api.ends = {}, [*ends, *ends]
    template = ray_job(Workload("t", "jobs/t/recipe.yaml", "s3://b/r", "i"), retries=False)
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubernetes = rayjob.Kubernetes(f"http://127.0.0.1:{server.server_port}", tmp_path)
        found = [rayjob.run(kubernetes, template, "t-123", "uid", every=0.01)]
        Api.jobs["t-123-1"]["status"] = {"jobDeploymentStatus": "Running"}
        found.append(rayjob.run(kubernetes, template, "t-123", "uid", every=0.01))
        Api.ends[:] = [{"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}]
        found.append(rayjob.run(kubernetes, template, "t-123", "uid", every=0.01))
        server.shutdown()

    assert found == [code, code, 0]
    assert list(Api.jobs) == ["t-123-1", "t-123-2"], "one that runs is waited for, and after its end another is created"
    check(Api.jobs["t-123-2"])
    assert Api.jobs["t-123-1"]["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "t-123", "uid": "uid"}
    ]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("rayjob.yaml", ["--for", "kuberay"]),
        ("raycronjob.yaml", ["--for", "kuberay", "--cron", "0 3 * * *"]),
        ("cronjob.yaml", ["--for", "kubernetes", "--cron", "0 3 * * *"]),
    ],
)
def test_the_manifests_of_the_demo_are_those_that_schedule_writes(file, words):
    place = ["--image", "registry/understudy:0.1.0", "--root", "s3://bucket/runs", "--workers", "2"]
    text, _ = schedule(KUBERNETES.parent / "support-triage" / "recipe.yaml", *place, *words)
    assert (KUBERNETES / file).read_text() == text
