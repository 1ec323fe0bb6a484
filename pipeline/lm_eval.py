"""What was judged, in the form of a program that many use to judge: a task for EleutherAI's lm-evaluation-harness.

A closed label is one token of its own to a student, which no text is read as. The harness's `multiple_choice` spells
labels as words and was rejected for that: on 300 rows of the demo it finds 68.3 where our scoring has 98.3. The one
token is written instead, and those of the labels are lifted above all others: a student that learnt little says other
tokens (70% of the time after two epochs), where the report takes the likeliest label. Longer answers are compared to
the letter.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.errors import BadInput
from .contenders import student_sampling
from .context import Run
from .table import TestRows

_LIFT = 100.0
"""Nats by which labels are lifted: an untrained student puts other tokens 15 above them. In float32, as the harness
adds it, labels that differ by 1e-5 are still told apart."""

_LABELS = """\
`exact_match` is that number. `sequence_bias` in the tasks names the label tokens of this student, which answers with
one of them, as it did for the report. Another model has other tokens: take it out there.
"""
_TEXT = """\
`exact_match` is the share of answers that are the reference to the letter, in free text but for case and punctuation;
where the report's measure reads answers another way, the two differ.
"""

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")


def write_task(run: Run, tests: Sequence[TestRows], student: str, trained: Path, folder: Path) -> None:
    """Write one task for each test, its rows, everybody's answers and how to run it.

    Args:
        student: whose score is to be found again.
        trained: its folder.
    """
    tasks = {_task_name(run, test, place): test for place, test in enumerate(tests)}
    files = {"README.md": _readme(run, tasks, student, trained)}
    for task, test in tasks.items():
        files[f"{task}.yaml"] = _task(run, task, student, trained)
        files[f"{task}.jsonl"] = _lines(_rows(run, test))
        files[f"{task}.answers.jsonl"] = _lines(_answers(test))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _task_name(run: Run, test: TestRows, place: int) -> str:
    """A name for files and for `--tasks`, which takes commas and stars its own way."""
    plain = _UNNAMEABLE.sub("-", test.name)
    return f"{run.recipe.name}_{plain}" + ("" if plain == test.name else f"-{place}")


def _task(run: Run, task: str, student: str, trained: Path) -> str:
    """The harness's own configuration; JSON is YAML too."""
    free = not run.recipe.labels and not run.recipe.schema_text
    forgiving = {"ignore_case": True, "ignore_punctuation": True} if free else {}
    return json.dumps(
        {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{task}.jsonl"}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "input",
            "doc_to_target": "output",
            "generation_kwargs": {"until": ["<|end|>"], "do_sample": False, **_answering(run, student, trained)},
            "filter_list": [
                {"name": "answer", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
            ],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, **forgiving}],
            "metadata": {"version": 1.0},
        },
        indent=1,
    )


def _answering(run: Run, student: str, trained: Path) -> dict[str, Any]:
    """How long an answer may be and, for closed labels, that it is one of them."""
    if not run.recipe.labels:
        return {"max_gen_toks": student_sampling(run.recipe.students[student]).max_tokens}
    tokens = json.loads((trained / "config.json").read_text(encoding="utf-8")).get("label_token_ids")
    if tokens is None:
        found = f"student '{student}' is an encoder, and lm-eval asks models that write"
        raise BadInput(f"--format lm-eval: {found}; name one that does with --student")
    return {"max_gen_toks": 1, "sequence_bias": [[[token], _LIFT] for token in tokens.values()]}


def _rows(run: Run, test: TestRows) -> Iterable[dict[str, Any]]:
    """Inputs with their references, an object written as students learn to write it."""
    for row in test.rows:
        output = (row.output or "").strip()
        if run.recipe.schema_text:
            output = json.dumps(json.loads(output), ensure_ascii=False, sort_keys=True)
        yield {"id": row.id, "input": row.input, "output": output}


def _answers(test: TestRows) -> Iterable[dict[str, Any]]:
    for place, row in enumerate(test.rows):
        for model, answers in test.answers.items():
            score = float(answers.scores[place])
            yield {"id": row.id, "model": model, "answer": answers.outputs[place], "score": score}


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _readme(run: Run, tasks: Mapping[str, TestRows], student: str, trained: Path) -> str:
    scores = "\n".join(
        f"| {task} | {len(test.rows)} | {test.scores(student).mean():.4f} |" for task, test in tasks.items()
    )
    return f"""# {run.recipe.name}: the test of student '{student}', for lm-evaluation-harness

    pip install 'lm-eval[hf]==0.4.13'
    lm_eval --model hf --model_args {shlex.quote(f"pretrained={trained}")} \\
        --tasks {",".join(tasks)} --include_path . --apply_chat_template

Run it in this folder; `pretrained` is the student's folder, wherever it is.

| task | rows | {run.recipe.metric} in the report |
|---|---|---|
{scores}

{_LABELS if run.recipe.labels else _TEXT}
`*.answers.jsonl` holds what every model of the report said to each row, and what that was worth.
"""
