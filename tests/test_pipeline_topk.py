"""Distillation from the teacher's likeliest tokens, from the label stage to the trained student."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from understudy.data.errors import BadInput
from understudy.data.rows import Answer, Token
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.examples import read_examples
from understudy.pipeline.parse import top_tokens
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages

from .test_students_hub import by_bytes, family

TOPK = ("train.method=[topk]", "init={kind: dense, parameters: 0.3M, tokenizer: teacher}")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A teacher of random weights, which ends at every third token."""
    folder = tmp_path_factory.mktemp("job")
    tokenizer = by_bytes()
    for name, seeded in (("model", "qwen3"), ("llama", "llama")):
        family(seeded, tokenizer).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    ends = json.dumps({"eos_token_id": list(range(0, 400, 3))})
    (folder / "model" / "generation_config.json").write_text(ends)
    rows = [{"input": f"where is parcel {number}", "output": "x"} for number in range(60)]
    for name, some in (("pool", rows[:50]), ("gold", rows[50:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    recipe = {
        "name": "tokens",
        "task": {
            "kind": "generate",
            "instruction": "Answer.",
            "scorer": "exact",
            "unlabeled": "pool.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "teachers": {"lead": {"kind": "transformers", "model": "model"}},
        "label": {"logprobs": 4, "max_tokens": 40, "temperature": 1.0},
        "curate": {"duplicates": {"near": None}},
        "student": {"train": {"epochs": 1, "batch": 8, "max_length": 96}},
        "max_failed": 1,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def opened(folder: Path, *overrides: str) -> Run:
    return Run(load_recipe(folder / "recipe.yaml", overrides), LocalStorage(folder / "root"), Reporter())


def answer(*tokens: Token, reason: str = "stop") -> Answer:
    return Answer("p", "".join(token.text for token in tokens), reason, tokens=tokens)


def test_the_token_that_was_said_stands_among_its_alternatives():
    likely = Token("a", -0.5, (("a", -0.5), ("b", -1.0)), 1, (1, 2))
    drawn = Token("z", -4.0, (("a", -0.25), ("b", -2.0)), 26, (1, 2))

    kept = top_tokens(answer(likely, drawn))

    assert kept is not None
    assert kept.ids.tolist() == [1, 26]
    assert kept.top_ids.tolist() == [1, 2, 1, 26]
    assert kept.logprobs.tolist() == [-0.5, -1.0, -0.25, -4.0]


def test_an_answer_without_ids_or_without_its_end_tells_no_tokens():
    spelt = Token("a", -0.5, (("a", -0.5),))
    told = Token("a", -0.5, (("a", -0.5),), 1, (1,))

    assert top_tokens(answer(spelt)) is None
    assert top_tokens(answer(told, reason="length")) is None
    assert top_tokens(answer()) is None


@pytest.mark.slow
def test_what_the_teacher_told_reaches_the_student(job):
    run = opened(job, *TOPK)
    manifests = run_stages(run, "train")

    assert manifests["train:student"]["summary"]["seeds"][0]["steps"] > 0
    placed = artifacts(run)
    told = [row for row in read_examples(placed["curate"][1]) if row.tokens is not None]
    assert told, manifests["label"]["rows"]
    for row in told:
        assert row.tokens is not None
        assert row.tokens.top_ids.shape == row.tokens.logprobs.shape == (4 * len(row.tokens.ids),)
        assert row.tokens.logprobs.dtype == np.float16
        assert run.tokenizer("lead").decode(row.tokens.ids).strip() == row.output
    folder = placed["train:student"][1].folder / "seed-0"
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(run.tokenizer("lead"))
    run.close()


@pytest.mark.slow
def test_each_method_goes_on_from_where_the_one_before_it_ended(job, tmp_path):
    chain = "train.method=[{kind: sft, epochs: 2}, {kind: sft, learning_rate: 1.0e-9}, topk]"
    run = opened(job, chain, TOPK[1])
    run.storage = LocalStorage(tmp_path)
    learnt = run_stages(run, "train")["train:student"]["summary"]["seeds"][0]

    first, slow, topk = learnt["methods"]
    assert (first["method"], slow["method"], topk["method"]) == ("sft", "sft", "topk")
    assert first["steps"] == 2 * slow["steps"] == 2 * topk["steps"], "the student's one epoch where none are its own"
    assert slow["validation_loss"] == pytest.approx(first["validation_loss"], abs=1e-3), "so slowly nothing changes"
    assert learnt["validation_loss"] == topk["validation_loss"]
    assert not (artifacts(run)["train:student"][1].folder / "seed-0" / "work").exists()
    run.close()


def refusal(folder: Path, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        opened(folder, *overrides)
    return str(caught.value).partition("understudy: ")[2] or str(caught.value).partition(": ")[2]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("train.method=[topk]",), "topk needs the teacher's tokenizer, and the student has one of its own; use init:"),
        ((*TOPK, "label.logprobs=0"), "topk learns from log-probabilities, and none are kept; set label.logprobs = 16"),
        (
            (*TOPK, "teachers={lead: {kind: openai, model: m, base_url: 'http://127.0.0.1:1/v1'}}"),
            "and one of kind 'openai' does not tell its tokens; label with kind vllm",
        ),
        (
            (*TOPK, "task={kind: classify, instruction: a, labels: [a, b], unlabeled: pool.jsonl}"),
            "with closed labels `sft` learns the teacher's probabilities already; use [sft]",
        ),
        (
            ("init={kind: dense, tokenizer: teacher, vocabulary: 600}",),
            "the teacher's tokenizer has a vocabulary of its own; remove one",
        ),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_anything_is_asked(job, overrides, said):
    assert said in refusal(job, *overrides)


@pytest.mark.slow
def test_a_student_that_reads_other_tokens_is_refused(job, tmp_path):
    other = by_bytes()
    other.add_tokens(["<new>"])
    family("llama", other).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    run = opened(job, "train.method=[topk]", f"init={{kind: hub, model: '{tmp_path / 'other'}'}}")

    with pytest.raises(BadInput) as caught:
        run_stages(run, "train")
    run.close()

    assert "students.student: method topk needs the teacher's tokenizer, and 1 tokens differ: number" in str(
        caught.value
    )
    assert "is '<new>'" in str(caught.value)


@pytest.mark.slow
def test_a_student_goes_on_from_what_the_teacher_would_say_of_its_own_words(job, tmp_path):
    chain = "train.method=[{kind: sft, epochs: 2}, {kind: on_policy, learning_rate: 1.0e-4}]"
    run = opened(job, chain, TOPK[1])
    run.storage = LocalStorage(tmp_path)
    learnt = run_stages(run, "train")["train:student"]["summary"]["seeds"][0]
    run.close()

    assert [part["method"] for part in learnt["methods"]] == ["sft", "on_policy"]
    assert learnt["steps"] > 0
