"""A folder under a URL: finished when its manifest is there, on a disk and in an S3 server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.data.bucket import Bucket
from understudy.data.errors import PublishFailed

from .s3 import a_store


def named(folder: str, content: bytes) -> str:
    return f"{folder}/train-00-{hashlib.sha256(content).hexdigest()[:16]}.parquet"


FILES = {named("default", b"rows"): b"rows", named("logprobs", b"more"): b"more", "README.md": b"# one\n"}
NEXT = {named("default", b"rows"): b"rows", named("default", b"new"): b"new", "README.md": b"# two\n"}


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_state_has_a_folder_of_its_own_with_a_manifest_of_every_file(tmp_path):
    done = Bucket(f"file://{tmp_path}/out").publish(FILES, "f00d", "tickets f00d")

    there = read(tmp_path / "out")
    state = done.revision
    manifest = json.loads(there[f"{state}/manifest.json"])
    assert state.startswith("f00d-")
    assert {path: there[f"{state}/{path}"] for path in FILES} == FILES
    assert manifest["files"]["README.md"] == {"bytes": 6, "sha256": hashlib.sha256(b"# one\n").hexdigest()}
    assert manifest["files"].keys() == FILES.keys()
    assert json.loads(there["latest.json"]) == {"folder": state}
    assert (done.sent, done.kept, done.where) == (3, 0, f"file://{tmp_path}/out/{state}")
    assert len(there) == len(FILES) + 2, "nothing half-written is left beside them"


def test_published_again_nothing_is_sent(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    bucket.publish(FILES, "f00d", "n")

    assert bucket.publish(FILES, "f00d", "n").sent == 0


def test_what_an_interrupted_publication_sent_is_not_sent_again(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    state = tmp_path / "out" / bucket.publish(FILES, "f00d", "n").revision
    (state / "manifest.json").unlink()
    (tmp_path / "out" / "latest.json").unlink()
    (state / named("logprobs", b"more")).write_bytes(b"mo")  # cut short

    done = bucket.publish(FILES, "f00d", "n")

    assert done.sent == 1
    assert (state / named("logprobs", b"more")).read_bytes() == b"more"


def test_the_next_state_leaves_the_one_before_as_it_was_and_sends_what_that_has_not(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    first = bucket.publish(FILES, "f00d", "n").revision
    before = read(tmp_path / "out" / first)

    done = bucket.publish(NEXT, "beef", "n")

    assert read(tmp_path / "out" / first) == before
    assert NEXT.items() <= read(tmp_path / "out" / done.revision).items()
    assert json.loads((tmp_path / "out" / "latest.json").read_text()) == {"folder": done.revision}
    assert (done.sent, done.kept) == (2, 1)


def test_a_card_made_anew_is_another_state_of_the_same_tag(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    first = bucket.publish(FILES, "f00d", "n").revision

    second = bucket.publish({**FILES, "README.md": b"# says more\n"}, "f00d", "n").revision

    assert first != second
    assert (tmp_path / "out" / first / "README.md").read_bytes() == b"# one\n"


def test_a_file_that_is_gone_from_the_state_before_is_sent(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    first = bucket.publish(FILES, "f00d", "n").revision
    (tmp_path / "out" / first / named("default", b"rows")).unlink()

    done = bucket.publish(NEXT, "beef", "n")

    assert done.sent == 3
    assert NEXT.items() <= read(tmp_path / "out" / done.revision).items()


def test_files_of_a_disk_are_sent_from_there(tmp_path):
    (tmp_path / "weights").write_bytes(b"many")

    done = Bucket("memory://out").publish({"model.safetensors": tmp_path / "weights"}, "f00d", "n")

    assert done.sent == 1


def refusal(url: str) -> str:
    with pytest.raises(PublishFailed) as caught:
        Bucket(url).publish(FILES, "f00d", "n")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_reached_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")

    assert refusal("nosuch://a/b") == "nosuch://a/b: Protocol not known: nosuch; check the address"
    assert refusal(f"file://{tmp_path}/file/out").startswith(f"file://{tmp_path}/file/out: cannot be written: ")


@pytest.fixture
def s3(monkeypatch):
    """A server with an empty bucket, and a client of it."""
    boto3, _, s3fs = (pytest.importorskip(name) for name in ("boto3", "moto.server", "s3fs"))
    s3fs.S3FileSystem.clear_instance_cache()
    with a_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        yield store, client
        for entry in client.list_objects_v2(Bucket="shop").get("Contents", ()):
            client.delete_object(Bucket="shop", Key=entry["Key"])
        client.delete_bucket(Bucket="shop")
        client.close()


def held(client) -> dict[str, bytes]:
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="shop").get("Contents", ())]
    return {key: client.get_object(Bucket="shop", Key=key)["Body"].read() for key in keys}


def whole(there: dict[str, bytes]) -> list[str]:
    """States that have a manifest, each held against it."""
    states = [key.removesuffix("/manifest.json") for key in there if key.endswith("/manifest.json")]
    for state in states:
        for path, facts in json.loads(there[f"{state}/manifest.json"])["files"].items():
            assert hashlib.sha256(there[f"{state}/{path}"]).hexdigest() == facts["sha256"]
    return states


@pytest.mark.filterwarnings("ignore")
def test_in_s3_it_is_the_same_and_what_is_there_is_copied_there(s3):
    store, client = s3
    done = Bucket("s3://shop/tickets").publish(FILES, "f00d", "n")
    store.put.clear()
    again = Bucket("s3://shop/tickets").publish(FILES, "f00d", "n")
    assert store.put == []
    later = Bucket("s3://shop/tickets").publish(NEXT, "beef", "n")

    there = held(client)
    assert (done.sent, again.sent, later.sent) == (3, 0, 2)
    assert whole(there) == sorted(f"tickets/{one.revision}" for one in (done, later))
    assert json.loads(there["tickets/latest.json"]) == {"folder": later.revision}
    assert store.copied == [f"tickets/{later.revision}/{named('default', b'rows')}"]
    assert sorted(store.put) == sorted(
        ["tickets/latest.json"]
        + [f"tickets/{later.revision}/{path}" for path in (named("default", b"new"), "README.md", "manifest.json")]
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", [500, 1])
def test_a_store_that_fails_a_few_times_is_asked_again(s3, fault):
    store, client = s3
    store.faults = lambda path: fault if path.endswith("README.md") and store.put.count(path) < 3 else 0

    done = Bucket("s3://shop/tickets").publish(FILES, "f00d", "n")

    assert whole(held(client)) == [f"tickets/{done.revision}"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("end", ["README.md", "manifest.json", "latest.json"])
def test_a_store_that_refuses_leaves_the_state_before_and_the_next_run_completes_it(s3, end):
    store, client = s3
    bucket = Bucket("s3://shop/tickets")
    first = bucket.publish(FILES, "f00d", "n").revision
    store.faults = lambda path: 403 if path.endswith(end) else 0

    with pytest.raises(PublishFailed) as caught:
        bucket.publish(NEXT, "beef", "n")

    assert str(caught.value).startswith("s3://shop/tickets: cannot be written: ")
    assert "\n" not in str(caught.value)
    assert json.loads(held(client)["tickets/latest.json"]) == {"folder": first}
    assert f"tickets/{first}" in whole(held(client))
    store.faults = lambda path: 0
    store.put.clear()
    later = bucket.publish(NEXT, "beef", "n").revision
    assert json.loads(held(client)["tickets/latest.json"]) == {"folder": later}
    assert len(whole(held(client))) == 2
    assert f"tickets/{later}/{named('default', b'new')}" not in store.put, "what arrived is not sent twice"


PUBLISH = """
from tests.test_data_bucket import NEXT
from understudy.data.bucket import Bucket
Bucket("s3://shop/tickets").publish(NEXT, "beef", "n")
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("end", ["README.md", "manifest.json", "latest.json"])
def test_killed_at_any_file_a_reader_sees_the_state_before(s3, end):
    store, client = s3
    first = Bucket("s3://shop/tickets").publish(FILES, "f00d", "n").revision
    store.put.clear()
    store.faults = lambda path: 2 if path.endswith(end) else 0
    begun = subprocess.Popen([sys.executable, "-c", PUBLISH], env=os.environ | store.environment)
    while not any(path.endswith(end) for path in store.put):
        assert begun.poll() is None
        time.sleep(0.02)
    begun.send_signal(signal.SIGKILL)
    begun.wait()

    assert json.loads(held(client)["tickets/latest.json"]) == {"folder": first}
    assert f"tickets/{first}" in whole(held(client))
    store.faults = lambda path: 0
    later = Bucket("s3://shop/tickets").publish(NEXT, "beef", "n").revision
    assert json.loads(held(client)["tickets/latest.json"]) == {"folder": later}
    assert f"tickets/{later}" in whole(held(client))


@pytest.mark.filterwarnings("ignore")
def test_a_bucket_that_does_not_exist_is_one_line(s3):
    assert refusal("s3://nobody/x") == (
        "s3://nobody/x: cannot be written: The specified bucket does not exist; mend that, and run again"
    )
