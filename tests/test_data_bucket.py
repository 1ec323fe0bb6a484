"""A folder under a URL: finished when its manifest is there, on a disk and in an S3 server on loopback."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from understudy.data.bucket import Bucket
from understudy.data.errors import PublishFailed


def named(folder: str, content: bytes) -> str:
    return f"{folder}/train-00-{hashlib.sha256(content).hexdigest()[:16]}.parquet"


FILES = {named("default", b"rows"): b"rows", named("logprobs", b"more"): b"more", "README.md": b"# one\n"}


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_state_has_a_folder_of_its_own_with_a_manifest_of_every_file(tmp_path):
    done = Bucket(f"file://{tmp_path}/out").publish(FILES, "f00d", "tickets f00d")

    there = read(tmp_path / "out")
    manifest = json.loads(there["f00d/manifest.json"])
    assert {path: there[f"f00d/{path}"] for path in FILES} == FILES
    assert manifest["files"]["README.md"] == {"bytes": 6, "sha256": hashlib.sha256(b"# one\n").hexdigest()}
    assert manifest["files"].keys() == FILES.keys()
    assert json.loads(there["latest.json"]) == {"folder": "f00d"}
    assert (done.sent, done.kept, done.where) == (3, 0, f"file://{tmp_path}/out/f00d")
    assert len(there) == len(FILES) + 2, "nothing half-written is left beside them"


def test_published_again_nothing_is_sent(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    bucket.publish(FILES, "f00d", "n")

    assert bucket.publish(FILES, "f00d", "n").sent == 0


def test_what_an_interrupted_publication_sent_is_not_sent_again(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    bucket.publish(FILES, "f00d", "n")
    (tmp_path / "out" / "f00d" / "manifest.json").unlink()
    (tmp_path / "out" / "f00d" / named("logprobs", b"more")).write_bytes(b"mo")  # cut short

    done = bucket.publish(FILES, "f00d", "n")

    assert done.sent == 2, "the one that was cut short, and the card, whose name does not tell its content"
    assert read(tmp_path / "out")[f"f00d/{named('logprobs', b'more')}"] == b"more"


def test_the_next_state_leaves_the_one_before_as_it_was(tmp_path):
    bucket = Bucket(f"file://{tmp_path}/out")
    bucket.publish(FILES, "f00d", "n")
    before = {path: content for path, content in read(tmp_path / "out").items() if path.startswith("f00d/")}

    bucket.publish({**FILES, "README.md": b"# two\n"}, "beef", "n")

    after = read(tmp_path / "out")
    assert {path: content for path, content in after.items() if path.startswith("f00d/")} == before
    assert json.loads(after["latest.json"]) == {"folder": "beef"}


def refusal(url: str) -> str:
    with pytest.raises(PublishFailed) as caught:
        Bucket(url).publish(FILES, "f00d", "n")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_reached_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")

    assert refusal("nosuch://a/b") == "nosuch://a/b: Protocol not known: nosuch; check the address"
    assert refusal(f"file://{tmp_path}/file/out").startswith(f"file://{tmp_path}/file/out: cannot be written: ")


@pytest.fixture(scope="module")
def s3():
    """An S3 server with one bucket; yields a client."""
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        yield client
        client.close()
    running.stop()


@pytest.mark.filterwarnings("ignore")
def test_in_s3_it_is_the_same(s3):
    done = Bucket("s3://shop/tickets").publish(FILES, "f00d", "n")
    again = Bucket("s3://shop/tickets").publish(FILES, "f00d", "n")

    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket="shop")["Contents"]}
    assert keys == {f"tickets/f00d/{path}" for path in [*FILES, "manifest.json"]} | {"tickets/latest.json"}
    assert (done.sent, again.sent) == (3, 0)
    body = s3.get_object(Bucket="shop", Key=f"tickets/f00d/{named('default', b'rows')}")["Body"].read()
    assert body == b"rows"


@pytest.mark.filterwarnings("ignore")
def test_a_bucket_that_does_not_exist_is_one_line(s3):
    assert refusal("s3://nobody/x") == (
        "s3://nobody/x: cannot be written: The specified bucket does not exist; mend that, and run again"
    )
