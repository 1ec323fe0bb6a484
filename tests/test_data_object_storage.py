"""A root in an object store: the real client against an S3 server on loopback, and two machines that share no disk."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from understudy.data.artifact import Artifact
from understudy.data.errors import BadInput, Locked
from understudy.data.ledger import Ledger, Record
from understudy.data.lock import Lock
from understudy.data.object_storage import ObjectStorage
from understudy.data.storage import open_storage
from understudy.pipeline.context import Run
from understudy.pipeline.export import export
from understudy.pipeline.garbage import leftovers
from understudy.pipeline.progress import Reporter
from understudy.pipeline.proof import publish_report
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.use import answers

from .s3 import BUCKET, Store, a_store


@pytest.fixture
def store(monkeypatch) -> Iterator[Store]:
    import boto3

    with a_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield store


@pytest.fixture
def here(store, tmp_path) -> ObjectStorage:
    return ObjectStorage(f"s3://{BUCKET}/{tmp_path.name}", tmp_path / "here")


@pytest.fixture
def there(here, tmp_path) -> ObjectStorage:
    """The same root, from a machine with a disk of its own."""
    return ObjectStorage(here.url, tmp_path / "there")


def record(number: int) -> Record:
    return Record(f"{number:032x}", 0, {"answer": {"text": f"answer {number}"}, "run": "r"})


async def append(ledger: Ledger, numbers: range, pause: float = 0.0) -> None:
    await asyncio.gather(*(ledger.append(record(number)) for number in numbers))
    await asyncio.sleep(pause)


def test_objects_are_created_replaced_swapped_and_dropped(here, there):
    assert here.create("a/b", b"one")
    assert not there.create("a/b", b"two")
    assert there.read("a/b") == b"one"
    assert there.read("a/b", 1, 1) == b"n"
    assert not there.swap("a/b", b"other", b"two")
    assert there.swap("a/b", b"one", b"two")
    assert not here.swap("a/b", b"one", b"three"), "what it held before it holds no more"
    here.replace("a/c", b"12345")
    assert list(there.list("a")) == [("a/b", 3), ("a/c", 5)]
    assert there.read("a/b", 1, 1) == b"w", "the copy of what it was is not read again"
    assert not here.drop("a/b", b"one")
    assert here.drop("a/b", b"two")
    assert there.read("a/b") == b"", "nobody's"
    here.delete("a")
    assert list(there.list("")) == []
    with pytest.raises(FileNotFoundError):
        there.read("a/c")


def test_a_folder_is_sent_before_its_manifest_and_fetched_by_others(here, there):
    made = Artifact(here, "train", "0" * 16)
    (made.folder / "seed-0").mkdir(parents=True)
    (made.folder / "seed-0" / "model.safetensors").write_bytes(b"weights")
    (made.folder / ".unfinished").write_bytes(b"half")

    assert list(there.list("stages")) == [], "nothing is there before it is finished"
    made.finish({"stage": "train"})

    fetched = Artifact(there, "train", "0" * 16)
    assert fetched.manifest() == {"stage": "train"}
    assert (fetched.folder / "seed-0" / "model.safetensors").read_bytes() == b"weights"
    assert [path.rpartition("/")[2] for path, _ in there.list("stages")] == ["manifest.json", "model.safetensors"]
    assert there.folders("stages") == [fetched.path]


def test_a_folder_that_only_this_machine_has_is_measured_as_it_lies_here(here, there):
    folder = here.local("stages/train-1")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    there.replace("stages/label-1/manifest.json", b"{}")

    size, written = here.measure("stages/train-1")

    assert (size, here.measure("stages/label-1")[0]) == (7, 2)
    assert time.time() - written < 60


def test_what_was_made_again_elsewhere_is_fetched_again(here, there):
    folder = here.local("stages/train-1")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"first ")
    here.keep("stages/train-1")
    assert (there.fetch("stages/train-1") / "model.safetensors").read_bytes() == b"first "

    (folder / "model.safetensors").write_bytes(b"second")
    here.keep("stages/train-1")

    assert (there.fetch("stages/train-1") / "model.safetensors").read_bytes() == b"second"


def test_answers_written_by_one_are_found_by_the_other(here, there):
    ours = Ledger(here)
    asyncio.run(append(ours, range(600)))
    assert ours.find(record(599).key) is not None, "handed in is known here at once"
    ours.flush()

    theirs = Ledger(there)
    assert len(theirs) == 600
    assert theirs.find(record(17).key) == record(17)
    assert [found.key for found in theirs.records()] == [record(number).key for number in range(600)]
    ours.close()
    theirs.close()


def test_a_kill_loses_less_than_a_group_of_answers(here, there):
    """256 answers are sent at once, and fewer after a second; nobody waits for either."""
    killed = Ledger(here)

    started = time.monotonic()
    asyncio.run(append(killed, range(300), pause=0.7))  # then it is never closed
    in_flight = time.monotonic() - started
    asyncio.run(append(killed, range(300, 310), pause=1.6))

    survivor = Ledger(there)
    assert in_flight < 5, "256 of them took no second each"
    assert len(survivor) >= 256
    assert survivor.find(record(305).key) is not None, "a second later all are there"
    survivor.close()
    killed.close()


def test_of_two_schedulers_that_race_fifty_times_one_has_the_lock(here, there):
    inside, most, held = 0, 0, 0
    turn = threading.Lock()

    def race(storage: ObjectStorage) -> None:
        nonlocal inside, most, held
        for _ in range(50):
            try:
                with Lock(storage, "job/lock.json"):
                    with turn:
                        inside, held = inside + 1, held + 1
                        most = max(most, inside)
                    time.sleep(0.002)
                    with turn:
                        inside -= 1
            except Locked:
                continue

    threads = [threading.Thread(target=race, args=(storage,)) for storage in (here, there)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1
    assert held >= 50, "and whoever is alone gets it"


@pytest.fixture
def job(tmp_path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    rows = [{"input": f"where is parcel {n}" if n % 2 else f"give me money back {n}"} for n in range(120)]
    said = [{"input": row["input"], "output": "delivery" if "parcel" in row["input"] else "refund"} for row in rows]
    for name, some in (("pool", rows), ("answers", said), ("gold", said[:40])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    recipe = {
        "name": "shop",
        "task": {
            "kind": "classify",
            "instruction": "Which?",
            "labels": ["delivery", "refund"],
            "unlabeled": "pool.jsonl",
        },
        "teachers": {"lead": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "student": {"init": {"parameters": "0.3M"}, "train": {"epochs": 1}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def opened(job: Path, storage: ObjectStorage) -> Run:
    return Run(load_recipe(job / "recipe.yaml"), storage, Reporter(quiet=True))


@pytest.mark.slow
def test_a_run_begun_on_one_machine_is_finished_and_used_on_another(job, here, there):
    torch.set_num_threads(1)
    first = opened(job, here)
    labelled = run_stages(first, "curate")["label"]
    first.close()
    second = opened(job, there)

    assert run_stages(second, "train")["label"] == labelled, "as the first machine left it"
    third = opened(job, ObjectStorage(here.url, job.parent / "third"))
    said = list(answers(third, None, ["where is parcel 3"]))
    assert said[0][1] in ("delivery", "refund")
    publish_report(third, run_stages(third))
    fourth = opened(job, ObjectStorage(here.url, job.parent / "fourth"))
    handed_on = {file.name for file in export(fourth, "safetensors", job.parent / "out").files}
    assert {"model.safetensors", "card.md", "export.json"} <= handed_on
    assert artifacts(third)["train:student"][1].manifest() is not None
    assert leftovers(third.storage) == []
    for run in (second, third, fourth):
        run.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://nobody/root", "s3://nobody/root: there is no such bucket; create it, or correct --root"),
        ("nowhere://b/root", "nowhere://b/root: is no root: "),
    ],
)
def test_a_bucket_that_is_not_there_is_refused_in_one_line(store, url, said, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path))

    with pytest.raises(BadInput) as caught:
        open_storage(url)

    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1
