"""Records of a training: what is in them, that they change nothing, and what ends a training early."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from understudy.data.errors import BadInput
from understudy.data.rows import Example, TopTokens
from understudy.students import watchers
from understudy.students.batches import IGNORED
from understudy.students.config import StudentRecipe
from understudy.students.crew import ALONE
from understudy.students.experts import chosen
from understudy.students.flops import operations
from understudy.students.health import Health, loads
from understudy.students.hub import Pretrained
from understudy.students.objectives import answer_loss
from understudy.students.records import FILE, alarms, live_line, read_records
from understudy.students.topk import topk_loss, watched_loss
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

from .test_students_hub import by_bytes, family
from .test_students_trainer import Killed, both, quiet, rows

SMALL = {"kind": "dense", "parameters": "0.3M", "vocabulary": 512}


def student(init: dict[str, Any] = SMALL, **train: Any) -> StudentRecipe:
    return StudentRecipe.model_validate({"init": init, "train": {"epochs": 4, "batch": 16, **train}})


def labelled() -> TrainingRows:
    return both(rows(96, soft=True), rows(20, start=96))


def written(count: int = 80) -> list[Example]:
    return [Example(f"p{n}", f"say {n % 5}", f"number {n % 5} it is", "r", "train", "x") for n in range(count)]


def text() -> TrainingRows:
    return TrainingRows(lambda: iter(written()), lambda: iter(written(5)))


def told() -> tuple[TrainingRows, Pretrained]:
    """A teacher that says `refund` at 0.7 and `parcel` at 0.2, and leaves out the rest."""
    theirs = by_bytes()
    yes, no = (theirs(word, add_special_tokens=False)["input_ids"][0] for word in ("refund", "parcel"))
    kept = TopTokens(
        np.array([yes], np.int32), np.array([yes, no], np.int32), np.log(np.array([0.7, 0.2])).astype(np.float16)
    )
    given = [
        Example(f"r{n}", f"number {n % 3}", "refund", f"r{n}", "train", "x", tokens=replace(kept)) for n in range(48)
    ]
    return TrainingRows(lambda: iter(given), lambda: iter(given[:6])), Pretrained(None, theirs, "teacher lead")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def without_speed(folder: Path) -> list[dict[str, Any]]:
    return [{**record, "tokens_per_second": 0} for record in read_records(folder / FILE)]


KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "labels": (SMALL, {"cross_entropy", "end_gap"}),
    "text": (SMALL, {"cross_entropy", "end_gap"}),
    "topk": ({"kind": "dense", "parameters": "0.5M", "tokenizer": "teacher"}, {"kl", "end_gap", "tail"}),
    "moe": (
        {"kind": "moe", "parameters": "0.5M", "experts": 4, "vocabulary": 512},
        {"cross_entropy", "end_gap", "experts", "dead_experts"},
    ),
    "encoder": ({"kind": "encoder", "parameters": "0.3M", "vocabulary": 512}, {"cross_entropy"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_record_has_what_the_student_learns_by(kind, tmp_path):
    init, parts = KINDS[kind]
    given, source = told() if kind == "topk" else (text() if kind == "text" else labelled(), None)
    methods = {"method": ["topk"], "epochs": 12, "noise": 0} if kind == "topk" else {}

    result = train_student(
        student(init, **methods), given, tmp_path / "s", 0, quiet, (lambda: source) if source else None
    )

    records = read_records(tmp_path / "s" / FILE)
    assert [record["step"] for record in records] == list(range(1, result["steps"] + 1)), "of so few, each"
    always = {"step", "epoch", "loss", "mfu", "learning_rate", "grad_norm", "agreement", "tokens_per_second"}
    assert all(record.keys() - {"validation_loss", "validation_agreement"} == always | parts for record in records)
    measured = [record["step"] for record in records if "validation_loss" in record]
    assert measured[-1] == result["steps"]
    assert 8 <= len(measured) <= 10
    first, last = records[0], records[-1]
    assert last["loss"] < first["loss"]
    assert last["agreement"] > 90
    assert last["validation_agreement"] == 100
    assert all(record["mfu"] is None for record in records), "it is for GPUs"
    assert all(record["tokens_per_second"] > 0 for record in records)
    if "end_gap" in parts:
        assert last["end_gap"] > first["end_gap"] + 0.05
    if kind == "topk":
        assert last["tail"] == pytest.approx(0.1, abs=1e-3)
        assert last["kl"] == last["loss"]
    if kind == "moe":
        assert last["loss"] == pytest.approx(last["cross_entropy"] + 0.01 * last["experts"], abs=0.02)
        assert last["dead_experts"] == 0


@pytest.mark.slow
def test_records_and_validation_change_no_weight(tmp_path, monkeypatch):
    given = labelled()
    train_student(student(), given, tmp_path / "often", 0, quiet)
    blind = TrainingRows(given.train, lambda: iter([]), given.labels)
    monkeypatch.setattr("understudy.students.sft.RECORDS", 1)
    train_student(student(), blind, tmp_path / "seldom", 0, quiet)

    assert len(read_records(tmp_path / "often" / FILE)) > 2 * len(read_records(tmp_path / "seldom" / FILE))
    assert weights(tmp_path / "often") == weights(tmp_path / "seldom")


@pytest.mark.slow
def test_a_resumed_training_neither_doubles_nor_misses_a_record(tmp_path):
    train_student(student(), labelled(), tmp_path / "whole", 0, quiet)

    def die(step: int, steps: int, detail: str) -> None:
        if step == 17:
            raise Killed

    with pytest.raises(Killed):
        train_student(student(), labelled(), tmp_path / "cut", 0, die)
    with (tmp_path / "cut" / FILE).open("a") as file:
        file.write('{"step": 17, "lo')  # the kill came in the middle of a line
    train_student(student(), labelled(), tmp_path / "cut", 0, quiet)

    assert without_speed(tmp_path / "cut") == without_speed(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def misled() -> TrainingRows:
    """What is learnt is wrong for the validation side, so that its loss soon rises."""
    wrong = [replace(row, output="refund" if row.output == "delivery" else "delivery") for row in rows(20, start=96)]
    return both(rows(96), wrong)


MOE = KINDS["moe"][0]


@pytest.mark.slow
@pytest.mark.parametrize("init", [SMALL, MOE], ids=["dense", "moe"])
def test_patience_ends_a_training_and_the_best_weights_stay(init, tmp_path):
    patient = student(init, patience=2, epochs=12)

    result = train_student(patient, misled(), tmp_path / "s", 0, quiet)

    records = read_records(tmp_path / "s" / FILE)
    losses = {record["step"]: record["validation_loss"] for record in records if "validation_loss" in record}
    assert result["planned"] == 72
    assert result["best"] == min(losses, key=losses.__getitem__)
    assert result["steps"] == result["best"] + 2 * 9 < 72
    assert records[-1]["step"] == result["steps"]
    kept = tmp_path / "s" / "work" / f"checkpoint-{result['best']}"
    assert weights(tmp_path / "s") == weights(kept)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["between", "when patience has run out"])
def test_a_killed_training_with_patience_ends_where_it_would_have(at, tmp_path):
    patient = student(MOE, patience=2, epochs=12)
    whole = train_student(patient, misled(), tmp_path / "whole", 0, quiet)
    script = f"""
