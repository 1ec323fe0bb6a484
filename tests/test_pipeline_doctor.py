"""What stands in a run's way is said before it starts, and what does not fit is refused before it is loaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from understudy.data.errors import BadInput
from understudy.data.storage import LocalStorage
from understudy.jobs.cli import cli
from understudy.pipeline.context import Run
from understudy.pipeline.doctor import doctor
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.train import refuse_what_does_not_fit
from understudy.students.memory import needed

from .test_students_hub import SMALL, by_bytes, family


@contextmanager
def listing(status: int, names: tuple[str, ...]) -> Iterator[str]:
    """An endpoint that says which models it has."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": name} for name in names]}).encode()
            self.send_response(status if self.path == "/v1/models" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def job(tmp_path) -> Path:
    recipe = {
        "name": "t",
        "task": {"kind": "classify", "instruction": "Which?", "labels": ["a", "b"], "unlabeled": "pool.jsonl"},
        "teachers": {"lead": {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}},
        "student": {"init": {"parameters": "0.5M"}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    rows = [{"input": "where is my parcel"}, {"input": "long " * 90}]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@contextmanager
def opened(job: Path, *overrides: str) -> Iterator[Run]:
    run = Run(load_recipe(job / "recipe.yaml", overrides), LocalStorage(job / "root"), Reporter(quiet=True))
    try:
        yield run
    finally:
        run.close()


def found(job: Path, *overrides: str) -> dict[str, tuple[str, str]]:
    with opened(job, *overrides) as run:
        return {finding.what: (finding.state, finding.said) for finding in doctor(run)}


def test_what_is_as_it_should_be_is_said_so(job):
    with listing(200, ("m", "n")) as url:
        seen = found(job, f"teachers.lead.base_url={url}")

    assert seen["inputs"] == ("ok", "files and templates are read, 2 unlabeled")
    assert seen["teacher lead"] == ("ok", f"{url} answers")
    assert seen["student student"][0] == "ok"
    assert seen["student student"][1].startswith("500,000 parameters take about 1.5 GB in training, and there are ")
    assert {state for state, _ in seen.values()} <= {"ok", "look"}


@pytest.mark.parametrize(
    ("status", "names", "expected"),
    [
        (401, (), ("fix", "refuses the key (401); set api_key_env")),
        (200, ("n",), ("look", "answers, and does not list 'm'; it lists n")),
        (404, (), ("ok", "answers")),
    ],
)
def test_an_endpoint_is_asked_which_models_it_has(job, status, names, expected):
    with listing(status, names) as url:
        seen = found(job, f"teachers.lead.base_url={url}")
    assert seen["teacher lead"] == (expected[0], f"{url} {expected[1]}")


def test_the_command_ends_with_2_where_something_has_to_be_mended(job, capsys):
    (job / "pool.jsonl").write_text("{")

    code = cli.main(["doctor", str(job / "recipe.yaml"), "--root", str(job / "root"), "--json"], standalone_mode=False)

    shown = capsys.readouterr()
    assert code == 2
    events = {event["what"]: event for event in map(json.loads, shown.out.splitlines())}
    assert events["inputs"]["state"] == events["teacher lead"]["state"] == "fix"
    assert "pool.jsonl:1: not valid JSON" in events["inputs"]["said"]
    assert "http://127.0.0.1:9/v1 does not answer (" in shown.err


def hub(job: Path, name: str, tokenizer, **changes) -> str:
    """Overrides for a student that begins as a folder, and a teacher that tells its tokens."""
    family("qwen3", tokenizer, **changes).save_pretrained(job / name)
    tokenizer.save_pretrained(job / name)
    return f"init={{kind: hub, model: {name}}}"


def test_tokens_and_lengths_of_a_model_are_told(job):
    same, other = by_bytes(), by_bytes()
    other.add_tokens(["<new>"])
    teacher = "teachers={lead: {kind: transformers, model: same}}"
    writes = "task={kind: generate, instruction: Answer., scorer: exact, unlabeled: pool.jsonl}"
    seen = found(job, hub(job, "same", same), teacher, writes)
    apart = found(job, hub(job, "other", other), teacher, writes)
    padded = found(job, hub(job, "padded", same, vocab_size=len(same) + 64), teacher, writes)
    labels = found(job, hub(job, "same", same), teacher)

    assert seen["student student, tokens"] == ("ok", "the teacher's tokens: methods sft, topk, on_policy, preference")
    state, said = padded["student student, tokens"]
    assert said == (
        "the teacher's tokens, and 64 rows of padding that nothing is read as: methods sft, topk, on_policy, preference"
    )
    state, said = labels["student student, tokens"]
    assert said == "the teacher's tokens: method sft, which learns the teacher's probabilities of labels"
    assert apart["student student, tokens"] == ("ok", "1 tokens are not the teacher's: methods sft, preference")
    state, said = seen["student student, lengths"]
    assert state == "look"
    assert said.startswith("1 of 2 inputs are longer than max_length = 256; the longest has ")


def test_a_model_that_cannot_be_loaded_is_a_finding_like_any_other(job, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    by_bytes().save_pretrained(job / "odd")
    (job / "odd/config.json").write_text('{"model_type": "no-such-type"}')
    (job / "odd/model.safetensors").write_bytes(b"never read")

    seen = found(job, "init={kind: hub, model: odd}")
    absent = found(job, "init={kind: hub, model: org/absent}")

    state, said = seen["student student"]
    assert (state, said.splitlines()) == ("fix", [said])
    assert said.startswith(f"init.model = odd: {job}/odd cannot be loaded: ")
    assert said.endswith("; save the model again")
    silent = ("fix", "init.model = org/absent: the hub does not answer for org/absent; run again when it does")
    assert absent["student student"] == absent["student student, lengths"] == silent


def test_a_package_that_is_missing_is_named_with_how_to_install_it(job, monkeypatch):
    from understudy.pipeline import doctor as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    hub(job, "same", by_bytes())
    seen = found(job, "curate.filters=[{kind: language, only: [en]}]", "init={kind: hub, model: same}", "train.lora={}")
    assert seen["extra lora"] == ("fix", "not installed; pip install 'understudy[lora]'")
    assert seen["extra language"] == ("fix", "not installed; pip install 'understudy[language]'")


def test_a_student_larger_than_memory_is_refused_before_any_of_it_is_loaded(job):
    folder = job / "huge"
    by_bytes().save_pretrained(folder)
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **SMALL, "vocab_size": 150_000}
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 16384, "num_hidden_layers": 90}))
    (folder / "model.safetensors").write_bytes(b"never read")

    with opened(job, "init={kind: hub, model: huge}") as run, pytest.raises(BadInput) as caught:
        refuse_what_does_not_fit(run, "student")

    assert str(caught.value).startswith("students.student: ")
    assert "GB in training, and there are " in str(caught.value)
    assert str(caught.value).endswith("; choose a smaller model, or a machine with more memory")


