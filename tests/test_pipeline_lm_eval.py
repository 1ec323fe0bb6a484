"""What is exported is run by the program it is for: lm-evaluation-harness must find the score of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from understudy.data.errors import BadInput
from understudy.pipeline.export import export
from understudy.pipeline.proof import publish_report
from understudy.pipeline.run import run_stages
from understudy.pipeline.use import student_folder

from .taught import WORDS, bookings, messages, opened, write_job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Labels, a student that learnt them, and one that has hardly begun."""
    folder = tmp_path_factory.mktemp("job")
    task = {
        "kind": "classify",
        "labels": list(WORDS),
        "test": {"gold": "gold.jsonl", "odd, name/*": "gold.jsonl"},
    }
    students = {"student": {"epochs": 4}, "beginner": {"epochs": 1, "batch": 64, "learning_rate": 0.0003}}
    write_job(folder, task, students, messages(300, 0), messages(60, 1))
    run = opened(folder)
    report = publish_report(run, run_stages(run))
    run.close()
    return folder, report


def harness_scores(exported: Path, student: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Each task's exact match as the harness finds it, offline, in the folder that holds the tasks."""
    lm_eval = pytest.importorskip("lm_eval", reason="pip install lm-eval==0.4.13: runs the exported task")
    monkeypatch.chdir(exported)
    tasks = [json.loads(path.read_text())["task"] for path in Path().glob("*.yaml")]
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(student), "device": "cpu"},
        tasks=tasks,
        task_manager=lm_eval.tasks.TaskManager(include_path=".", include_defaults=False),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    return {task: float(found["results"][task]["exact_match,answer"]) for task in tasks}


@pytest.mark.parametrize("name", ["student", "beginner"])
def test_the_harness_finds_the_score_of_the_report(name, job, tmp_path, monkeypatch):
    folder, report = job
    run = opened(folder)
    export(run, "lm-eval", tmp_path / "out", name)
    _, student = student_folder(run, name)
    run.close()

    found = harness_scores(tmp_path / "out", student, monkeypatch)

    score = report["models"][name]["score"]
    assert found == {
        "out_gold": pytest.approx(score["gold"]["value"] / 100, abs=1e-6),
        "out_odd-name--1": pytest.approx(score["odd, name/*"]["value"] / 100, abs=1e-6),
    }


def test_a_beginner_is_right_less_often_where_it_may_say_other_words(job):
    """Else the test above would pass without lifting the labels."""
    folder, report = job
    run = opened(folder)
    _, student = student_folder(run, "beginner")
    run.close()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)

    right = 0
    for row in messages(60, 1):
        turn = [{"role": "user", "content": row["input"]}]
        asked = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**asked, max_new_tokens=1, do_sample=False)[0, asked["input_ids"].shape[1] :]
        right += tokenizer.decode(written) == row["output"]

    assert 100 * right / 60 < report["models"]["beginner"]["score"]["gold"]["value"] - 5


def test_objects_are_compared_as_students_write_them(tmp_path, monkeypatch):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "seats": {"type": "integer"}},
        "required": ["city", "seats"],
    }
    task = {"kind": "extract", "schema": schema, "scorer": "exact", "test": {"gold": "gold.jsonl"}}
    write_job(tmp_path, task, {"student": {"epochs": 8}}, bookings(240, 0), bookings(24, 1))
    backwards = [{**row, "output": json.dumps(dict(reversed(row["output"].items())))} for row in bookings(24, 1)]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in backwards))
    run = opened(tmp_path)
    report = publish_report(run, run_stages(run))
    export(run, "lm-eval", tmp_path / "out")
    _, student = student_folder(run, None)
    run.close()

    found = harness_scores(tmp_path / "out", student, monkeypatch)

    score = report["models"]["student"]["score"]["gold"]["value"]
    assert score > 50
    assert found == {"out_gold": pytest.approx(score / 100, abs=1e-6)}


def test_everybodys_answers_are_exported_with_what_they_were_worth(job, tmp_path):
    folder, report = job
    run = opened(folder)

    export(run, "lm-eval", tmp_path / "out")
    run.close()

    said = [json.loads(line) for line in (tmp_path / "out/out_gold.answers.jsonl").read_text().splitlines()]
    assert {row["model"] for row in said} == set(report["models"])
    for model, facts in report["models"].items():
        scores = [row["score"] for row in said if row["model"] == model]
        assert 100 * sum(scores) / 60 == pytest.approx(facts["score"]["gold"]["value"])
    rows = [json.loads(line) for line in (tmp_path / "out/out_gold.jsonl").read_text().splitlines()]
    assert {row["input"]: row["output"] for row in rows} == {row["input"]: row["output"] for row in messages(60, 1)}


def test_the_readme_says_how_to_run_it_and_what_comes_out(job, tmp_path):
    folder, report = job
    run = opened(folder)
    _, student = student_folder(run, "beginner")

    files = export(run, "lm-eval", tmp_path / "out", "beginner").files
    run.close()

    assert sorted(path.name for path in files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    readme = (tmp_path / "out/README.md").read_text()
    assert f"lm_eval --model hf --model_args pretrained={student} \\\n    " in readme
    assert "--tasks out_gold,out_odd-name--1 --include_path . --apply_chat_template" in readme
    score = report["models"]["beginner"]["score"]["gold"]["value"]
    assert f"| out_gold | 60 | {score / 100:.4f} |" in readme


def test_what_cannot_be_exported_is_refused_in_one_line(job, tmp_path):
    folder, _ = job
    run = opened(folder)
    blocked = tmp_path / "file"
    blocked.write_text("")

    with pytest.raises(BadInput, match=r"^--to .*: is there already; choose a folder that is empty or not there yet$"):
        export(run, "lm-eval", folder)
    with pytest.raises(BadInput, match=r"^--student nobody: no such student; defined: student, beginner$"):
        export(run, "lm-eval", tmp_path / "out", "nobody")
    with pytest.raises(BadInput, match=r"^--to .*/file/out: cannot be written \(Not a directory\); choose another fol"):
        export(run, "lm-eval", blocked / "out")
    run.close()
    assert not (tmp_path / "out").exists()
    run = opened(folder, "students.student.train.epochs=11")
    with pytest.raises(BadInput, match=r"recipe\.yaml: nothing is judged yet; `understudy run .*` does it$"):
        export(run, "lm-eval", tmp_path / "out")
    run.close()
