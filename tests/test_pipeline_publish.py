"""What a run makes, published by the real command and read back by the libraries that people read it with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.data.artifact import Artifact
from understudy.data.errors import BadInput
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.dataset_card import Contents, dataset_card
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe

from .hub import READS, TOKEN, Fault, Hub, a_hub

LABELS = ["lost parcel", "refund", "other"]
MAIN = "from understudy.jobs.cli import main; main()"
WORDS = {"lost parcel": "parcel courier late", "refund": "money back pay", "other": "hello thanks app"}


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A recipe that publishes a dataset and a student, with rows that no card may be broken by."""
    folder = tmp_path_factory.mktemp("job")
    rows = []
    for number in range(300):
        label = LABELS[number % 3]
        word = WORDS[label].split()[number // 3 % 3]
        rows.append({"input": f"{word} {number} | <b>now</b> [x](javascript:1) \u202e`{word}`", "output": label})
    leak = {"input": f"well now, {rows[240]['input']} and so on", "output": rows[240]["output"]}
    for name, some in (("pool", [*rows[:240], leak]), ("gold", rows[240:]), ("answers", [*rows, leak])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (folder / "prompts").mkdir()
    (folder / "prompts" / "label.j2").write_text("[user]\n{{ input }}\n")
    recipe = {
        "name": "tickets",
        "task": {
            "kind": "classify",
            "instruction": "Which team?",
            "labels": LABELS,
            "unlabeled": "pool.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "prompts": {"label": "prompts/label.j2"},
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "student": {"init": {"parameters": "0.4M"}, "train": {"epochs": 12, "batch": 16, "max_length": 96}},
        "evaluate": {"margin": 20},
        "publish": {
            "dataset": "org/tickets",
            "model": "org/tickets-student",
            "license": "cc-by-4.0",
            "sources": {"old tickets": "cc0-1.0"},
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def environment(home: Path, url: str, token: str = TOKEN) -> dict[str, str]:
    """Of a process that knows this hub and no other, and nothing from before."""
    return os.environ | {
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }


def understudy(job: Path, url: str, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *arguments, "--root", str(job / "root")]
    return subprocess.run(command, env=environment(job / "home", url, token), capture_output=True, text=True)


@pytest.fixture(scope="module")
def published(job):
    """The hub after the whole run, and what the run said."""
    with a_hub() as hub:
        said = understudy(job, hub.url, "run", str(job / "recipe.yaml"))
        assert said.returncode == 0, said.stderr
        yield hub, said.stderr


def held(hub: Hub, name: str) -> dict[str, bytes]:
    return hub.repositories[name].commits[-1][1]


def in_python(job: Path, url: str, home: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=environment(home, url), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_dataset_loads_by_its_tag_with_splits_and_configs(job, published, tmp_path):
    hub, said = published
    tag = re.search(r"datasets/org/tickets/tree/(\w{16})", said)
    assert tag is not None, said

    out = in_python(
        job,
        hub.url,
        tmp_path,
        "import datasets, json\n"
        "datasets.config.USE_PARQUET_EXPORT = False\n"
        "found = {}\n"
        "for config in datasets.get_dataset_config_names('org/tickets'):\n"
        f"    rows = datasets.load_dataset('org/tickets', config, revision='{tag[1]}')\n"
        "    found[config] = {side: sorted(part['id']) for side, part in rows.items()}\n"
        "    if config == 'default':\n"
        "        assert set(rows['train']['completion']) == {'lost parcel', 'refund', 'other'}\n"
        "print(json.dumps(found))\n",
    )

    found = json.loads(out.splitlines()[-1])
    assert set(found) == {"default", "logprobs", "provenance"}
    assert set(found["default"]) == {"train", "validation", "calibration"}
    assert found["default"] == found["logprobs"] == found["provenance"]
    assert sum(map(len, found["default"].values())) == 240
    assert hub.repositories["datasets/org/tickets"].private


@pytest.mark.slow
def test_a_folder_on_a_disk_is_the_same_dataset(job, published, tmp_path):
    hub, _ = published
    place = f"publish.dataset=file://{tmp_path}/out"
    said = understudy(job, hub.url, "publish", str(job / "recipe.yaml"), "--set", place, "--set", "publish.model=null")
    assert said.returncode == 0, said.stderr
    folder = tmp_path / "out" / json.loads((tmp_path / "out" / "latest.json").read_text())["folder"]

    out = in_python(
        job,
        hub.url,
        tmp_path / "home",
        "import datasets, json\n"
        f"rows = datasets.load_dataset('{folder}', 'default', split='train')\n"
        f"roots = datasets.load_dataset('{folder}', 'provenance', split='train')\n"
        "assert rows['id'] == roots['id']\n"
        "print(len(rows), rows.column_names, roots.column_names)\n",
    )

    assert int(out.splitlines()[-1].split()[0]) > 150
    assert "['id', 'side', 'prompt', 'completion'] ['id', 'root', 'origin', 'strategy', 'agreement']" in out


@pytest.mark.slow
def test_the_card_counts_every_row_and_no_row_breaks_it(published):
    hub, _ = published
    card = held(hub, "datasets/org/tickets")["README.md"].decode()

    assert card.startswith('---\n"license": "cc-by-4.0"\n') or card.startswith('---\nlicense: "cc-by-4.0"\n')
    assert "| label | 241 | 241 | 0 | 0 | 0 |" in card
    assert re.search(r"\| gold/gold \| 60 \| 0 \| 0 \| 1 \|", card)
    assert "- Made from old tickets, licence cc0-1.0." in card
    assert "- Asked of teachers: 241 requests, 0 tokens in, 0 out." in card
    assert "Set on the command line" not in card
    assert "`preference`" not in card, "one answer to each row prefers nothing"
    assert "Which team?" in card
    assert "<b>" not in card
    assert "\u202e" not in card
    samples = card.partition("## Samples")[2].partition("## Making")[0].strip().splitlines()
    assert len(samples) == 2 + 5
    for line in samples[2:]:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3, "a row's own bar begins no new cell"
    assert held(hub, "datasets/org/tickets")["recipe.yaml"]
    assert held(hub, "datasets/org/tickets")["prompts/label.j2"] == b"[user]\n{{ input }}\n"


@pytest.mark.slow
def test_the_student_loads_in_transformers_with_its_proof_beside_it(job, published, tmp_path):
    hub, _ = published
    files = held(hub, "models/org/tickets-student")
    assert {"model.safetensors", "tokenizer.json", "report.html", "report.json", "README.md"} <= files.keys()
    card = files["README.md"].decode()
    assert 'license: "cc-by-4.0"' in card
    assert 'datasets:\n  - "org/tickets"' in card
    assert "- Made from old tickets, licence cc0-1.0." in card
    assert json.loads(files["report.json"])["verdict"]["decision"] == "pass"

    out = in_python(
        job,
        hub.url,
        tmp_path,
        "import transformers as hf\n"
        "name = 'org/tickets-student'\n"
        "model, tokenizer = hf.AutoModelForCausalLM.from_pretrained(name), hf.AutoTokenizer.from_pretrained(name)\n"
        "text = tokenizer.apply_chat_template([{'role': 'user', 'content': 'money 6'}], tokenize=False, "
        "add_generation_prompt=True)\n"
        "ids = tokenizer(text, return_tensors='pt', add_special_tokens=False)['input_ids']\n"
        "print(tokenizer.decode(model.generate(ids, max_new_tokens=1, do_sample=False)[0, -1]))\n",
    )

    assert out.splitlines()[-1].strip() == "refund"


@pytest.mark.slow
def test_gold_stays_here(job, published):
    hub, _ = published
    gold = [json.loads(line)["input"] for line in (job / "gold.jsonl").read_text().splitlines()]
    shown = json.loads((job / "root" / "tickets" / "report.json").read_text())["errors"]
    assert {row["input"] for row in shown} <= set(gold), "the report on this machine shows rows of the test"
    assert shown

    for name in ("datasets/org/tickets", "models/org/tickets-student"):
        for path, content in held(hub, name).items():
            assert not re.search(rb"(parcel|courier|late|money|back|pay|hello|thanks|app) 2[4-9]\d", content), path
    report = json.loads(held(hub, "models/org/tickets-student")["report.json"])
    assert report["errors"] == []
    assert report["contamination"]["tests"]["gold/gold"]["found"]["inside"] == 1
    assert report["notes"][-1] == "Rows of the tests are not shown here; who made this has them."
    assert b"Rows of the tests are not shown here" in held(hub, "models/org/tickets-student")["report.html"]


@pytest.mark.slow
def test_the_card_tells_languages_the_writer_and_what_was_set_by_hand(job, published):
    judge = "curate.judge={teacher: people, rubric: right}"
    overrides = ["curate.filters=[{kind: language, only: [nl, en]}]", "label.teacher=people", judge]
    run = Run(load_recipe(job / "recipe.yaml", overrides), LocalStorage(job / "root"), Reporter())
    manifests = {}
    for path in (job / "root" / "stages").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifests[manifest["stage"]] = manifest
    curated = Artifact(run.storage, "curate", manifests["curate"]["fingerprint"])
    manifests["generate"] = manifests["label"]
    assert run.recipe.publish is not None

    rows = {key: manifests[key] for key in ("generate", "label", "curate")}
    card = dataset_card(run, run.recipe.publish, rows, Contents.of(run, curated), "f00d")

    assert 'language:\n  - "en"\n  - "nl"\n' in card
    assert re.search(r"- Inputs written by: \S+@main\.", card)
    assert r"- Set on the command line: curate.filters = \[{" in card


@pytest.mark.slow
def test_a_run_that_has_published_asks_nothing_of_the_hub(job, published):
    hub, _ = published
    hub.asked.clear()

    said = understudy(job, hub.url, "run", str(job / "recipe.yaml"))

    assert said.returncode == 0
    assert hub.asked == []


@pytest.mark.slow
def test_publish_looks_whether_everything_is_there_and_sends_what_is_not(job, published):
    hub, _ = published
    before = {name: dict(held(hub, name)) for name in ("datasets/org/tickets", "models/org/tickets-student")}
    hub.asked.clear()

    unchanged = understudy(job, hub.url, "publish", str(job / "recipe.yaml"))
    assert unchanged.returncode == 0
    assert hub.writes() == []

    there = hub.repositories["models/org/tickets-student"]
    there.commit({".gitattributes": b"", "model-00001-of-00002.safetensors": b"of an older student"})
    mended = understudy(job, hub.url, "publish", str(job / "recipe.yaml"))

    assert mended.returncode == 0
    assert {name: held(hub, name) for name in before} == before


@pytest.mark.slow
def test_a_rehearsal_says_what_would_be_sent_and_sends_nothing(job, published):
    hub, _ = published
    hub.asked.clear()

    said = understudy(job, hub.url, "publish", str(job / "recipe.yaml"), "--dry-run")

    assert said.returncode == 0, said.stderr
    assert hub.asked == []
    assert re.search(r"dataset: to org/tickets, \d+ files, [\d,]+ bytes, private, under the tag \w{16}\n", said.stderr)
    assert re.search(r"  default/train-\d\d-\w{16}\.parquet \([\d,]+ bytes\)", said.stderr)
    assert "model: to org/tickets-student, " in said.stderr
    assert (job / "root" / "tickets" / "dataset-card.md").read_text().startswith("---\n")


@pytest.mark.slow
def test_a_student_that_did_not_pass_stays_here_and_the_rows_go(job, published):
    hub, _ = published

    said = understudy(
        job, hub.url, "publish", str(job / "recipe.yaml"), "--set", "evaluate.margin=0.01",
        "--set", "publish.dataset=org/other", "--set", "publish.model=org/other-student",
    )  # fmt: skip

    assert said.returncode in (4, 6), said.stderr
    assert "  model: not published: the verdict is " in said.stderr
    assert "datasets/org/other" in hub.repositories
    assert "models/org/other-student" not in hub.repositories


@pytest.mark.slow
def test_a_refused_token_ends_with_8_after_the_verdict_and_the_next_run_publishes(job, published):
    hub, _ = published
    arguments = ("run", str(job / "recipe.yaml"), "--set", "publish.dataset=org/late", "--set", "publish.model=null")

    refused = understudy(job, hub.url, *arguments, token=READS)
    assert refused.returncode == 8
    assert refused.stderr.strip().splitlines()[-1] == (
        "understudy: org/late: the hub refuses (403, no right to write); set HF_TOKEN to a token that may write there, "
        "and run again"
    )
    assert "PASS" in refused.stderr, "what was made is proved all the same"

    assert understudy(job, hub.url, *arguments).returncode == 0
    assert "README.md" in held(hub, "datasets/org/late")


@pytest.mark.slow
def test_killed_in_mid_upload_nothing_can_be_seen_and_the_next_run_completes_it(job, published):
    hub, _ = published
    hub.faults = [Fault("PUT", "/lfs/", 503, times=200, retry_after="1")]  # the client waits between its tries
    hub.objects.clear()
    arguments = ["publish", str(job / "recipe.yaml"), "--set", "publish.dataset=org/killed"]
    arguments += ["--set", "publish.model=null", "--root", str(job / "root")]
    command = [sys.executable, "-c", MAIN, *arguments]
    begun = subprocess.Popen(
        command, env=environment(job / "home", hub.url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while "datasets/org/killed" not in hub.repositories or not [m for m, _ in hub.asked if m == "PUT"]:
        assert begun.poll() is None
        time.sleep(0.05)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert set(held(hub, "datasets/org/killed")) == {".gitattributes"}

    hub.faults = []
    said = understudy(job, hub.url, *arguments[:-2])

    assert said.returncode == 0, said.stderr
    assert held(hub, "datasets/org/killed").keys() >= held(hub, "datasets/org/tickets").keys()


def refusal(job: Path, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_recipe(job / "recipe.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", ["../tickets", "org/../x", "tickets", "org/tick ets", "org/" + "x" * 97])
def test_a_name_that_is_no_repository_is_refused(job, name):
    assert (
        f"publish.dataset: '{name}' is neither a repository of a hub nor a URL; expected org/name of letters, digits, "
        "'-', '_' and '.', or s3://bucket/prefix"
    ) in refusal(job, f"publish.dataset='{name}'")


@pytest.mark.parametrize("licence", ["cc-by-nd-4.0", "CC BY-NC-ND 4.0", "no-training", "custom, no derivatives"])
def test_a_licence_that_forbids_learning_from_it_is_refused(job, licence):
    found = refusal(job, f"publish.sources={{old: '{licence}'}}")
    assert f"publish.sources.old: licence '{licence}' forbids works derived from it" in found


def test_what_else_cannot_be_published_is_refused(job):
    assert "publish.terms: is missing, and `license: other` says nothing; write which licence" in refusal(
        job, "publish.license=other"
    )
    assert "publish.license is missing; add it" in refusal(job, "publish={dataset: org/x}")
    assert "names neither `dataset` nor `model`, so there is nothing to publish; add one" in refusal(
        job, "publish={license: mit}"
    )
    written = json.loads((job / "recipe.yaml").read_text())
    del written["student"], written["evaluate"]
    (job / "rows.yaml").write_text(json.dumps(written))
    with pytest.raises(BadInput) as caught:
        load_recipe(job / "rows.yaml")
    assert str(caught.value).endswith(
        "publish: names a place for a student, and the recipe has none; add a `student:` section"
    )
