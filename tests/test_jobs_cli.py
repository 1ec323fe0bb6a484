import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from understudy.data.errors import BadInput
from understudy.data.lock import Lock
from understudy.data.storage import LocalStorage
from understudy.jobs.cli import cli
from understudy.jobs.scaffold import write_job
from understudy.pipeline.recipe import load_recipe

from .endpoint import Endpoint, Reply, error, says

UNDERSTUDY = Path(sys.executable).with_name("understudy")
LABELS = ("billing", "delivery", "other")
TEXTS = [f"message {n} about order {n * 7919}" for n in range(400)]

RECIPE = """\
name: triage
task:
  kind: classify
  instruction: Which team?
  labels: [billing, delivery, other]
  unlabeled: pool.jsonl
teachers:
  lead:
    kind: table
    model: answers.jsonl
"""


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("UNDERSTUDY_ROOT", "OPENAI_API_KEY")}
    return {**kept, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1", **extra}


def understudy(*arguments: str | Path, cwd: Path, stdin: str = "", **extra: str):
    return subprocess.run(
        [UNDERSTUDY, *map(str, arguments)],
        cwd=cwd,
        env=environment(**extra),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def only_line(done, code: int) -> str:
    """What was said after the root: one line, and no traceback."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    if lines and lines[0].startswith("root: "):
        lines = lines[1:]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("understudy: ")
    return lines[0].removeprefix("understudy: ")


def rows(path: Path, *values) -> None:
    lines = (json.dumps(value if isinstance(value, dict) else {"input": value}) for value in values)
    path.write_text("".join(f"{line}\n" for line in lines))


def team(text: str) -> str:
    return LABELS[sum(text.encode()) % len(LABELS)]


def asked(body: dict) -> str:
    return body["messages"][-1]["content"].removeprefix("Input: ")


def labels(body: dict) -> Reply:
    return says(team(asked(body)))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job whose teacher is a file, in a folder of its own."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    rows(folder / "pool.jsonl", *TEXTS[:30])
    rows(folder / "answers.jsonl", *({"input": text, "output": team(text)} for text in TEXTS[:30]))
    return folder


SECRET = "sk-very-secret-0123456789"


def change(job: Path, old: str, new: str) -> None:
    recipe = job / "recipe.yaml"
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))


def ask_endpoint(job: Path, base_url: str, **fields) -> None:
    """Have the job's teacher be an endpoint."""
    lead = {"kind": "openai", "model": "m", "base_url": base_url, "tries": 1, **fields}
    change(job, "    kind: table\n    model: answers.jsonl\n", "".join(f"    {k}: {v}\n" for k, v in lead.items()))


# --- preview and plan


def test_a_preview_shows_real_prompts_and_answers_which_a_run_does_not_pay_for_again(job):
    with Endpoint(then=labels) as endpoint:
        ask_endpoint(job, endpoint.base_url)
        done = understudy("preview", "recipe.yaml", "-n", "2", cwd=job)
        assert done.returncode == 0
        assert len(endpoint.requests) == 2
        assert understudy("label", "recipe.yaml", cwd=job).returncode == 0
        assert len(endpoint.requests) == 30

    said = done.stderr
    assert said.count("--- label") == 2
    assert f"[user] Input: {TEXTS[0]}" in said
    assert f"[answer] {team(TEXTS[0])}\n=> {team(TEXTS[0])} (hard)" in said


def test_a_preview_of_a_teacher_that_fails_says_what_came_back(job):
    with Endpoint(then=error(400, "flagged")) as endpoint:
        ask_endpoint(job, endpoint.base_url)
        done = understudy("preview", "recipe.yaml", "-n", "1", cwd=job)

    assert "=> failed: refused: flagged" in done.stderr


def test_a_plan_without_a_pilot_asks_nobody_and_one_with_it_gives_an_interval(job):
    with Endpoint(then=labels) as endpoint:
        ask_endpoint(job, endpoint.base_url, price="{input: 1000, output: 2000}")
        guessed = understudy("plan", "recipe.yaml", cwd=job)
        assert endpoint.requests == []
        done = understudy("plan", "recipe.yaml", "--pilot", "10", cwd=job)
        assert len(endpoint.requests) == 10

    assert "label: about 30 requests" in guessed.stderr
    # 7 tokens in and 2 out, of every answer alike
    assert "label: about 30 requests, 210 tokens in and 60 out, about $0.33 (0.33 to 0.33), about 0." in done.stderr


def test_a_pilot_tells_what_a_machine_paid_by_the_hour_will_cost(job):
    with Endpoint(then=labels) as endpoint:
        ask_endpoint(job, endpoint.base_url, price="{per_hour: 36000}")
        guessed = understudy("plan", "recipe.yaml", "--json", cwd=job)
        done = understudy("plan", "recipe.yaml", "--pilot", "10", "--json", cwd=job)

    (guess,), (found,) = (next(event["asked"] for event in events(out) if "asked" in event) for out in (guessed, done))
    assert guess["usd"] is None
    assert found["usd"] == pytest.approx(10 * 60 * found["minutes"])  # ten dollars a second


@pytest.fixture
def writing_job(job: Path) -> Path:
    """A job whose inputs a teacher writes from seeds."""
    change(job, "  unlabeled: pool.jsonl\n", "  seeds: seeds.jsonl\n")
    change(job, "teachers:", "generate: {rows: 40, examples: 1}\nteachers:")
    rows(job / "seeds.jsonl", *({"input": text, "output": LABELS[n % 3]} for n, text in enumerate(TEXTS[:60])))
    return job


def writes_and_labels(body: dict) -> Reply:
    if body["messages"][-1]["content"].startswith("Input: "):
        return labels(body)
    return says(f"where is parcel {sum(json.dumps(body).encode())} of mine")


def asked_for(body: dict) -> str:
    """The prompt and its draw."""
    return json.dumps([body["messages"], body.get("seed")])


def test_a_preview_of_written_inputs_shows_each_written_and_then_labelled(writing_job):
    with Endpoint(then=writes_and_labels) as endpoint:
        ask_endpoint(writing_job, endpoint.base_url)
        done = understudy("preview", "recipe.yaml", "-n", "2", cwd=writing_job)
        assert done.returncode == 0, done.stderr
        seen = [asked_for(body) for body in endpoint.bodies]
        assert understudy("generate", "recipe.yaml", cwd=writing_job).returncode == 0

    assert [line for line in done.stderr.splitlines() if line.startswith("---")] == [
        "--- generate: self-instruct",
        "--- label",
    ] * 2
    assert done.stderr.count("[answer] where is parcel") == 2
    again = {asked_for(body) for body in endpoint.bodies[len(seen) :]}
    assert not again.intersection(seen), "what the preview asked was asked again"


def test_a_plan_of_written_inputs_counts_both_stages_and_its_pilot_is_not_paid_for_again(writing_job):
    with Endpoint(then=writes_and_labels) as endpoint:
        ask_endpoint(writing_job, endpoint.base_url, price="{input: 1000, output: 2000}")
        guessed = understudy("plan", "recipe.yaml", cwd=writing_job)
        assert guessed.returncode == 0, guessed.stderr
        assert endpoint.requests == []
        done = understudy("plan", "recipe.yaml", "--pilot", "10", cwd=writing_job)
        asked_before = len(endpoint.requests)
        assert understudy("label", "recipe.yaml", cwd=writing_job).returncode == 0

    assert "generate: about 44 requests" in guessed.stderr, "a tenth more, for what will be rejected"
    assert "label: about 40 requests" in guessed.stderr
    assert asked_before == 20
    for stage in ("generate", "label"):
        line = next(line for line in done.stderr.splitlines() if line.strip().startswith(f"{stage}: about"))
        assert re.search(r"\$\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", line), "dollars with an interval"
    sent = Counter(map(asked_for, endpoint.bodies))
    assert max(sent.values()) == 1, "something was asked twice"


# --- sample


def test_a_sheet_is_written_filled_in_and_judged_on(job):
    made = understudy("sample", "recipe.yaml", "--rows", "8", "--json", cwd=job)
    assert made.returncode == 0, made.stderr
    (event,) = events(made)
    assert event["event"] == "sample"
    assert event["path"] == str(job / "sample.csv")
    assert [event[name] for name in ("rows", "added", "labelled", "asked")] == [8, 8, 0, 8]
    sheet = (job / "sample.csv").read_text(encoding="utf-8-sig").splitlines()
    (job / "sample.csv").write_text("\n".join([sheet[0], *(f"{line}billing" for line in sheet[1:4]), *sheet[4:]]))
    change(job, "  unlabeled", "  test: {sheet: sample.csv}\n  unlabeled")

    done = understudy("curate", "recipe.yaml", cwd=job)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sample.csv: 3 of 8 rows are labelled; the others are left out") == 1
    assert "27 accepted + 3 rejected (leak_same 3)" in done.stderr
    again = understudy("sample", "recipe.yaml", "--rows", "10", "--to", "sample.csv", cwd=job)
    assert "\nsample.csv: 10 rows, 2 of them new, 3 labelled\n" in again.stderr
    assert again.stderr.endswith("it is task.test.sheet of recipe.yaml: the next run counts what is filled in\n")


# --- secrets


def echoes(body: dict) -> Reply:
    """An endpoint that repeats the key wherever it can."""
    if "temperature" in body:
        return error(400, f"temperature is not for {SECRET}")
    if asked(body) == TEXTS[3]:
        return error(400, f"no credit for {SECRET}")
    if asked(body) == TEXTS[4]:
        return says(f"the key is {SECRET}")
    answer = labels(body)
    return Reply({**answer.body, "model": f"m of {SECRET}"}, headers={"X-Key": SECRET})


def read(file: Path) -> bytes:
    """What a file says; the values of a Parquet file, which is compressed."""
    if file.suffix == ".parquet":
        return repr(pq.read_table(file).to_pylist()).encode()
    return file.read_bytes()


@pytest.mark.slow
def test_a_key_is_in_no_file_and_in_no_line_that_a_run_leaves(job):
    rows(job / "gold.jsonl", *({"input": text, "output": team(text)} for text in TEXTS[200:230]))
    change(job, "  unlabeled", "  test: {gold: gold.jsonl}\n  unlabeled")
    change(job, "teachers:", "max_failed: 0.5\nstudent: {init: {parameters: 0.3M}, train: {epochs: 1}}\nteachers:")
    export = "export --format lm-eval --to task"
    commands = ("preview", "plan --pilot 4", "run --no-gate", "status", "report", "answer", export)
    said = ""
    with Endpoint(then=echoes) as endpoint:
        ask_endpoint(job, endpoint.base_url, api_key_env="THE_KEY", headers_env="{X-Gate: THE_KEY}")
        for command, *flags in map(str.split, commands):
            words = ["hello"] if command == "answer" else []
            done = understudy(command, "recipe.yaml", *words, *flags, "--json", cwd=job, THE_KEY=SECRET)
            assert done.returncode == 0, done.stderr
            said += done.stdout + done.stderr

    sent = endpoint.requests[0].headers
    assert (sent["Authorization"], sent["X-Gate"]) == (f"Bearer {SECRET}", SECRET)
    assert "temperature is not for ***" in said
    assert "answered by `m of ***`" in said
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["event"], told["format"], told["files"][0]) == ("export", "lm-eval", "task/README.md")
    left = {file: read(file) for file in job.rglob("*") if file.is_file()}
    for where, words in {"stages": b"no credit for ***", "ledger": b"the key is ***"}.items():
        assert any(words in content for file, content in left.items() if where in file.parts)
    assert {"report.json", "report.html", "manifest.json", "recipe.yaml"} <= {file.name for file in left}
    assert SECRET not in said
    assert not [file for file, content in left.items() if SECRET.encode() in content]


# --- help


def test_help_imports_nothing_heavy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", UNDERSTUDY, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {
        "torch", "ray", "vllm", "transformers", "trl", "datasets", "numpy", "scipy", "sklearn", "pyarrow", "pydantic",
        "aiohttp", "jinja2", "rich",
    }  # fmt: skip