import os, signal
from pathlib import Path
from understudy.students import sft, trainer
from tests.test_students_health import MOE, misled, student, train_student

def show(step, steps, detail):
    if {at == "between"} and step == {whole["steps"] - 3}:
        os.kill(os.getpid(), signal.SIGKILL)

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if not {at == "between"}:
    trainer.validate = killed
train_student(student(MOE, patience=2, epochs=12), misled(), Path({str(tmp_path / "cut")!r}), 0, show)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    (tmp_path / "cut").rename(tmp_path / "moved")
    seen: list[int] = []

    result = train_student(patient, misled(), tmp_path / "moved", 0, lambda step, *_: seen.append(step))

    assert seen[:1] == ([whole["steps"] - 8] if at == "between" else [])
    assert {name: result[name] for name in ("steps", "planned", "best")} == {
        name: whole[name] for name in ("steps", "planned", "best")
    }
    assert weights(tmp_path / "moved") == weights(tmp_path / "whole")
    assert without_speed(tmp_path / "moved") == without_speed(tmp_path / "whole")


@pytest.mark.slow
def test_adapters_are_those_of_the_best_checkpoint(tmp_path):
    tokenizer = by_bytes()
    patient = student(
        {"kind": "hub", "model": "m"}, lora={"rank": 4}, patience=1, epochs=16, learning_rate=0.03, max_length=64
    )
    odd = TrainingRows(lambda: iter(written(32)), lambda: iter([replace(written(1)[0], output="zzz zzz")]))

    result = train_student(
        patient, odd, tmp_path / "s", 0, quiet, lambda: Pretrained(family("qwen3", tokenizer), tokenizer, "m")
    )

    records = read_records(tmp_path / "s" / FILE)
    losses = {record["step"]: record["validation_loss"] for record in records if "validation_loss" in record}
    assert result["best"] == min(losses, key=losses.__getitem__) < result["steps"] < result["planned"]
    assert result["validation_loss"] == pytest.approx(losses[result["best"]], rel=1e-3)


