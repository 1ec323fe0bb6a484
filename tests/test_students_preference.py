"""Learning from pairs of the student's own answers, and from a teacher that reads along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import transformers as hf

from understudy.data.errors import BadInput, NotEnoughData
from understudy.data.rows import Example, Message, Prompt
from understudy.data.teacher import Sampling
from understudy.students.config import StudentRecipe
from understudy.students.hub import Pretrained
from understudy.students.on_policy import Lead
from understudy.students.preference import Ranked, encode_pairs
from understudy.students.tokenizer import turn_end
from understudy.students.trainer import train_student
from understudy.students.weights import Learnt, TrainingRows
from understudy.teachers.local import LocalModel

from .test_students_hub import by_bytes, family, quiet
from .test_students_trainer import Killed

TEXTS = [f"number {number % 3}" for number in range(24)]
ROWS = [Example(f"r{n}", text, "refund", f"r{n}", "train", "unlabeled") for n, text in enumerate(TEXTS)]


def learning(method: str, *, epochs: int = 8, **train: object) -> StudentRecipe:
    """A student of which one method is left, after sft."""
    further = {"kind": method, "learning_rate": 1e-3, "epochs": epochs}
    fields = {"method": ["sft", further], "batch": 8, "max_length": 64}
    whole = StudentRecipe.model_validate({"init": {"kind": "hub", "model": "m"}, "train": {**fields, **train}})
    return whole.phases()[1]


def begun(folder: Path, name: str = "qwen3", **changes: object) -> hf.PreTrainedTokenizerFast:
    """A student as an earlier method left it."""
    tokenizer = by_bytes()
    model = family(name, tokenizer, **changes)
    model.generation_config.eos_token_id = turn_end(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def likelihood(folder: Path, tokenizer: hf.PreTrainedTokenizerFast, said: str) -> float:
    """Natural log-probability of an answer to the first input."""
    from understudy.students.batches import render

    model = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = tokenizer(render(tokenizer, TEXTS[:1]), add_special_tokens=False)["input_ids"][0]
    answer = [*tokenizer(said, add_special_tokens=False)["input_ids"], turn_end(tokenizer)]
    with torch.no_grad():
        logps = model(torch.tensor([[*prompt, *answer]])).logits.log_softmax(-1)[0]
    return sum(float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))


def rows() -> TrainingRows:
    return TrainingRows(lambda: iter(ROWS), lambda: iter(ROWS[:3]))


PAIRS = [Ranked(text, "refund", "lost parcel") for text in TEXTS]


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "qwen3_moe"])
def test_what_the_teacher_prefers_becomes_likelier_beside_what_it_does_not(name, tmp_path):
    tokenizer = begun(tmp_path / "before", name)

    result = train_student(
        learning("preference"), rows(), tmp_path / "seed-0", 0, quiet, lambda: Learnt(tmp_path / "before"), PAIRS
    )

    def margin(folder: Path) -> float:
        return likelihood(folder, tokenizer, "refund") - likelihood(folder, tokenizer, "lost parcel")

    assert (result["rows"], result["steps"]) == (24, 24)
    assert margin(tmp_path / "seed-0") > margin(tmp_path / "before") + 3
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "seed-0")
    model.generate(torch.tensor([[5, 6]]), max_new_tokens=2)  # in plain transformers, experts and all


def test_adapters_learn_what_is_preferred_and_end_in_the_model(tmp_path):
    tokenizer = begun(tmp_path / "before")
    recipe = learning("preference", lora={"rank": 8})

    train_student(recipe, rows(), tmp_path / "seed-0", 0, quiet, lambda: Learnt(tmp_path / "before"), PAIRS)

    after, before = (likelihood(tmp_path / name, tokenizer, "lost parcel") for name in ("seed-0", "before"))
    assert after < before
    assert not list((tmp_path / "seed-0").glob("*adapter*"))


@pytest.mark.parametrize("method", ["preference", "on_policy"])
def test_a_killed_training_ends_in_the_weights_of_one_that_was_not(method, tmp_path):
    tokenizer = begun(tmp_path / "before")
    family("qwen3", tokenizer).save_pretrained(tmp_path / "teacher")

    def learn(folder: Path, show=quiet) -> None:
        teacher = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "teacher")
        beside = PAIRS if method == "preference" else Lead(teacher, lambda texts: [[5, 6]] * len(texts))
        train_student(learning(method), rows(), folder, 0, show, lambda: Learnt(tmp_path / "before"), beside)

    def dies(step: int, steps: int, detail: str) -> None:
        if step == 17:
            raise Killed

    learn(tmp_path / "whole")
    with pytest.raises(Killed):
        learn(tmp_path / "cut", dies)
    learn(tmp_path / "cut")

    whole, cut = (hf.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(weight, cut[name]) for name, weight in whole.items())


def test_pairs_keep_their_marks_and_those_that_do_not_fit_are_left_out():
    tokenizer = by_bytes()
    pairs = [Ranked("number " * 40, "refund", "lost"), Ranked("number", "refund " * 60, "lost")]

    [row] = encode_pairs(pairs, tokenizer, 48)

    assert len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= 48
    assert tokenizer.decode(row["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == turn_end(tokenizer)
    with pytest.raises(NotEnoughData) as caught:
        encode_pairs(pairs[1:], tokenizer, 48)
    assert str(caught.value) == "train: no pair fits into max_length = 48 tokens; raise train.max_length"


def test_on_policy_a_student_comes_to_say_what_the_teacher_says_under_its_own_instruction(tmp_path):
    tokenizer = begun(tmp_path / "before")
    told = [f"be kind, {text}" for text in TEXTS]
    teacher_rows = [Example(f"t{n}", text, "refund", f"t{n}", "train", "unlabeled") for n, text in enumerate(told)]
    taught = StudentRecipe.model_validate(
        {
            "init": {"kind": "hub", "model": "m"},
            "train": {"epochs": 30, "batch": 8, "learning_rate": 3e-3, "max_length": 64},
        }
    )
    some = TrainingRows(lambda: iter(teacher_rows), lambda: iter(teacher_rows[:3]))
    source = Pretrained(family("qwen3", tokenizer), tokenizer, "m")
    train_student(taught, some, tmp_path / "lead", 0, quiet, lambda: source)
    lead = LocalModel(tmp_path / "lead", "main", "cpu", 8, "lead")
    asked_of: list[list[int]] = []

    def asked(texts):
        prompts = (Prompt("", (Message("user", f"be kind, {text}"),)) for text in texts)
        asked_of.extend(lead.renderer.render(prompt, Sampling(max_tokens=8)).ids for prompt in prompts)
        return asked_of

    result = train_student(
        learning("on_policy", epochs=40),
        rows(),
        tmp_path / "seed-0",
        0,
        quiet,
        lambda: Learnt(tmp_path / "before"),
        Lead(lead.model, asked),
    )

    assert len(asked_of) == result["rows"] == 24
    local = LocalModel(tmp_path / "seed-0", "main", "cpu", 8, "student")
    said = local.answer([Prompt("p", (Message("user", "number 1"),))], Sampling(temperature=0, max_tokens=6))
    assert said[0].text == "refund"


def test_a_teacher_whose_vocabulary_is_padded_further_is_read_as_far_as_it_means_anything(tmp_path):
    tokenizer = begun(tmp_path / "before")
    wide = family("qwen3", tokenizer, vocab_size=len(tokenizer) + 32)

    result = train_student(
        learning("on_policy", epochs=1), rows(), tmp_path / "seed-0", 0, quiet,
        lambda: Learnt(tmp_path / "before"), Lead(wide, lambda texts: [[5, 6]] * len(texts)),
    )  # fmt: skip

    assert result["steps"] == 3


def test_a_student_whose_vocabulary_is_padded_further_is_refused(tmp_path):
    tokenizer = begun(tmp_path / "before")
    narrow = family("qwen3", tokenizer, vocab_size=len(tokenizer) - 32)

    with pytest.raises(BadInput) as caught:
        train_student(
            learning("on_policy"), rows(), tmp_path / "seed-0", 0, quiet,
            lambda: Learnt(tmp_path / "before"), Lead(narrow, lambda texts: [[5, 6]] * len(texts)),
        )  # fmt: skip

    assert str(caught.value) == (
        f"train.method: on_policy compares whole vocabularies, and the student's is padded to {len(tokenizer)} tokens "
        f"where the teacher's has {len(tokenizer) - 32}; use topk, which does not"
    )


def test_a_further_method_is_one_pass_a_twentieth_as_fast_unless_the_recipe_says_so():
    train = StudentRecipe.model_validate(
        {"train": {"method": ["sft", "preference", {"kind": "on_policy", "epochs": 2}], "learning_rate": 0.002}}
    )

    told = [(phase.train.epochs, phase.train.learning_rate) for phase in train.phases()]

    assert told == [(24, 0.002), (1, 0.0001), (2, 0.0001)]
    assert os.environ.get("TQDM_DISABLE", "1") == "1"