@pytest.mark.parametrize("command", cli.commands)
def test_help_of_a_command_shows_an_example(command, tmp_path):
    done = understudy(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: understudy {command}" in done.stdout
    assert done.stderr == ""


def test_version_is_that_of_the_package(tmp_path):
    assert re.fullmatch(r"understudy, version \d+\.\d+\.\d+\n", understudy("--version", cwd=tmp_path).stdout)


USAGE = {
    ("run",): "missing argument 'RECIPE'; `understudy run --help` shows how it is used",
    ("run", "recipe.yaml", "--rooot", "x"): "no such option '--rooot'. Did you mean '--root'?",
    ("lable", "recipe.yaml"): "no such command 'lable'. Did you mean 'label'?",
    ("run", "a", "b"): "got unexpected extra argument (b); `understudy run --help` shows how it is used",
    ("run", "recipe.yaml", "--set"): "option '--set' requires an argument; `understudy --help` shows how it is used",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_is_one_line_and_code_2(arguments, tmp_path):
    assert only_line(understudy(*arguments, cwd=tmp_path), 2) == USAGE[arguments]


# --- mistakes in the recipe and its files


MISTAKES = {
    "an unknown key": (
        lambda job: change(job, "unlabeled", "unlabelled"),
        "job/recipe.yaml:6: unknown key 'unlabelled' in task; did you mean 'unlabeled'?",
    ),
    "a duplicate key": (
        lambda job: change(job, "teachers:", "name: again\nteachers:"),
        "job/recipe.yaml:7: key 'name' is given twice; a key may be given once: remove one",
    ),
    "a wrong type": (
        lambda job: change(job, "teachers:", "max_failed: little\nteachers:"),
        "job/recipe.yaml:7: max_failed = 'little': should be a valid number",
    ),
    "no recipe": (
        lambda job: (job / "recipe.yaml").unlink(),
        "job/recipe.yaml: no such recipe; `understudy init NAME` writes one",
    ),
    "a folder for a recipe": (
        lambda job: ((job / "recipe.yaml").unlink(), (job / "recipe.yaml").mkdir()),
        "job/recipe.yaml: is a folder; give the recipe file in it, such as job/recipe.yaml/recipe.yaml",
    ),
    "two equal labels": (
        lambda job: change(job, "other]", "billing]"),
        "job/recipe.yaml:5: task.labels.2: label 'billing' is given twice; a label may be given once: remove one",
    ),
    "an unquoted yes/no label": (
        lambda job: change(job, "[billing, delivery, other]", "[no, true]"),
        "job/recipe.yaml:5: task.labels.1: label true is not text; put it in quotes: 'true'",
    ),
    "a teacher that is not defined": (
        lambda job: change(job, "teachers:", "label: {teacher: leed}\nteachers:"),
        "job/recipe.yaml:7: label.teacher: 'leed' is no teacher of this recipe; defined: lead",
    ),
    "no input file": (
        lambda job: (job / "pool.jsonl").unlink(),
        "task.unlabeled: JOB/pool.jsonl: no such file; expected a CSV, JSONL, JSON, Parquet or text file",
    ),
    "an empty input file": (
        lambda job: (job / "pool.jsonl").write_text(""),
        "JOB/pool.jsonl: the file is empty; expected rows",
    ),
    "broken JSON on a line": (
        lambda job: (job / "pool.jsonl").write_text('{"input": "a"}\n\n{"input": b}\n'),
        "JOB/pool.jsonl:3: not valid JSON: Expecting value at column 11; mend that line",
    ),
    "a CSV without the column": (
        lambda job: (
            (job / "pool.csv").write_text("id,subject\n1,hello\n"),
            change(job, "pool.jsonl", '{path: pool.csv, input: "{subject} {body}"}'),
        ),
        "JOB/pool.csv:2: no column 'body', which task.unlabeled.input names; found id, subject",
    ),
    "a gold label that is none": (
        lambda job: (
            rows(job / "gold.jsonl", {"input": "a", "output": "other"}, {"input": "my bill", "output": "Biling"}),
            change(job, "  unlabeled", "  test: {gold: gold.jsonl}\n  unlabeled"),
        ),
        "task.test.gold: gold.jsonl: row 2: the output 'Biling' of 'my bill' is not one of the 3 labels; did you mean "
        "'billing'?",
    ),
    "gold without outputs": (
        lambda job: (
            rows(job / "gold.jsonl", {"input": "a", "team": "other"}),
            change(job, "  unlabeled", "  test: {gold: gold.jsonl}\n  unlabeled"),
        ),
        "JOB/gold.jsonl:1: no output; found input, team; add `output` (or `label`)",
    ),
    "a template that is none": (
        lambda job: (
            (job / "label.j2").write_text("[user]\n{{ inputs }}\n"),
            change(job, "teachers:", "prompts: {label: label.j2}\nteachers:"),
        ),
        "JOB/label.j2: 'inputs' is undefined; a template may use input, instruction, keys, labels, schema",
    ),
    "a table that is not there": (
        lambda job: (job / "answers.jsonl").unlink(),
        "teachers.lead.model: JOB/answers.jsonl: no such file; expected a CSV, JSONL, JSON, Parquet or text file",
    ),
    "a key that is not in the environment": (
        lambda job: ask_endpoint(job, "http://127.0.0.1:9/v1", api_key_env="OPENAI_API_KEY"),
        "teacher lead: OPENAI_API_KEY is not set in the environment; export it, or remove `api_key_env`",
    ),
    "a key where its variable's name should be": (
        lambda job: ask_endpoint(job, "http://127.0.0.1:9/v1", api_key_env=SECRET),
        "job/recipe.yaml:13: teachers.lead.api_key_env: is not the name of an environment variable; put the key in "
        "one, such as OPENAI_API_KEY, and its name here",
    ),
    "a hub of models that is a typo": (
        lambda job: change(
            job, "kind: table\n    model: answers.jsonl", "kind: transformers\n    model: models/mine2/x"
        ),
        "teacher lead: there is no folder JOB/models/mine2/x; expected a model's folder, or a hub id: org/name",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_code_2(mistake, job):
    make, message = MISTAKES[mistake]
    make(job)
    done = understudy("run", "job/recipe.yaml", cwd=job.parent)
    assert only_line(done, 2) == message.replace("JOB", str(job))
    assert done.stdout == ""


def local_model(job: Path, *files: str) -> None:
    (job / "model").mkdir()
    for name in files:
        (job / "model" / name).write_text("{}")
    change(job, "kind: table\n    model: answers.jsonl", "kind: transformers\n    model: model")


def test_a_model_folder_with_pickle_weights_only_is_refused(job):
    local_model(job, "config.json", "tokenizer.json", "pytorch_model.bin")
    assert only_line(understudy("label", "recipe.yaml", cwd=job), 2) == (
        f"teacher lead: {job}/model holds only pickle weights (pytorch_model.bin), which can run code when loaded; "
        "convert them to safetensors"
    )


def test_a_model_folder_without_a_tokenizer_is_refused(job):
    local_model(job, "config.json", "model.safetensors")
    assert only_line(understudy("label", "recipe.yaml", cwd=job), 2) == (
        f"teacher lead: {job}/model has no tokenizer (tokenizer.json or tokenizer_config.json); copy it from the model "
        "it was trained with"
    )


def test_a_stage_that_the_recipe_has_no_section_for_is_refused(job):
    for stage, section in {"generate": "generate", "evaluate": "student"}.items():
        said = only_line(understudy(stage, "recipe.yaml", cwd=job), 2)
        assert said == f"{job}/recipe.yaml: no `{section}:` section, which '{stage}' needs; add one"


def test_what_was_not_made_yet_cannot_be_used(job):
    change(job, "teachers:", "student: {}\nteachers:")
    assert only_line(understudy("answer", "recipe.yaml", "hello", cwd=job), 2) == (
        f"student 'student' is not trained yet; `understudy train {job}/recipe.yaml` does it"
    )
    assert only_line(understudy("answer", "recipe.yaml", "hello", "--student", "small", cwd=job), 2) == (
        "--student small: no such student; defined: student"
    )
    assert only_line(understudy("report", "recipe.yaml", cwd=job), 2) == (
        "recipe.yaml: nothing is judged yet; `understudy run recipe.yaml` does it"
    )


def test_a_wrong_set_is_one_line(job):
    assert only_line(understudy("run", "recipe.yaml", "--set", "label.sampels=2", cwd=job), 2) == (
        "recipe.yaml with --set label.sampels=2: unknown key 'sampels' in label; did you mean 'samples'?"
    )
    assert only_line(understudy("run", "recipe.yaml", "--set", "train.epochs=1", cwd=job), 2) == (
        "--set train.epochs=1: the recipe has no student; add a `student:` section"
    )


def test_nothing_to_learn_from_is_code_6(job):
    (job / "pool.jsonl").write_text('{"input": " "}\n')
    said = only_line(understudy("run", "recipe.yaml", cwd=job), 6)
    assert said == "label: there is no input to label; every row of the input was empty"


# --- endpoints


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_endpoint_that_refuses_connections_is_code_5(job):
    url = f"http://127.0.0.1:{closed_port()}/v1"
    ask_endpoint(job, url)
    assert only_line(understudy("label", "recipe.yaml", cwd=job), 5) == (
        f"teacher lead: {url}/chat/completions cannot be reached: connection refused; start the server, or check "
        "base_url"
    )


def test_an_endpoint_that_answers_401_is_code_5_and_the_key_is_not_shown(job):
    with Endpoint(then=error(401, "Incorrect API key provided: sk-secret")) as endpoint:
        ask_endpoint(job, endpoint.base_url, api_key_env="OPENAI_API_KEY")
        done = understudy("label", "recipe.yaml", cwd=job, OPENAI_API_KEY="sk-secret")
    said = only_line(done, 5)
    assert said.startswith(f"teacher lead: {endpoint.base_url}/chat/completions answered 401 (Unauthorized): ")
    assert "OPENAI_API_KEY" in said
    assert "sk-secret" not in done.stderr + done.stdout


def test_an_endpoint_that_answers_html_is_code_5(job):
    with Endpoint(then=Reply("<!doctype html><h1>Welcome</h1>", headers={"Content-Type": "text/html"})) as endpoint:
        ask_endpoint(job, endpoint.base_url)
        done = understudy("label", "recipe.yaml", cwd=job)
    assert only_line(done, 5) == (
        f"teacher lead: {endpoint.base_url}/chat/completions answered with an HTML page, not JSON; check base_url"
    )


def test_an_endpoint_that_hangs_is_code_5(job):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # connects, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        ask_endpoint(job, url, timeout_seconds=0.2)
        done = understudy("label", "recipe.yaml", cwd=job)
    assert only_line(done, 5) == (
        f"teacher lead: {url}/chat/completions gave no reply within 0.2 s; check that the model is loaded, or raise "
        "`timeout_seconds`"
    )


def test_an_endpoint_without_choices_fails_the_rows_and_is_code_9(job):
    with Endpoint(then=Reply({"object": "chat.completion", "choices": []})) as endpoint:
        ask_endpoint(job, endpoint.base_url)
        done = understudy("label", "recipe.yaml", cwd=job)
    assert only_line(done, 9) == (
        "label: 30 of 30 rows failed (empty 30), more than max_failed = 0.01; run again to ask them once more, or "
        "raise max_failed"
    )


def test_a_reached_budget_is_code_3(job):
    with Endpoint(then=labels) as endpoint:
        ask_endpoint(job, endpoint.base_url, price="{input: 0, output: 500000}")
        change(job, "teachers:", "budget: {usd: 4.5}\nlabel: {max_tokens: 2}\nteachers:")
        said = only_line(understudy("label", "recipe.yaml", cwd=job), 3)
        assert said.startswith("budget: $")
        assert said.endswith("raise budget.usd and run again: nothing is asked twice")
        assert len(endpoint.requests) == 4
        assert understudy("label", "recipe.yaml", "--set", "budget.usd=99", cwd=job).returncode == 0
        assert len(endpoint.requests) == 30


# --- roots


def test_a_root_that_cannot_be_written_is_refused(job):
    done = understudy("run", "recipe.yaml", "--root", "/proc/nowhere", cwd=job)
    assert only_line(done, 2) == (
        "/proc/nowhere: cannot be written: No such file or directory; choose another with --root"
    )
    assert done.stderr.splitlines()[0] == "root: /proc/nowhere"
    (job / "file").write_text("")
    said = only_line(understudy("run", "recipe.yaml", "--root", "file/x", cwd=job), 2)
    assert said == f"{job}/file/x: cannot be written: Not a directory; choose another with --root"


def test_a_root_that_another_run_works_on_is_code_7(job):
    with Lock(LocalStorage(job / "runs"), "triage/lock.json"):
        said = only_line(understudy("label", "recipe.yaml", cwd=job), 7)
        assert said.startswith(f"triage/lock.json: held by process {os.getpid()} on {socket.gethostname()} since ")
        assert understudy("status", "recipe.yaml", cwd=job).returncode == 0
    assert understudy("label", "recipe.yaml", cwd=job).returncode == 0


def test_the_root_is_the_flag_else_the_environment_else_beside_the_recipe(job):
    elsewhere = job.parent / "elsewhere"
    cases = [
        ((), {}, job / "runs"),
        ((), {"UNDERSTUDY_ROOT": str(elsewhere)}, elsewhere),
        (("--root", "flag"), {"UNDERSTUDY_ROOT": str(elsewhere)}, job / "flag"),
    ]
    for arguments, extra, root in cases:
        done = understudy("curate", "recipe.yaml", *arguments, cwd=job, **extra)
        assert done.returncode == 0
        assert done.stderr.splitlines()[0] == f"root: {root}"
        assert (root / "stages").is_dir()


def test_the_root_of_a_job_in_jobs_is_beside_jobs(tmp_path):
    assert understudy("init", "tickets", cwd=tmp_path).returncode == 0
    done = understudy("status", "jobs/tickets/recipe.yaml", cwd=tmp_path, OPENAI_API_KEY="k")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == f"root: {tmp_path}/runs"


# --- what a run says


def events(done) -> list[dict]:
    """Standard output, every line of which is one JSON object."""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(isinstance(event, dict) and event["event"] for event in found)
    return found


def test_json_is_one_object_a_line_on_stdout_and_words_are_on_stderr(job):
    done = understudy("curate", "recipe.yaml", "--json", cwd=job)
    assert done.returncode == 0
    stages = [(event["stage"], event["state"]) for event in events(done) if event["event"] == "stage"]
    assert stages == [("label", "started"), ("label", "finished"), ("curate", "started"), ("curate", "finished")]
    finished = [event for event in events(done) if event.get("state") == "finished"]
    assert all(event["rows"]["requested"] == 30 for event in finished)
    assert done.stderr.splitlines()[0] == f"root: {job}/runs"
    assert "label: done in " in done.stderr
    assert "30 rows = 30 accepted + 0 rejected + 0 failed + 0 pending" in done.stderr
    status = understudy("status", "recipe.yaml", "--json", cwd=job)
    assert [(event["stage"], event["state"]) for event in events(status)] == [("label", "done"), ("curate", "done")]


def test_a_plan_is_words_and_an_event_and_asks_nobody(job):
    with Endpoint(then=labels) as endpoint:
        ask_endpoint(job, endpoint.base_url, price="{input: 1, output: 2}")
        done = understudy("plan", "recipe.yaml", "--json", cwd=job)
        assert endpoint.requests == []
    assert done.returncode == 0
    (event,) = events(done)
    assert event["stages"] == {"label": "to do", "curate": "to do"}
    assert [(part["stage"], part["requests"]) for part in event["asked"]] == [("label", 30)]
    assert "label: about 30 requests, " in done.stderr
    assert not (job / "runs" / "triage").exists()


def test_without_json_nothing_is_on_stdout(job):
    assert understudy("curate", "recipe.yaml", cwd=job).stdout == ""
    assert understudy("status", "recipe.yaml", cwd=job).stdout == ""


def test_a_finished_run_asks_nothing_and_does_without_its_endpoint(job):
    with Endpoint(then=labels) as endpoint:
        ask_endpoint(job, endpoint.base_url)
        first = understudy("curate", "recipe.yaml", cwd=job)
        assert (first.returncode, len(endpoint.requests)) == (0, 30)
        again = understudy("curate", "recipe.yaml", cwd=job)
        assert (again.returncode, len(endpoint.requests)) == (0, 30)
    gone = understudy("curate", "recipe.yaml", cwd=job)
    assert gone.returncode == 0
    assert gone.stderr == again.stderr
    assert gone.stderr.splitlines()[-1] == first.stderr.splitlines()[-1]


def test_a_terminal_shows_progress_and_breaks_nothing(job):
    """A stage inside a stage draws two bars at once."""
    rows(job / "seeds.jsonl", *({"input": text, "output": team(text)} for text in TEXTS[300:312]))
    change(job, "  unlabeled", "  seeds: seeds.jsonl\n  unlabeled")
    change(job, "teachers:", "generate: {rows: 20}\nteachers:")

    def reply(body: dict) -> Reply:
        if "seed" in body:
            return Reply(says(f"text {body['seed'] * 7919} and {body['seed'] * 104729}").body, delay=0.05)
        return labels(body)

    ours, theirs = pty.openpty()
    with Endpoint(then=reply) as endpoint:
        ask_endpoint(job, endpoint.base_url, concurrency=4)
        process = subprocess.Popen(
            [UNDERSTUDY, "curate", "recipe.yaml"], cwd=job, env=environment(TERM="xterm"), stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                some = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not some:
                break
            shown += some
        assert process.wait(timeout=60) == 0, shown
    os.close(ours)
    assert b"Traceback" not in shown
    assert b"curate: done in" in shown


# --- stops and starts


def started(job: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [UNDERSTUDY, *arguments], cwd=job, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_one_line_and_it_goes_on_later(number, code, job):
    rows(job / "pool.jsonl", *TEXTS[:80])
    with Endpoint(then=lambda body: Reply(labels(body).body, delay=0.05)) as endpoint:
        ask_endpoint(job, endpoint.base_url, concurrency=8)
        process = started(job, "label", "recipe.yaml")
        wait_for(lambda: len(endpoint.requests) >= 24, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        done = subprocess.CompletedProcess((), process.returncode, out, err)
        assert only_line(done, code) == "stopped; run the same command again to go on"
        assert not (job / "runs" / "triage" / "lock.json").exists()
        stopped_at = len(endpoint.requests)
        assert stopped_at < 60
        again = understudy("label", "recipe.yaml", cwd=job)
        assert again.returncode == 0, again.stderr
    times = Counter(asked(body) for body in endpoint.bodies)
    assert set(times) == set(TEXTS[:80])
    assert max(times.values()) <= 2
    assert sum(n - 1 for n in times.values()) <= 8  # those in flight


def test_a_signal_while_nothing_is_asked_is_one_line_too(job):
    process = started(job, "answer", "recipe.yaml", "-", "--student", "x")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode in (2, 143, -signal.SIGTERM)  # the last where Python itself was still starting


def test_a_recipe_changed_under_a_run_is_told_of(job):
    with Endpoint(then=lambda body: Reply(labels(body).body, delay=0.05)) as endpoint:
        ask_endpoint(job, endpoint.base_url, concurrency=4)
        process = started(job, "curate", "recipe.yaml")
        wait_for(lambda: endpoint.requests, process)
        change(job, "Which team?", "Which team is it for?")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    told = [line for line in err.splitlines() if "changed while this run is going" in line]
    assert told == [
        f"{job}/recipe.yaml: changed while this run is going; the run goes on with the recipe as it was read at the "
        "start: run again for the new one"
    ]


def test_two_runs_at_once_are_one_run_and_one_refusal(job):
    with Endpoint(then=lambda body: Reply(labels(body).body, delay=0.8)) as endpoint:
        ask_endpoint(job, endpoint.base_url, concurrency=4)
        first = started(job, "label", "recipe.yaml")
        wait_for(lambda: endpoint.requests, first)
        said = only_line(understudy("label", "recipe.yaml", cwd=job), 7)
        assert f"held by process {first.pid} on " in said
        first.communicate(timeout=60)
    assert first.returncode == 0
    assert len(endpoint.requests) == 30


# --- init


def test_init_writes_a_job_that_loads_and_refuses_to_write_over_it(tmp_path):
    done = understudy("init", "tickets", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"wrote {tmp_path}/jobs/tickets: edit recipe.yaml, then `understudy run jobs/tickets/recipe.yaml`\n"
    )
    recipe = load_recipe(tmp_path / "jobs" / "tickets" / "recipe.yaml").recipe
    assert recipe.name == "tickets"
    assert recipe.generate is not None
    edited = tmp_path / "jobs" / "tickets" / "recipe.yaml"
    edited.write_text(edited.read_text() + "# mine\n")
    assert only_line(understudy("init", "tickets", cwd=tmp_path), 2) == (
        f"{tmp_path}/jobs/tickets: exists already; choose another name, or edit what is there"
    )
    assert edited.read_text().endswith("# mine\n")


def test_init_starts_from_a_file_of_any_name(tmp_path):
    source = tmp_path / 'my "best" #1: tickets\\2024.csv'
    source.write_text("input\nhello\n")
    assert understudy("init", "2024", "--from", source, cwd=tmp_path).returncode == 0
    recipe = load_recipe(tmp_path / "jobs" / "2024" / "recipe.yaml").recipe
    assert recipe.name == "2024"
    assert recipe.generate is None
    assert recipe.task.unlabeled.path == source.name
    done = understudy("status", "jobs/2024/recipe.yaml", cwd=tmp_path, OPENAI_API_KEY="k")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["true", "null", "1e5", "2024-01-01", "no", "0x1F", "a" * 100])
def test_a_job_takes_names_that_yaml_would_read_as_something_else(name, tmp_path):
    write_job(tmp_path, name, None)
    assert load_recipe(tmp_path / "jobs" / name / "recipe.yaml").recipe.name == name


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "a/b", "ledger", "stages", "a" * 101, "-x"])
def test_a_job_refuses_names_that_are_no_folders(name, tmp_path):
    with pytest.raises(BadInput) as caught:
        write_job(tmp_path, name, None)
    assert str(caught.value) == (
        f"'{name}' cannot name a job; use at most 100 letters, digits, '-', '_' and '.', and neither of ledger, stages"
    )
    assert list(tmp_path.iterdir()) == []


def test_init_refuses_a_source_that_is_not_there_and_a_folder_it_cannot_write(tmp_path):
    assert only_line(understudy("init", "tickets", "--from", "gone.csv", cwd=tmp_path), 2) == (
        "--from gone.csv: no such file; expected a CSV, JSONL, JSON, Parquet or text file"
    )
    assert only_line(understudy("init", "a b", cwd=tmp_path), 2).startswith("'a b' cannot name a job; use at most 100 ")
    (tmp_path / "jobs").write_text("")
    assert only_line(understudy("init", "tickets", cwd=tmp_path), 2) == (
        f"{tmp_path}/jobs/tickets: cannot be written: Not a directory; run it in a folder where you may write"
    )


# --- all the way


@pytest.mark.slow
def test_a_run_is_judged_reported_repeated_and_used(job):
    rows(job / "gold.jsonl", *({"input": text, "output": team(text)} for text in TEXTS[200:230]))
    change(job, "  unlabeled", "  test: {gold: gold.jsonl}\n  unlabeled")
    change(job, "teachers:", "student:\n  init: {parameters: 0.3M}\n  train: {epochs: 1}\nteachers:")
    with Endpoint(then=labels) as endpoint:
        ask_endpoint(job, endpoint.base_url)
        done = understudy("run", "recipe.yaml", "--json", cwd=job)
        decided = events(done)[-1]
        assert decided["event"] == "verdict"
        assert done.returncode == {"pass": 0, "fail": 4, "not_enough_data": 6}[decided["decision"]]
        assert done.returncode != 0  # one epoch over 30 rows teaches nobody
        assert len(endpoint.requests) == 90, "30 inputs, and 30 gold rows twice"
        again = understudy("run", "recipe.yaml", cwd=job)
        assert again.returncode == done.returncode
        assert understudy("run", "recipe.yaml", "--no-gate", cwd=job).returncode == 0
        assert len(endpoint.requests) == 90
    words = {"fail": "FAIL: ", "not_enough_data": "NOT ENOUGH DATA: "}[decided["decision"]]
    assert any(line.startswith(words) for line in again.stderr.splitlines())
    report = json.loads((job / "runs" / "triage" / "report.json").read_text())
    assert report["verdict"]["decision"] == decided["decision"]
    assert set(report["models"]) == {"teacher", "student", "untrained", "majority", "neighbour", "linear"}

    shown = understudy("report", "recipe.yaml", "--json", cwd=job)
    assert (shown.returncode, events(shown)[0]["event"]) == (0, "report")

    many = understudy("answer", "recipe.yaml", "-", "--json", stdin="one\ntwo\n\nthree", cwd=job)
    assert [event["input"] for event in events(many)] == ["one", "two", "", "three"]
    assert all(event["output"] in LABELS for event in events(many))
