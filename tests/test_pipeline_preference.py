"""A teacher that ranks what the student says of its own accord, from the recipe to the trained student."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.data.errors import BadInput, NotEnoughData
from understudy.data.fingerprint import digest
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.plan import plan
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.use import answers

from .endpoint import Endpoint, Reply, says
from .test_pipeline_judge import PAIR

CHAIN = [{"kind": "sft", "epochs": 6}, {"kind": "preference", "rows": 60, "epochs": 4, "learning_rate": 0.0005}]


def write_job(folder: Path, endpoint: Endpoint, method: object = CHAIN, **changes: object) -> Path:
    recipe = {
        "name": "t",
        "task": {"kind": "generate", "instruction": "Reply.", "unlabeled": "pool.jsonl", "scorer": "rouge_l"},
        "teachers": {"lead": {"kind": "openai", "model": "lead", "base_url": endpoint.base_url}},
        "curate": {"duplicates": {"near": None}},
        "split": {"test": 0.1, "validation": 0.1, "calibration": 0},
        "student": {
            "init": {"parameters": "0.3M", "vocabulary": 512},
            "train": {"method": method, "batch": 16, "learning_rate": 0.003, "max_length": 48},
        },
        **changes,
    }
    folder.mkdir(exist_ok=True)
    texts = [{"input": f"where is my parcel number {number}"} for number in range(200)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def opened(recipe: Path) -> Run:
    return Run(load_recipe(recipe), LocalStorage(recipe.parent / "root"), Reporter())


def teacher(body: dict) -> Reply:
    """Writes kindly half of the time, and prefers what is kind whenever it is asked."""
    text = body["messages"][-1]["content"]
    if pair := PAIR.search(text):
        kind = ["kindly" in answer for answer in pair.groups()]
        return says("tie" if kind[0] == kind[1] else "A" if kind[0] else "B")
    kindly = digest(text.encode())[0] in "02468ace"  # nothing that a student could learn
    return says("please wait kindly" if kindly else "please wait outside")


@pytest.mark.slow
def test_a_student_comes_to_say_what_the_teacher_prefers_and_each_pair_is_paid_for_once(tmp_path):
    with Endpoint(then=teacher) as endpoint:
        recipe = write_job(tmp_path, endpoint)
        run = opened(recipe)
        asked = {part.stage: part.requests for part in plan(run).asked}
        [learnt] = run_stages(run, "train")["train:student"]["summary"]["seeds"]
        ranked = sum(PAIR.search(body["messages"][-1]["content"]) is not None for body in endpoint.bodies)
        said = {text for _, text, _ in answers(run, None, [f"where is my parcel number {n}" for n in range(20)])}
        trained = artifacts(run)["train:student"][1].folder
        run.close()
        (trained / "manifest.json").unlink()
        (trained / "seed-0" / "trained.json").unlink()
        before = len(endpoint.bodies)
        again = opened(recipe)
        run_stages(again, "train")
        again.close()

        counts = learnt["methods"][1]["answers"]
        assert said == {"please wait kindly"}, "and half as likely before"
        assert counts["asked"] == 60
        assert counts["asked"] == sum(counts[name] for name in ("alike", "unusable", "undecided", "ranked"))
        assert counts["ranked"] > 10
        assert ranked >= 2 * (counts["ranked"] - counts["unusable"]) - 10
        assert asked["train student"] == 2 * 60
        assert len(endpoint.bodies) == before, "what was ranked is in the ledger"


@pytest.mark.slow
def test_a_teacher_that_goes_by_the_order_teaches_nothing(tmp_path):
    def first(body: dict) -> Reply:
        return says("A") if PAIR.search(body["messages"][-1]["content"]) else teacher(body)

    with Endpoint(then=first) as endpoint:
        usable = [{"kind": "sft", "epochs": 20}, {"kind": "preference", "rows": 20, "temperature": 0.7}]
        run = opened(write_job(tmp_path, endpoint, usable))
        with pytest.raises(NotEnoughData) as caught:
            run_stages(run, "train")
        run.close()

    assert str(caught.value) == (
        "train: preference has nothing to learn from: of 20 inputs answered twice none has a better answer; raise "
        "train.method.temperature or rows, or remove preference"
    )


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        (["preference"], {}, "and none knows it before it has learnt; use [sft, preference]"),
        (["sft", {"kind": "preference", "teacher": "x"}], {}, "'x' is no teacher of this recipe; defined: lead"),
        (
            ["sft", "preference"],
            {"evaluate": {"curve": True}},
            "preference is paid for, and would be for every part of evaluate.curve; remove one of them",
        ),
        (
            ["sft", "preference"],
            {"task": {"kind": "classify", "instruction": "a", "labels": ["a", "b"], "unlabeled": "pool.jsonl"}},
            "preference is for text, and with closed labels `sft` learns the teacher's probabilities already",
        ),
        (["sft", "on_policy"], {}, "one of kind 'openai' does not tell its tokens; label with kind vllm"),
        (
            ["sft", "on_policy"],
            {"teachers": {"lead": {"kind": "vllm", "model": "m"}}},
            "on_policy reads the teacher beside the student, and 'lead' is of kind 'vllm', an engine of its own; use",
        ),
        (
            ["sft", "on_policy"],
            {"teachers": {"lead": {"kind": "transformers", "model": "m"}}},
            "on_policy needs the teacher's tokenizer, and the student has one of its own; use init: {kind: dense,",
        ),
    ],
)
def test_what_cannot_be_learnt_so_is_refused_before_anything_is_asked(tmp_path, method, changes, said):
    with Endpoint() as endpoint, pytest.raises(BadInput) as caught:
        opened(write_job(tmp_path, endpoint, method, **changes))

    assert said in str(caught.value)
