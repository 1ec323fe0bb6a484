"""Handing on what was trained and judged, in forms that other programs read.

A student's own form is weights with a tokenizer, which transformers and vLLM load; ONNX runs on any CPU without torch,
and `int8` is that with a byte a weight. Each is run again before it is handed on (see `reproof`). GGUF was weighed and
left out. The library of that name writes the container and converts no model; llama.cpp's converter, of which
auto-round carries a copy, knows a byte-level BPE by a hash of what it says and refuses others; and the format has no
word for folded case or NFKC in one, so that our students would read other tokens than they learnt from.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..data.errors import BadInput
from ..students.config import FINISHED
from ..students.onnx import write_onnx
from .context import Run
from .instructions import instructions
from .lm_eval import write_task
from .reproof import Reproof, prove_again
from .run import artifacts
from .table import TestRows, read_table
from .use import student_folder

_WEIGHTS = ".safetensors"
"""In the name of every file of weights, and of their index."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A student with all that was judged."""

    name: str
    folder: Path
    tests: list[TestRows]
    """The verdict's first, with everybody's answers."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what was proved of it; nothing is of a task, which is no student."""

    files: list[Path]
    proof: Reproof | None


def export(run: Run, form: str, folder: Path, student: str | None = None) -> Exported:
    """Write one of `FORMATS` into a folder, which appears whole or not at all.

    Args:
        student: which one; by default the one that is judged.

    Raises:
        BadInput: there is no such form or student, nothing is judged yet, the folder holds something or cannot be
            written, a package is missing, or the student cannot have that form.
    """
    if form not in FORMATS:
        near = difflib.get_close_matches(form, FORMATS, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(FORMATS)}"
        raise BadInput(f"--format {form}: no such format; {remedy}")
    judged = _judged(run, student)
    with _appearing(folder) as unfinished:
        proof = FORMATS[form](run, judged, unfinished)
        names = sorted(file.name for file in unfinished.iterdir())
    return Exported([folder / name for name in names], proof)


def _judged(run: Run, student: str | None) -> Judged:
    evaluated = artifacts(run).get("evaluate")
    manifest = evaluated[1].manifest() if evaluated else None
    if evaluated is None or manifest is None:
        raise BadInput(f"{run.loaded.path}: nothing is judged yet; `understudy run {run.loaded.path}` does it")
    name, trained = student_folder(run, student)
    tests, _ = read_table(evaluated[1], manifest["summary"])
    return Judged(name, trained, tests)


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A place beside the folder, which takes its name at the end."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--to {folder}: is there already; choose a folder that is empty or not there yet")
    folder = folder.absolute()
    try:
        if not folder.parent.exists():
            folder.parent.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            unfinished = Path(place) / folder.name
            unfinished.mkdir()
            yield unfinished
            os.replace(unfinished, folder)
    except OSError as error:
        raise BadInput(f"--to {folder}: cannot be written ({error.strerror}); choose another folder") from None


def _write_task(run: Run, judged: Judged, folder: Path) -> None:
    write_task(run, judged.tests, judged.name, judged.folder, folder)


def _write_student(form: Literal["safetensors", "onnx", "int8"], run: Run, judged: Judged, folder: Path) -> Reproof:
    """The student without what only training needs, its card, its proof and how it is used."""
    for file in judged.folder.iterdir():
        if file.is_file() and file.name != FINISHED and (form == "safetensors" or _WEIGHTS not in file.name):
            shutil.copy(file, folder)
    if form != "safetensors":
        run.reporter.say(f"  writing {form}")
        write_onnx(judged.folder, folder, list(run.recipe.labels), int8=form == "int8", where=f"--format {form}")
    card = run.storage.fetch(f"{run.recipe.name}/card.md")
    if judged.name == run.recipe.judged_student and card.exists():
        shutil.copy(card, folder)
    proof = prove_again(run, form, judged.name, judged.folder, judged.tests[0], folder)
    (folder / "export.json").write_text(json.dumps(proof.as_json(), indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(instructions(run, folder, proof), encoding="utf-8")
    return proof


FORMATS: Mapping[str, Callable[[Run, Judged, Path], Reproof | None]] = {
    "safetensors": partial(_write_student, "safetensors"),
    "onnx": partial(_write_student, "onnx"),
    "int8": partial(_write_student, "int8"),
    "lm-eval": _write_task,
}
