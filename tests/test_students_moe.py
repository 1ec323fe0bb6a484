"""Students with experts, and the dense one that each is held against."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from pydantic import ValidationError

from understudy.data.errors import BadInput
from understudy.data.rows import Example, Message, Prompt, TopTokens
from understudy.data.teacher import Sampling
from understudy.students.batches import Clock, Collator, render
from understudy.students.build import build_dense, build_moe, shape_of, vocabulary_for
from understudy.students.config import Moe, StudentRecipe, Twin, count
from understudy.students.experts import unevenness
from understudy.students.hub import Pretrained
from understudy.students.objectives import SayLabel, SayLikeliest, forward_is
from understudy.students.shortcut import last_states
from understudy.students.tokenizer import label_tokens, train_tokenizer
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows
from understudy.teachers.local import LocalModel

from .test_students_hub import by_bytes
from .test_students_trainer import LABELS, Killed, both, quiet, rows

SMALL = {"kind": "moe", "parameters": "0.5M", "experts": 4, "vocabulary": 512}


def moe(**given: object) -> Moe:
    return Moe.model_validate({**SMALL, **given})


def twin(init: Moe) -> Twin:
    return Twin.model_validate({**init.model_dump(), "kind": "twin"})


def student(epochs: int = 6, **given: object) -> StudentRecipe:
    return StudentRecipe.model_validate({"init": {**SMALL, **given}, "train": {"epochs": epochs, "batch": 16}})


@pytest.fixture(scope="module")
def tokenizer() -> hf.PreTrainedTokenizerFast:
    return train_tokenizer((row.input for row in rows(40)), 300, LABELS, fold_case=True)


@pytest.fixture
def model(tokenizer) -> hf.Qwen3MoeForCausalLM:
    return build_moe(moe(), tokenizer, LABELS, 0)


def batch_of(tokenizer, answers: list[list[int]]) -> dict[str, torch.Tensor]:
    prompts = [tokenizer(row.input)["input_ids"][: 3 + number] for number, row in enumerate(rows(len(answers)))]
    return Collator(tokenizer.pad_token_id, 0, Clock(), None)(
        [
            {"prompt": prompt, "answer": answer, "probs": [], "state": [], "top_ids": []}
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    )


@pytest.mark.parametrize("size", ["0.6M", "1M", "4M", "20M", "100M"])
@pytest.mark.parametrize(("experts", "active"), [(8, 2), (8, 1), (32, 4)])
def test_a_size_counts_every_expert_and_the_control_what_a_token_passes(size, experts, active):
    init = moe(parameters=size, experts=experts, active=active, vocabulary=None)
    vocabulary = vocabulary_for(init)

    shape = shape_of(init, vocabulary)
    control = shape_of(twin(init), vocabulary)

    idle = 3 * shape.hidden * shape.intermediate * (experts - active) * shape.layers
    passed = shape.parameters(vocabulary) - idle
    assert 0.45 * count(size) < shape.parameters(vocabulary) <= count(size)
    assert (control.hidden, control.layers, control.experts) == (shape.hidden, shape.layers, 1)
    assert control.parameters(vocabulary) == pytest.approx(passed, rel=2e-3)


def test_the_count_of_a_shape_is_the_count_of_its_model(tokenizer, model):
    assert model.num_parameters() == shape_of(moe(), len(tokenizer)).parameters(len(tokenizer))


def test_the_shortcut_gives_the_states_and_the_routing_of_the_plain_forward_pass(tokenizer, model):
    batch = batch_of(tokenizer, [[9, 1]] * 6)
    batch.pop("targets")

    with torch.inference_mode():
        plain = model.model(**batch, output_router_logits=True)
        states, routed = last_states(model, keep=2, **batch)

    assert torch.allclose(plain.last_hidden_state[:, -2:], states, atol=1e-5)
    assert len(routed) == len(plain.router_logits) == 2
    assert torch.allclose(routed[0], plain.router_logits[0], atol=1e-5)
    assert torch.allclose(routed[1].view(6, 2, 4), plain.router_logits[1].view(6, -1, 4)[:, -2:], atol=1e-5)


def test_unevenness_is_the_mean_over_layers_of_share_times_probability():
    torch.manual_seed(0)
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    routed = [torch.randn(6, 4), torch.randn(4, 4)]  # the second layer saw the last two positions

    found = unevenness(routed, mask, 2)

    slow = []
    for logits, kept in zip(routed, (mask, mask[:, -2:]), strict=True):
        probs = logits.softmax(-1)[kept.flatten().bool()]
        chosen = torch.zeros_like(probs).scatter(1, probs.topk(2).indices, 1.0)
        slow.append(4 * (chosen.mean(0) * probs.mean(0)).sum())
    assert found.item() == pytest.approx(torch.stack(slow).mean().item(), rel=1e-5)


def test_unevenness_sees_a_layer_that_another_makes_up_for():
    sure = 20 * torch.eye(2)
    mask = torch.ones(1, 4)
    one_expert_each = [sure[[0, 0, 0, 0]], sure[[1, 1, 1, 1]]]

    assert unevenness(one_expert_each, mask, 1).item() == pytest.approx(2)
    assert unevenness([sure[[0, 1, 0, 1]]] * 2, mask, 1).item() == pytest.approx(1)


def test_experts_are_kept_busy_whatever_is_learnt(tokenizer, model):
    model.config.output_router_logits = True  # as the trainer has it
    one, several = batch_of(tokenizer, [[9, 1]] * 4), batch_of(tokenizer, [[9, 8, 7, 1]] * 4)
    told = batch_of(tokenizer, [[9, 8, 7, 1]] * 4)
    told["top_ids"] = told["targets"].clamp(min=0)[..., None]
    told["top_logps"] = torch.zeros(told["top_ids"].shape)
    labels = label_tokens(tokenizer, LABELS)

    for objective, batch in ((SayLabel(labels), one), (SayLabel([]), several), (SayLikeliest(), told)):
        with forward_is(objective, model):
            lost = model(**batch)
        model.zero_grad()
        lost["experts"].backward(retain_graph=True)
        assert 2 <= lost["experts"].item() < 4
        assert all(layer.mlp.gate.weight.grad.abs().sum() > 0 for layer in model.model.layers)


@pytest.mark.slow
def test_a_student_with_experts_learns_labels_and_says_them_in_plain_transformers(tmp_path):
    given = both(rows(160, soft=True), rows(20, start=160))

    result = train_student(student(), given, tmp_path / "s", 0, quiet)

    assert result["validation_agreement"] == 100
    assert result["parameters"] <= 500_000
    model, tokenizer = (kind.from_pretrained(tmp_path / "s") for kind in (hf.AutoModelForCausalLM, hf.AutoTokenizer))
    assert model.config.model_type == "qwen3_moe"
    assert not model.config.output_router_logits, "generation with a cache would end in an error"
    asked = tokenizer(render(tokenizer, ["where is the parcel, the courier is late"]), return_tensors="pt")
    said = model.generate(**asked, max_new_tokens=4, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == "delivery"
    local = LocalModel(tmp_path / "s", "main", "cpu", 8, "student")
    prompts = [Prompt("p", (Message("user", row.input),), choices=LABELS) for row in rows(6, start=200)]
    answers = local.answer(prompts, Sampling(temperature=0, max_tokens=8))
    assert [answer.text for answer in answers] == [row.output for row in rows(6, start=200)]


@pytest.mark.slow
def test_a_student_with_experts_learns_to_write(tmp_path):
    told = [Example(f"p{n}", f"say {n % 5}", f"number {n % 5} it is", "r", "train", "x") for n in range(100)]
    some = TrainingRows(lambda: iter(told), lambda: iter(told[:5]))

    result = train_student(student(epochs=12), some, tmp_path / "s", 0, quiet)

    assert result["validation_agreement"] == 100
    local = LocalModel(tmp_path / "s", "main", "cpu", 8, "student")
    [said] = local.answer([Prompt("p", (Message("user", "say 3"),))], Sampling(temperature=0, max_tokens=20))
    assert (said.text, said.finish_reason) == ("number 3 it is", "stop")


@pytest.mark.slow
def test_a_student_with_experts_learns_how_sure_the_teacher_was(tmp_path):
    theirs = by_bytes()
    yes, no = (theirs(word, add_special_tokens=False)["input_ids"][0] for word in ("refund", "parcel"))
    kept = np.array([math.log(0.7), math.log(0.2)], np.float16)
    tokens = TopTokens(np.array([yes], np.int32), np.array([yes, no], np.int32), kept)
    told = [
        Example(f"r{n}", f"number {n % 3}", "refund", f"r{n}", "train", "x", tokens=replace(tokens)) for n in range(48)
    ]
    init = {**SMALL, "vocabulary": None, "tokenizer": "teacher"}
    train = {"method": ["topk"], "epochs": 30, "batch": 16, "dropout": 0, "noise": 0}
    recipe = StudentRecipe.model_validate({"init": init, "train": train})
    some = TrainingRows(lambda: iter(told), lambda: iter(told[:6]))

    train_student(recipe, some, tmp_path / "s", 0, quiet, lambda: Pretrained(None, theirs, "teacher lead"))

    local = LocalModel(tmp_path / "s", "main", "cpu", 8, "student")
    asked = Prompt("p", (Message("user", "number 1"),))
    [said] = local.answer([asked], Sampling(temperature=0, max_tokens=4, logprobs=2))
    assert [math.exp(value) for _, value in said.tokens[0].top] == pytest.approx([0.7, 0.2], abs=0.04)


@pytest.mark.slow
def test_a_resumed_training_has_its_experts_back(tmp_path: Path):
    given = both(rows(96, soft=True), rows(8, start=96))
    train_student(student(epochs=4), given, tmp_path / "whole", 0, quiet)

    def die(step: int, steps: int, detail: str) -> None:
        if step == 15:
            raise Killed

    with pytest.raises(Killed):
        train_student(student(epochs=4), given, tmp_path / "cut", 0, die)
    seen: list[int] = []
    train_student(student(epochs=4), given, tmp_path / "cut", 0, lambda step, *_: seen.append(step))

    assert seen[0] > 1, "it began anew instead of going on"
    whole, cut = (hf.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    for name, weight in whole.items():
        assert torch.equal(weight, cut[name]), name


@pytest.mark.slow
def test_a_control_is_trained_as_a_plain_dense_student(tmp_path):
    given = both(rows(96, soft=True), rows(8, start=96))

    train_student(student(epochs=1, kind="twin"), given, tmp_path / "s", 0, quiet)

    assert json.loads((tmp_path / "s" / "config.json").read_text())["model_type"] == "qwen3"


def test_a_control_begins_with_the_width_of_its_student(tokenizer, model):
    control = build_dense(twin(moe()), tokenizer, LABELS, 0)

    assert control.config.hidden_size == model.config.hidden_size
    assert control.num_parameters() < model.num_parameters()


def test_more_active_experts_than_there_are_is_refused():
    with pytest.raises(ValidationError) as refused:
        moe(experts=4, active=6)

    assert "is 6, and a layer has 4 experts; ask for fewer" in str(refused.value)


def test_experts_that_do_not_fit_are_refused(tokenizer):
    with pytest.raises(BadInput) as refused:
        shape_of(moe(experts=128), 512)

    assert str(refused.value) == (
        "init.parameters = 500,000 cannot hold a vocabulary of 512 tokens and 128 experts; "
        "raise init.parameters, or lower init.vocabulary or init.experts"
    )
