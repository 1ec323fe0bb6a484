"""A student that is handed on is run again first, and what stands in its README runs without this program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.data.errors import BadInput
from understudy.jobs.cli import cli
from understudy.pipeline import export as exporting
from understudy.pipeline.context import Run
from understudy.pipeline.export import export
from understudy.pipeline.instructions import instructions
from understudy.pipeline.lm_eval import write_task
from understudy.pipeline.proof import publish_report
from understudy.pipeline.reproof import prove_again
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.table import TestRows, read_table
from understudy.pipeline.use import answers, student_folder
from understudy.students.onnx import write_onnx

from .endpoint import Endpoint, says
from .taught import WORDS, a_classifier, bookings, messages, opened, write_job

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "seats": {"type": "integer"}}}
TEXTS = [row["input"] for row in messages(30, 2)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that learnt labels, and is judged."""
    folder = tmp_path_factory.mktemp("labels")
    task = {"kind": "classify", "labels": list(WORDS), "test": {"gold": "gold.jsonl"}, "pii": "redact"}
    write_job(folder, task, {"student": {"epochs": 4}}, messages(300, 0), messages(90, 1))
    run = opened(folder)
    publish_report(run, run_stages(run))
    run.close()
    return folder


@pytest.fixture(scope="module")
def booker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that learnt to write objects, and is judged."""
    folder = tmp_path_factory.mktemp("objects")
    task = {"kind": "extract", "schema": SCHEMA, "scorer": "exact", "test": {"gold": "gold.jsonl"}}
    write_job(folder, task, {"student": {"epochs": 8}}, bookings(240, 0), bookings(40, 1))
    run = opened(folder)
    publish_report(run, run_stages(run))
    run.close()
    return folder


@pytest.fixture(scope="module")
def onnx(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student of the labels as ONNX."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    run = opened(job)
    export(run, "onnx", folder)
    run.close()
    return folder


def judged(run: Run) -> tuple[TestRows, Path]:
    """The verdict's test, and the student's folder."""
    _, evaluated = artifacts(run)["evaluate"]
    manifest = evaluated.manifest()
    assert manifest is not None
    tests, _ = read_table(evaluated, manifest["summary"])
    return tests[0], student_folder(run, None)[1]


def run_readme(folder: Path, texts: list[str]) -> list[list[str]]:
    """What the lines of Python in README.md print, split at tabs, where this program cannot be imported."""
    (script,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "understudy" not in script
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        input="".join(f"{text}\n" for text in texts),
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def assert_answers_as_the_student(printed: list[list[str]], job: Path) -> None:
    """The same labels, and probabilities that are the same but for the last digit printed."""
    run = opened(job)
    for (label, sure), (_, said, surely) in zip(printed, answers(run, None, TEXTS), strict=True):
        assert label == said
        assert float(sure) == pytest.approx(surely, abs=0.0015)
    run.close()


def test_a_students_weights_are_handed_on_with_its_card_and_nothing_of_the_training(job, tmp_path):
    run = opened(job)
    made = export(run, "safetensors", tmp_path / "out")
    _, trained = judged(run)
    run.close()

    kept = {file.name for file in trained.iterdir()} - {"trained.json"}
    assert {path.name for path in made.files} == kept | {"README.md", "card.md", "export.json"}
    assert made.proof.identical.value == 100
    assert made.proof.exported.bytes == made.proof.trained.bytes
    assert_answers_as_the_student(run_readme(tmp_path / "out", TEXTS), job)


def test_the_readme_of_an_onnx_file_runs_without_torch_and_answers_as_the_student(job, onnx):
    assert_answers_as_the_student(run_readme(onnx, TEXTS), job)
    readme = (onnx / "README.md").read_text()
    assert "torch" not in readme
    assert "100.0% identical answers (90% interval" in readme
    assert "placeholders such as `<email>`" in readme


def test_a_student_that_writes_is_handed_on_and_its_readme_writes_the_same(booker, tmp_path):
    run = opened(booker)
    texts = [row["input"] for row in bookings(20, 3)]
    made = export(run, "onnx", tmp_path / "out")

    assert made.proof.identical.value == 100
    assert made.proof.verdict.decision == "pass"
    written = [said for _, said, _ in answers(run, None, texts)]
    run.close()
    assert [line for (line,) in run_readme(tmp_path / "out", texts)] == written
    assert len(set(written)) > 2


def test_a_damaged_file_fails(job, onnx, tmp_path):
    run = opened(job)
    test, trained = judged(run)
    shutil.copytree(onnx, tmp_path / "damaged")
    config = json.loads((onnx / "config.json").read_text())
    config["id2label"] = {"0": "refund", "1": "Log in", "2": "delivery"}
    (tmp_path / "damaged/config.json").write_text(json.dumps(config))

    whole, damaged = (
        prove_again(run, "onnx", "student", trained, test, folder) for folder in (onnx, tmp_path / "damaged")
    )
    run.close()

    assert (whole.verdict.decision, whole.identical.value) == ("pass", 100)
    assert (damaged.verdict.decision, damaged.identical.value) == ("fail", 0)


def test_a_classifier_is_proved_and_told_of_as_any_student(job, tmp_path):
    student = a_classifier(tmp_path / "student", list(WORDS))
    folder = shutil.copytree(student, tmp_path / "out", ignore=shutil.ignore_patterns("*.safetensors"))
    write_onnx(student, folder, list(WORDS), int8=False, where="--format onnx")
    run = opened(job)
    test, trained = judged(run)

    proof = prove_again(run, "onnx", "student", trained, test, folder)
    for place in (folder, student):
        (place / "README.md").write_text(instructions(run, place, proof))
    run.close()

    assert 0 < proof.identical.value < 100
    by_onnx, by_torch = (run_readme(place, TEXTS) for place in (folder, student))
    assert len({label for label, _ in by_onnx}) > 1
    for (label, sure), (said, surely) in zip(by_onnx, by_torch, strict=True):
        assert label == said
        assert float(sure) == pytest.approx(float(surely), abs=0.0015)
    with pytest.raises(BadInput, match=r"^--format lm-eval: student 'student' is an encoder, and lm-eval asks models"):
        write_task(run, [test], "student", student, tmp_path)


def damaging(trained: Path, folder: Path, labels: list[str], **given: object) -> None:
    """Write the file, and mix up its labels."""
    write_onnx(trained, folder, labels, **given)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate([*labels[1:], labels[0]]))
    (folder / "config.json").write_text(json.dumps(config))


def test_what_fails_is_kept_and_the_exit_code_says_so(job, tmp_path, monkeypatch, capsys):
    recipe = str(job / "recipe.yaml")
    common = ["export", recipe, "--root", str(job / "root"), "--json", "--format", "int8", "--to"]

    unclear = cli.main([*common, str(tmp_path / "unclear"), "--set", "evaluate.margin=0.1"], standalone_mode=False)
    monkeypatch.setattr(exporting, "write_onnx", damaging)
    failed = cli.main([*common, str(tmp_path / "failed")], standalone_mode=False)

    assert (unclear, failed) == (6, 4)
    out, err = capsys.readouterr()
    assert "NOT ENOUGH DATA to say whether the int8 file may stand in for student 'student'" in err
    assert "FAIL: the int8 file may not stand in for student 'student'\n0.0% identical answers" in err
    told = json.loads(out.splitlines()[-1])
    assert (told["event"], told["format"], told["proof"]["verdict"]["decision"]) == ("export", "int8", "fail")
    written = json.loads((tmp_path / "failed/export.json").read_text())
    assert written == told["proof"]
    assert {"model.onnx", "tokenizer.json", "README.md"} <= {Path(file).name for file in told["files"]}
    assert 0 < written["exported"]["bytes"] < 0.4 * written["trained"]["bytes"]
    assert list(written["sha256"]) == ["model.onnx"]


def test_what_is_interrupted_leaves_nothing(job, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "prove_again", interrupted)
    run = opened(job)
    with pytest.raises(KeyboardInterrupt):
        export(run, "safetensors", tmp_path / "new/out")
    run.close()

    assert list((tmp_path / "new").iterdir()) == []


def test_a_teacher_that_judges_is_asked_again_about_what_is_another_answer(booker, tmp_path):
    recipe = json.loads((booker / "recipe.yaml").read_text())
    recipe["task"] = {"kind": "generate", "instruction": "Reply.", "unlabeled": "pool.jsonl", "scorer": "judge"}
    asked: list[str] = []

    def prefers_the_first(body: dict) -> object:
        asked.append(body["messages"][-1]["content"])
        return says("A")

    with Endpoint(then=prefers_the_first) as endpoint:
        judge = {"kind": "openai", "model": "judge", "base_url": endpoint.base_url}
        recipe["teachers"]["judge"] = judge
        recipe["label"], recipe["evaluate"] = {"teacher": "people"}, {"judge": "judge", "margin": 20}
        shutil.copytree(booker, tmp_path / "job", ignore=shutil.ignore_patterns("root"))
        (tmp_path / "job/recipe.yaml").write_text(json.dumps(recipe))
        plain = opened(booker)
        test, trained = judged(plain)
        plain.close()
        known = test.answers["student"].outputs
        known[:3] = ["nothing"] * 3
        run = opened(tmp_path / "job")
        proof = prove_again(run, "safetensors", "student", trained, test, trained)
        run.close()

    assert proof.identical.value == pytest.approx(100 * 37 / 40)
    assert sum("nothing" in said for said in asked) == 6
    assert proof.verdict.reason.startswith("exported minus trained is ")


def test_what_cannot_be_exported_is_refused_in_one_line(job, tmp_path):
    run = opened(job)
    for form, remedy in (("onyx", "did you mean 'onnx'?"), ("gguf", "choose one of safetensors, onnx, int8, lm-eval")):
        with pytest.raises(BadInput, match=rf"^--format {form}: no such format; {re.escape(remedy)}$"):
            export(run, form, tmp_path / "out")
    with pytest.raises(BadInput, match=r"^--to .*: is there already; choose a folder that is empty or not there yet$"):
        export(run, "onnx", job)
    with pytest.raises(BadInput, match=r"^--student nobody: no such student; defined: student$"):
        export(run, "int8", tmp_path / "out", "nobody")
    run.close()
    run = opened(job, "students.student.train.epochs=11")
    with pytest.raises(BadInput, match=r"recipe\.yaml: nothing is judged yet; `understudy run .*` does it$"):
        export(run, "onnx", tmp_path / "out")
    run.close()
    assert list(tmp_path.iterdir()) == []
