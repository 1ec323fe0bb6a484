"""A student that begins as a trained model, through a whole run, beside that model with a few rows shown to it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from understudy.data.errors import BadInput
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.examples import read_examples
from understudy.pipeline.few_shot import EXAMPLES, _asked, _chosen
from understudy.pipeline.progress import Reporter
from understudy.pipeline.proof import publish_report
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages

from .test_students_hub import by_bytes, family

LABELS = ("lost parcel", "refund", "other")
WORDS = {
    "lost parcel": "parcel courier late tracking",
    "refund": "money back pay price",
    "other": "hello thanks app size",
}


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A recipe whose student begins as a model folder of random weights."""
    folder = tmp_path_factory.mktemp("job")
    tokenizer = by_bytes()
    family("qwen3", tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    draw = random.Random(0)
    rows = []
    for number in range(240):
        label = LABELS[number % 3]
        rows.append({"input": f"{' '.join(draw.choices(WORDS[label].split(), k=4))} no {number}", "output": label})
    for name, some in (("pool", rows[:180]), ("gold", rows[180:]), ("answers", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    recipe = {
        "name": "begun",
        "task": {
            "kind": "classify",
            "instruction": "Which team?",
            "labels": list(LABELS),
            "unlabeled": "pool.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "student": {
            "init": {"kind": "hub", "model": "model"},
            "train": {"epochs": 8, "batch": 8, "learning_rate": 0.003, "max_length": 96},
        },
        "evaluate": {"margin": 10},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def opened(folder: Path, *overrides: str) -> Run:
    return Run(load_recipe(folder / "recipe.yaml", overrides), LocalStorage(folder / "root"), Reporter())


@pytest.mark.slow
def test_it_is_judged_beside_the_model_that_it_began_as(job, capsys):
    run = opened(job)
    report = publish_report(run, run_stages(run))
    run.close()

    models = report["models"]
    assert models["student"]["score"]["gold"]["value"] > 95
    assert models["few_shot"]["score"]["gold"]["value"] < 70, "random weights, so what is shown teaches nothing"
    assert models["few_shot"]["parameters"] > 80_000
    assert models["few_shot"]["latency_ms"]["p50"] > 0
    assert set(report["against"]) == {"majority", "neighbour", "linear", "untrained", "few_shot"}
    said = capsys.readouterr().err
    assert "few_shot: model is shown" in said
    assert f"is shown {EXAMPLES} rows" not in said, "more than its 256 positions hold"


@pytest.mark.slow
def test_another_model_is_another_student(job):
    first, other = opened(job), opened(job)
    before = {key: artifact.path for key, (_, artifact) in artifacts(first).items()}
    config = json.loads((job / "model/config.json").read_text())
    (job / "model/config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    try:
        after = {key: artifact.path for key, (_, artifact) in artifacts(other).items()}
    finally:
        (job / "model/config.json").write_text(json.dumps(config))
    first.close()
    other.close()

    assert [key for key in before if before[key] != after[key]] == ["train:student", "evaluate"]


@pytest.mark.slow
def test_what_is_shown_is_of_every_label_and_as_the_teacher_reads_it(job):
    run = opened(job)
    run_stages(run, "curate")
    shown = _chosen(list(read_examples(artifacts(run)["curate"][1], "train")))
    row = run.gold()["gold"][0]
    said = _asked(run, shown[:2])(row)
    run.close()

    assert {example.output for example in shown} == set(LABELS)
    assert len({example.id for example in shown}) == EXAMPLES
    [message] = said.messages
    assert message.content.startswith("Which team?\nAnswer with exactly one of these labels")
    shots = "".join(f"\n\nInput: {example.input}\nAnswer:\n{example.output}" for example in shown[:2])
    assert message.content.endswith(f"{shots}\n\nInput: {row.input}\nAnswer:\n")
    assert said.choices == LABELS


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "nowhere",
            "init.model = nowhere: there is no folder {folder}/nowhere; expected a model's folder",
        ),
        (
            "pickled",
            "init.model = pickled: {folder}/pickled holds only pickle weights (pytorch_model.bin), which can run code",
        ),
    ],
)
def test_a_model_that_cannot_be_begun_from_is_refused_before_anything_is_paid_for(job, model, said):
    (job / "pickled").mkdir(exist_ok=True)
    (job / "pickled/config.json").write_text("{}")
    (job / "pickled/pytorch_model.bin").write_bytes(b"")
    run = opened(job, f"init.model={model}")
    with pytest.raises(BadInput) as caught:
        run_stages(run, "label")
    run.close()

    assert str(caught.value).startswith(said.format(folder=job))