def test_experts_are_counted_before_any_is_made(job):
    dense = hub(job, "same", by_bytes())
    upcycled = [f"init={{kind: upcycle, model: same, experts: {experts}}}" for experts in (2, 4)]

    said = [found(job, init)["student student"][1] for init in (dense, *upcycled)]

    counts = [int(one.split()[0].replace(",", "")) for one in said]
    layers, hidden = SMALL["num_hidden_layers"], SMALL["hidden_size"]
    feed_forward = 3 * hidden * SMALL["intermediate_size"]
    for experts, count in zip((2, 4), counts[1:], strict=True):
        assert count == counts[0] + layers * ((experts - 1) * feed_forward + experts * hidden)


def test_what_cannot_be_given_experts_is_a_finding(job):
    tokenizer = by_bytes()
    family("llama", tokenizer).save_pretrained(job / "llama")
    tokenizer.save_pretrained(job / "llama")
    hub(job, "pickled", tokenizer)
    (job / "pickled/model.safetensors").rename(job / "pickled/pytorch_model.bin")

    other, pickled = (found(job, f"init={{kind: upcycle, model: {name}}}") for name in ("llama", "pickled"))

    assert other["student student"] == (
        "fix",
        "init.model = llama: is a 'llama' model, and experts are made from Qwen3 models; begin with one, or use init: "
        "{kind: hub}",
    )
    assert pickled["student student"] == (
        "fix",
        f"init.model = pickled: {job}/pickled holds only pickle weights (pytorch_model.bin), which can run code when "
        "loaded; convert them to safetensors",
    )


def test_adapters_are_sought_and_counted_before_a_weight_is_loaded(job):
    init = hub(job, "same", by_bytes())

    whole = found(job, init)["student student"][1]
    adapted = found(job, init, "train.lora={rank: 4}")["student student"]
    absent = found(job, init, "train.lora={targets: [qkv_proj]}")["student student"]

    hidden, tables = SMALL["hidden_size"], 3 * SMALL["hidden_size"]  # two labels and the end, in a table that is tied
    inside, neurons = SMALL["head_dim"] * SMALL["num_attention_heads"], SMALL["intermediate_size"]
    keys = inside // 2
    sides = 2 * (hidden + inside) + 2 * (hidden + keys) + 3 * (hidden + neurons)
    learning = 4 * SMALL["num_hidden_layers"] * sides + tables
    assert adapted[1].startswith(f"{whole.split()[0]} parameters, with {learning:,} beside them that learn, take about")
    assert absent == (
        "fix",
        "train.lora.targets: 'qkv_proj' is no linear layer of this 'qwen3' model; choose among v_proj, q_proj, k_proj, "
        "or all-linear",
    )


def test_what_is_needed_grows_by_sixteen_bytes_a_parameter_that_learns_and_four_of_another():
    assert needed(2_000_000) - needed(1_000_000) == 16_000_000
    assert needed(2_000_000, 50_000) - needed(1_000_000, 50_000) == 4_000_000
    assert needed(1_000_000, 60_000) - needed(1_000_000, 50_000) == 160_000
