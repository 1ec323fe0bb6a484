"""What was judged, in the form of a program that many use to judge: a task for EleutherAI's lm-evaluation-harness.

The student's own words are compared there, greedy and to the letter, where the report reads them with the task's parser
and scores a label by its probability among the labels. A trained student says a label and nothing else, so that the
share of exact answers is the report's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..data.errors import BadInput
from .contenders import student_sampling
from .context import Run
from .run import artifacts
from .table import TestRows, read_table
from .use import student_folder


def export_lm_eval(run: Run, folder: Path) -> list[Path]:
    """Write one task for each test, its rows, everybody's answers and how to run it; returns the files.

    Raises:
        BadInput: nothing is judged yet, or the folder holds something.
    """
    evaluated = artifacts(run).get("evaluate")
    manifest = evaluated[1].manifest() if evaluated else None
    if evaluated is None or manifest is None:
        raise BadInput(f"{run.loaded.path}: nothing is judged yet; `understudy run {run.loaded.path}` does it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--to {folder}: is there already; choose a folder that is empty or not there yet")
    tests, _ = read_table(evaluated[1], manifest["summary"])
    name, student = student_folder(run, None)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for test in tests:
        task = f"{run.recipe.name}_{test.name}"
        files[f"{task}.yaml"] = _task(run, task, name)
        files[f"{task}.jsonl"] = _lines({"id": row.id, "input": row.input, "output": row.output} for row in test.rows)
        files[f"{task}.answers.jsonl"] = _lines(_answers(test))
    files["README.md"] = _readme(run, [f"{run.recipe.name}_{test.name}" for test in tests], student)
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in files]


FORMATS: Mapping[str, Callable[[Run, Path], list[Path]]] = {"lm-eval": export_lm_eval}


def _task(run: Run, task: str, student: str) -> str:
    """The harness's own configuration; JSON is YAML too."""
    forgiving = {} if run.recipe.labels or run.recipe.schema_text else {"ignore_case": True, "ignore_punctuation": True}
    return json.dumps(
        {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{task}.jsonl"}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "input",
            "doc_to_target": "output",
            "generation_kwargs": {
                "until": ["<|end|>"],
                "do_sample": False,
                "max_gen_toks": student_sampling(run.recipe.students[student]).max_tokens,
            },
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, **forgiving}],
            "metadata": {"version": 1.0},
        },
        indent=2,
    )


def _answers(test: TestRows) -> Iterable[dict[str, Any]]:
    for place, row in enumerate(test.rows):
        for model, answers in test.answers.items():
            score = float(answers.scores[place])
            yield {"id": row.id, "model": model, "answer": answers.outputs[place], "score": score}


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _readme(run: Run, tasks: Iterable[str], student: Path) -> str:
    return f"""# {run.recipe.name}: the test of a student, for lm-evaluation-harness

    pip install lm-eval
    lm_eval --model hf --model_args pretrained={student} \\
        --tasks {",".join(tasks)} --include_path . --apply_chat_template

Run it in this folder. `exact_match` is the share of rows that the student answers to the letter as the reference does;
the report's own measure is `{run.recipe.metric}`. `*.answers.jsonl` holds what every model of the report said to each
row, and what that was worth.
"""
