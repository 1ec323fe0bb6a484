"""What Prometheus is told of a run: in a file as stages end, and on a port while it goes on."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from understudy.data.errors import BadInput
from understudy.jobs.cli import cli

from .endpoint import Endpoint, Reply, error, says

parser = pytest.importorskip("prometheus_client.parser", reason="pip install 'understudy[metrics]'")
TEXTS = [f"message number {n} about order {n * 7919}" for n in range(30)]


def write_job(folder: Path, base_url: str) -> None:
    (folder / "pool.jsonl").write_text("".join(json.dumps({"input": text}) + "\n" for text in TEXTS))
    price = {"input": 1000, "output": 0}
    lead = {"kind": "openai", "model": "m", "base_url": base_url, "tries": 1, "price": price}
    task = {"kind": "classify", "instruction": "Which?", "labels": ["a", "b"], "unlabeled": "pool.jsonl"}
    recipe = {"name": "t", "task": task, "teachers": {"lead": lead}, "max_failed": 0.5}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))


def reply(body: dict) -> Reply:
    return error(400, "flagged") if TEXTS[3] in body["messages"][-1]["content"] else says("a")


def run(*words: str) -> int:
    code: int = cli.main(["run", "recipe.yaml", *words], standalone_mode=False)
    return code


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels in their order, the recipe's left out."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels) if name != "recipe")): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["recipe"] == "t"
    }


def test_a_file_tells_rows_requests_tokens_dollars_and_failures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Endpoint(then=reply) as endpoint:
        write_job(tmp_path, endpoint.base_url)
        assert run("--metrics", "run.prom") == 0
        found = samples((tmp_path / "run.prom").read_text())

    assert found["understudy_requests_total",] == 30
    assert found["understudy_tokens_total", "input"] == 29 * 7
    assert found["understudy_usd_total",] == pytest.approx(29 * 7 * 0.001)
    assert found["understudy_rows", "", "label", "accepted"] == 29
    assert found["understudy_rows", "refused", "label", "failed"] == 1
    assert found["understudy_failures_total", "refused"] >= 1
    assert found["understudy_stage_seconds", "label"] > 0


def test_a_port_is_served_while_the_run_goes_on_and_then_given_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = f"http://127.0.0.1:{port}/metrics"
    seen: list[str] = []

    def look() -> None:
        seen.append(urllib.request.urlopen(page, timeout=10).read().decode())

    def replies(body: dict) -> Reply:
        if not seen:
            asking = threading.Thread(target=look)
            asking.start()
            asking.join()
        return reply(body)

    with Endpoint(then=replies) as endpoint:
        write_job(tmp_path, endpoint.base_url)
        assert run("--metrics", str(port)) == 0
    assert samples(seen[0])["understudy_requests_total",] >= 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(page, timeout=10)


@pytest.mark.parametrize("place", ["run.txt", "-1", "nowhere/run.prom", "99999"])
def test_a_place_that_cannot_be_had_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path, "http://127.0.0.1:1/v1")
    with pytest.raises(BadInput) as caught:
        run("--metrics", place)
    assert str(caught.value).startswith(f"--metrics {place}: ")
    assert "\n" not in str(caught.value)