def test_patience_without_a_validation_side_is_refused(tmp_path):
    blind = TrainingRows(lambda: iter(rows(16)), lambda: iter([]), ("delivery", "refund"))

    with pytest.raises(BadInput) as refused:
        train_student(student(patience=3), blind, tmp_path / "s", 0, quiet)

    assert str(refused.value) == (
        "train.patience = 3: there are no rows for validation to tell when to end; raise split.validation, or remove it"
    )


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    wild = student({"kind": "hub", "model": "m"}, learning_rate=1e30, max_length=64)
    tokenizer = by_bytes()

    with pytest.raises(BadInput) as refused:
        train_student(
            wild, text(), tmp_path / "s", 0, quiet, lambda: Pretrained(family("qwen3", tokenizer), tokenizer, "m")
        )

    assert str(refused.value).startswith("train.learning_rate = 1e+30: the loss is nan at step ")
    assert str(refused.value).endswith(" of 20; lower it")
    assert all(math.isfinite(record["loss"]) for record in read_records(tmp_path / "s" / FILE))


@pytest.mark.slow
def test_tensorboard_has_every_record_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watched = student(report_to=["tensorboard"])

    def die(step: int, steps: int, detail: str) -> None:
        if step == 17:
            raise Killed

    with pytest.raises(Killed):
        train_student(watched, labelled(), tmp_path / "s", 0, die)
    train_student(watched, labelled(), tmp_path / "s", 0, quiet)

    read = EventAccumulator(str(tmp_path / "s" / "tensorboard"))
    read.Reload()
    records = read_records(tmp_path / "s" / FILE)
    for tag, name in (("train/loss", "loss"), ("train/end_gap", "end_gap"), ("eval/loss", "validation_loss")):
        seen = [(event.step, event.value) for event in read.Scalars(tag)]
        assert seen == [(each["step"], pytest.approx(each[name], abs=1e-5)) for each in records if name in each]


def test_a_package_that_is_missing_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(watchers, "find_spec", lambda name: None)

    with pytest.raises(BadInput) as refused:
        train_student(student(report_to=["wandb"]), labelled(), tmp_path / "s", 0, quiet)

    assert str(refused.value) == "train.report_to: wandb is not installed; `pip install wandb`, or remove it"
    assert not (tmp_path / "s").exists()


def test_nobody_else_is_reported_to():
    with pytest.raises(ValidationError) as refused:
        student(report_to=["mlflow"])

    assert "'tensorboard', 'wandb' or 'trackio'" in str(refused.value)


def test_the_live_line_says_what_matters():
    record = {"loss": 0.4123, "agreement": 87.1, "tokens_per_second": 31_234.0, "mfu": None}

    assert live_line(record) == "loss 0.412, agrees 87.1, 31k tokens/s"
    assert live_line({**record, "mfu": 0.41, "tokens_per_second": 950.0, "dead_experts": 0.25, "tail": 0.117}) == (
        "loss 0.412, agrees 87.1, 950 tokens/s, 41% MFU, 25% of experts idle, tail 12%"
    )


def test_what_is_shown_while_it_goes_on_is_the_last_record(tmp_path):
    shown: list[str] = []

    train_student(student(epochs=1), labelled(), tmp_path / "s", 0, lambda step, steps, detail: shown.append(detail))

    assert shown[0] == "", "there is no record yet"
    assert shown[1:] == [live_line(record) for record in read_records(tmp_path / "s" / FILE)[:-1]]


def course(**last: float) -> list[dict[str, float]]:
    """Twenty records of a sound training, of which the last two are otherwise."""
    sound = {"loss": 1.0, "end_gap": 0.9, "dead_experts": 0.0, "tail": 0.1}
    return [sound] * 18 + [{**sound, **last}] * 2


