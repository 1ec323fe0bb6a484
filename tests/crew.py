"""One of the workers that learn students together, as a process: `python -m tests.crew RANK SIZE FOLDER`.

What they learn alone is in folders called by the student, what together in `<student>-ddp` and `<student>-fsdp`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import BertConfig, BertForSequenceClassification

from understudy.students.config import StudentRecipe
from understudy.students.crew import ALONE, Crew
from understudy.students.hub import Pretrained
from understudy.students.sft import Show
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

from .test_students_encoder import SMALL, pieces
from .test_students_hub import by_bytes, family
from .test_students_trainer import Killed, both, quiet, rows

LEARNS = {"epochs": 2, "batch": 16}
STUDENTS = {
    "dense": {"init": {"kind": "dense", "parameters": "0.3M", "vocabulary": 512}, "train": LEARNS},
    "experts": {"init": {"kind": "moe", "parameters": "0.5M", "experts": 4, "vocabulary": 512}, "train": LEARNS},
    "encoder": {"init": {"kind": "encoder", "parameters": "0.3M", "vocabulary": 512}, "train": LEARNS},
    "writer": {"init": {"kind": "dense", "parameters": "0.3M", "vocabulary": 512}, "train": LEARNS},
    "patient": {
        "init": {"kind": "dense", "parameters": "0.3M", "vocabulary": 512},
        "train": {"epochs": 8, "batch": 16, "patience": 2},
    },
}
PRETRAINED = {
    "adapters": {"init": {"kind": "hub", "model": "m"}, "train": {**LEARNS, "lora": {"rank": 4, "alpha": 8}}},
    "reader": {"init": {"kind": "encoder", "model": "m"}, "train": {"epochs": 2, "batch": 15}},
}
"""What begins as a model that was trained before; the reader has dropout of its own, and rows to share unevenly."""

SOFT = rows(49, soft=True)
"""In batches of 16 the last has one row, and so none for the second worker."""


def given(name: str) -> TrainingRows:
    """What is learnt by patience is wrong for the validation side, so that its loss soon rises.

    Texts to be written are of different lengths, so that a worker has more of a batch's tokens than another.
    """
    if name == "writer":
        texts = [replace(row, output=f"{row.input} {'again ' * (n % 5)}") for n, row in enumerate(rows(57))]
        return both(texts[:49], texts[49:], ())
    wrong = [replace(row, output="refund" if row.output == "delivery" else "delivery") for row in rows(8, start=96)]
    return both(SOFT, wrong if name == "patient" else rows(8, start=96))


def learn(name: str, folder: Path, crew: Crew, show: Show = quiet) -> None:
    recipe = StudentRecipe.model_validate((STUDENTS | PRETRAINED)[name])
    source = partial(_model, name) if name in PRETRAINED else None
    train_student(recipe, given(name), folder / "seed-0", 0, show, source, None, crew)


_pieces = cache(pieces)
"""It learns other tokens each time where words are as frequent."""


def _model(name: str) -> Pretrained:
    if name == "adapters":
        tokenizer = by_bytes()
        return Pretrained(family("qwen3", tokenizer), tokenizer, "m")
    tokenizer = _pieces()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=2, pad_token_id=0, **SMALL)
    return Pretrained(BertForSequenceClassification(config), tokenizer, "m")


def stopped(step: int, steps: int, words: str) -> None:
    """Ends all workers at the same step, as Ray does when one of them is lost."""
    if step == 5:
        raise Killed


def main(rank: int, size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    for name in STUDENTS:
        for fsdp in (False, True):
            learn(name, folder / f"{name}-{'fsdp' if fsdp else 'ddp'}", Crew(rank, size, fsdp))
    for name in PRETRAINED:
        learn(name, folder / f"{name}-ddp", Crew(rank, size))
        with suppress(Killed):
            learn(name, folder / f"{name}-again", Crew(rank, size), stopped)
        learn(name, folder / f"{name}-again", Crew(rank, size))
    dist.destroy_process_group()


def alone(folder: Path) -> None:
    for name in [*STUDENTS, "adapters"]:
        learn(name, folder / name, ALONE)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
