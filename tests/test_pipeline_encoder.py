"""A student that only reads goes the whole way: judged, timed, measured, asked, and refused where it cannot follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as hf

from understudy.data.errors import BadInput
from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.doctor import doctor
from understudy.pipeline.export import export
from understudy.pipeline.progress import Reporter
from understudy.pipeline.proof import publish_report
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.train import refuse_what_does_not_fit
from understudy.pipeline.use import answers, student_folder

from .taught import WORDS, messages
from .test_students_encoder import SMALL, written


def opened(folder: Path, *overrides: str) -> Run:
    return Run(load_recipe(folder / "recipe.yaml", overrides), LocalStorage(folder / "root"), Reporter())


def write_job(folder: Path) -> Path:
    """A recipe whose teacher is a table of the right answers."""
    rows, gold = messages(300, 0), messages(60, 1)
    for name, some in (("pool", [{"input": row["input"]} for row in rows]), ("answers", [*rows, *gold])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    recipe = {
        "name": "reads",
        "task": {
            "kind": "classify",
            "instruction": "Which team?",
            "labels": list(WORDS),
            "unlabeled": "pool.jsonl",
            "test": {"gold": "gold.jsonl"},
        },
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "student": {
            "init": {"kind": "encoder", "parameters": "0.3M", "vocabulary": 512},
            "train": {"epochs": 10, "batch": 16, "learning_rate": 0.002, "max_length": 64},
        },
        "evaluate": {"margin": 20},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = write_job(tmp_path_factory.mktemp("job"))
    run = opened(folder)
    report = publish_report(run, run_stages(run))
    run.close()
    return folder, report


@pytest.mark.slow
def test_an_encoder_is_judged_timed_and_measured_as_any_student_is(job):
    _, report = job

    assert report["verdict"]["decision"] == "pass"
    model = report["models"]["student"]
    assert 200_000 < model["parameters"] <= 300_000
    assert model["latency_ms"]["p50"] > 0
    assert model["memory"] > 50_000_000
    assert report["models"]["untrained"]["score"]["gold"]["value"] < model["score"]["gold"]["value"]


@pytest.mark.slow
def test_it_answers_alone_and_in_plain_transformers_alike(job):
    folder, _ = job
    run = opened(folder)
    _, student = student_folder(run, None)
    texts = ["where is the parcel, the courier was here", "I forgot my password, now the login says locked"]

    said = [(output, sure) for _, output, sure in answers(run, None, texts)]
    run.close()

    assert [output for output, _ in said] == ["delivery", "Log in"]
    pipe = hf.pipeline("text-classification", str(student), device="cpu")
    for (output, sure), plain in zip(said, pipe(texts), strict=True):
        assert plain == {"label": output, "score": pytest.approx(sure, abs=1e-4)}


@pytest.mark.slow
def test_a_harness_that_asks_for_text_is_not_given_one(job, tmp_path):
    run = opened(job[0])
    with pytest.raises(BadInput) as caught:
        export(run, "lm-eval", tmp_path / "out")
    run.close()

    assert str(caught.value) == (
        "--format lm-eval: student 'student' is an encoder, and lm-eval asks models that write; name one that does "
        "with --student"
    )


def test_an_encoder_is_looked_at_before_a_run(tmp_path):
    folder = write_job(tmp_path)
    written(folder / "m", "bert")

    def found(*overrides: str) -> dict[str, tuple[str, str]]:
        run = opened(folder, *overrides)
        seen = {finding.what: (finding.state, finding.said) for finding in doctor(run)}
        run.close()
        return seen

    scratch = found()
    begun = found("init={kind: encoder, model: m, layers: 2}")
    deep = found("init={kind: encoder, model: m, layers: 4}")

    assert scratch["student student"][1].startswith("300,000 parameters take about ")
    assert begun["student student"][0] == "ok"
    assert int(begun["student student"][1].split()[0].replace(",", "")) < 50_000
    assert begun["student student, lengths"][1].startswith("0 of 300 inputs are longer than max_length = 64; ")
    assert deep["student student"] == (
        "fix",
        f"init.model = m: {folder}/m has 3 layers, and init.layers = 4; lower it, or remove it for all of them",
    )


def test_rows_longer_than_an_encoder_reads_are_refused(tmp_path):
    folder = write_job(tmp_path)
    written(folder / "m", "bert")
    run = opened(folder, "init={kind: encoder, model: m}", "train.max_length=200")

    with pytest.raises(BadInput) as caught:
        refuse_what_does_not_fit(run, "student")
    run.close()

    assert str(caught.value) == (
        f"students.student.train.max_length = 200, and {folder}/m reads {SMALL['max_position_embeddings']} tokens at "
        "most; lower it"
    )


def test_an_encoder_of_other_weights_makes_another_student(tmp_path):
    folder = write_job(tmp_path)

    def trained() -> str:
        run = opened(folder, "init={kind: encoder, model: m}")
        name = artifacts(run)["train:student"][1].folder.name
        run.close()
        return name

    written(folder / "m", "bert")
    first, again = trained(), trained()
    written(folder / "m", "bert", intermediate_size=96)

    assert first == again != trained()