def test_a_sound_training_raises_no_alarm():
    assert alarms(course()) == []
    assert alarms([{"loss": 1.0}]) == []
    assert alarms([]) == []


def test_what_is_worrying_in_the_records_is_said_in_a_line():
    assert alarms(course(dead_experts=0.75)) == [
        "75% of the experts are dead: no token chooses them; lower init.experts, or learning_rate"
    ]
    assert alarms(course(end_gap=0.3)) == [
        "the student does not know where answers end: its probability of the end is 0.30 higher there than where they "
        "go on, and was 0.90 at best; lower learning_rate, or train for more epochs"
    ]
    assert alarms(course(tail=0.42)) == [
        "the teacher's stored tokens leave out 42% of its probability, and of that nothing is learnt but how much it "
        "is; raise label.logprobs"
    ]


def test_what_is_seen_of_an_answer_is_what_its_logits_say():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 9)
    targets = torch.tensor([[IGNORED, 5, 3, 1], [7, 2, 8, 1], [IGNORED, IGNORED, 4, 1]])
    logits[0, 1, 5] = logits[1, 2, 8] = 9.0

    seen = answer_loss(logits, targets, None, torch.tensor([]))

    probs, goes_on = logits.softmax(-1), (targets != IGNORED) & (targets != 1)
    assert seen["agreed"].tolist() == [(logits.argmax(-1) == targets)[goes_on].sum(), 6]
    assert seen["ended"].tolist() == pytest.approx(
        [probs[:, 3, 1].sum().item(), 3, probs[..., 1][goes_on].sum().item(), 6], rel=1e-5
    )


def test_what_is_seen_beside_the_top_k_loss_is_what_the_logits_say(monkeypatch):
    monkeypatch.setattr("understudy.students.topk._chunk", lambda _: 7)
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 16, dtype=torch.float64), torch.randn(31, 16, dtype=torch.float64)
    logits = hidden @ weight.T
    logps, ids = (logits + torch.randn_like(logits)).log_softmax(-1).topk(5)
    end = ids[3, 2]  # stored at some positions, not at others

    loss, seen = watched_loss(hidden.requires_grad_(), weight, ids, logps, end)

    assert loss.item() == topk_loss(hidden, weight, ids, logps).item()
    assert seen[:, 0].tolist() == (logits.argmax(-1) == ids[:, 0]).tolist()
    assert torch.allclose(seen[:, 1].double(), logits.softmax(-1)[:, end], atol=1e-6)
    assert torch.allclose(seen[:, 2].double(), 1 - logps.exp().sum(-1), atol=1e-6)
    assert not seen.requires_grad


def test_an_expert_is_dead_if_no_token_chose_it():
    routed = [torch.tensor([[9.0, 1, 0], [9, 1, 0], [0, 1, 9], [9, 1, 0]])]
    mask = torch.tensor([[1, 1], [0, 1]])  # who chose the last expert is padding
    counts = chosen(routed, mask, 1)
    health = Health(torch.nn.Linear(1, 1), bf16=False, crew=ALONE)

    told = {"loads": loads({"attention_mask": mask, "targets": mask}), "loss": torch.ones(()), "chosen": counts}
    health.add(told, training=True)

    assert counts.tolist() == [[3, 0, 0]]
    assert health.read(training=True)["dead_experts"] == pytest.approx(2 / 3)
    assert health.read(training=True) == {}, "what was read is gone"


def test_operations_are_six_a_parameter_and_token_with_the_head_on_answers():
    model = family("qwen3", by_bytes())
    head = model.get_output_embeddings().weight.numel()
    tables = head if model.config.tie_word_embeddings else 2 * head
    attention = model.config.num_hidden_layers * model.config.hidden_size

    found = operations(model, 1000, 30_000, 200)

    body = model.num_parameters() - tables
    assert found == 6 * (body * 1000 + head * 200 + attention * 30_000)
    model.requires_grad_(False)
    assert operations(model, 1000, 0, 0) == 4 * body * 1000


def test_a_line_that_was_cut_short_is_no_record(tmp_path):
    file = tmp_path / FILE
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')

    assert [record["step"] for record in read_records(file)] == [1, 2]
    assert read_records(tmp_path / "none") == []
    assert json.loads(file.read_text().splitlines()[0]) == {"step": 1}
