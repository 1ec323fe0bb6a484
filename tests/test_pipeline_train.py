"""What a student is trained on may be too little to learn from, or nothing to be judged by, whatever its kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from understudy.data.storage import LocalStorage
from understudy.pipeline.context import Run
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import run_stages

pytestmark = pytest.mark.parametrize("kind", ["dense", "encoder"])


@contextmanager
def opened(folder: Path, kind: str, outputs: list[str], words: int = 3, **train) -> Iterator[Run]:
    """A recipe whose teacher is a table that gives these outputs to messages of so many words."""
    rows = [{"input": f"message {n} " + "word " * words + f"{n * n}", "output": out} for n, out in enumerate(outputs)]
    for name in ("pool", "answers"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "t",
        "task": {
            "kind": "classify",
            "instruction": "Which?",
            "labels": ["refund", "delivery"],
            "unlabeled": {"path": "pool.jsonl", "input": "{input}"},
        },
        "split": {"test": 0, "validation": 0, "calibration": 0},
        "teachers": {"people": {"kind": "table", "model": "answers.jsonl"}},
        "curate": {"duplicates": {"near": None}},
        "student": {
            "init": {"kind": kind, "parameters": "0.3M", "vocabulary": 512},
            "train": {"epochs": 1, "batch": 16, **train},
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    run = Run(load_recipe(folder / "recipe.yaml"), LocalStorage(folder / "root"), Reporter())
    try:
        yield run
    finally:
        run.close()


def test_rows_of_one_label_teach_nothing_and_that_is_said(kind, tmp_path, capsys):
    with opened(tmp_path, kind, ["refund"] * 40) as run:
        run_stages(run, "train")

    assert (
        "train: every row has the label 'refund', and a student learns to tell two or more apart; add inputs of other "
        "labels, or see with `understudy preview` what the teacher says\n"
    ) in capsys.readouterr().err


def test_without_rows_for_validation_the_first_seed_is_kept(kind, tmp_path, capsys):
    with opened(tmp_path, kind, ["refund", "delivery"] * 20, seeds=[3, 2]) as run:
        run_stages(run, "train")

    (trained,) = (tmp_path / "root/stages").glob("train-*/manifest.json")
    assert json.loads(trained.read_text())["summary"]["chosen"] == 3
    assert "seed 3: no rows for validation, " in capsys.readouterr().err


def test_messages_longer_than_a_student_reads_lose_their_ends(kind, tmp_path):
    with opened(tmp_path, kind, ["refund", "delivery"] * 20, words=90, max_length=16) as run:
        run_stages(run, "train")

    (trained,) = (tmp_path / "root/stages").glob("train-*/manifest.json")
    assert json.loads(trained.read_text())["summary"]["seeds"][0]["rows"] == 40
