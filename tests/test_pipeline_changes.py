"""A job that runs again and again on inputs that grow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.pipeline.garbage import leftovers
from understudy.pipeline.run import artifacts, run_stages

from .taught import WORDS, messages, opened, write_job

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path) -> Path:
    task = {"kind": "classify", "labels": list(WORDS), "test": {"gold": "gold.jsonl"}}
    write_job(tmp_path, task, {"student": {"epochs": 1, "when": 20}}, messages(400, 0), messages(30, 1))
    grow(tmp_path, 300)
    return tmp_path


def grow(folder: Path, count: int) -> None:
    rows = messages(400, 0)[:count]
    (folder / "pool.jsonl").write_text("".join(json.dumps({"input": row["input"]}) + "\n" for row in rows))


def again(folder: Path, *overrides: str) -> tuple[str, str]:
    """The folders of rows and student after a run."""
    run = opened(folder, *overrides)
    manifests = run_stages(run)
    placed = artifacts(run)
    assert {key: artifact.manifest() for key, (_, artifact) in placed.items()} == manifests
    assert not [left for left in leftovers(run.storage) if left.path == placed["train:student"][1].path]
    run.close()
    return placed["curate"][1].path, placed["train:student"][1].path


def test_a_student_stays_until_enough_rows_are_others(job, capsys):
    rows, student = again(job)
    assert again(job) == (rows, student)
    grow(job, 315)
    more, same = again(job)
    said = capsys.readouterr().err
    assert (more != rows, same) == (True, student)
    assert "since the last run: 315 rows, 300 before: 15 new, 0 gone" in said
    assert f"train:student: done before (too few rows are others for train.when, {student})" in said
    run = opened(job)
    unused = {left.path for left in leftovers(run.storage)}
    run.close()
    assert rows not in unused, "it is what the student learnt from, and what the next rows are compared with"

    grow(job, 325)  # 10 more than last time, and 25 more than it learnt from
    most, new = again(job)
    assert most not in (rows, more)
    assert new != student
    assert again(job) == (most, new)


def test_a_changed_recipe_trains_anew_however_few_rows_are_others(job):
    _, student = again(job)
    grow(job, 301)

    assert again(job, "students.student.train.epochs=2")[1] != student


def test_where_nothing_is_new_a_run_asks_nothing_and_has_nothing_to_say(job, capsys):
    again(job)
    capsys.readouterr()
    run = opened(job)
    run_stages(run)
    run.close()

    assert run.spend.requests == 0
    assert capsys.readouterr().err == ""
