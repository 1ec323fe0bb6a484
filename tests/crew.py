"""One of the workers that learn students together, as a process: `python -m tests.crew RANK SIZE FOLDER`.

What they learn alone is in folders called by the student, what together in `<student>-ddp` and `<student>-fsdp`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from understudy.students.config import StudentRecipe
from understudy.students.crew import ALONE, Crew
from understudy.students.trainer import train_student
from understudy.students.weights import TrainingRows

from .test_students_trainer import both, quiet, rows

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


def learn(name: str, folder: Path, crew: Crew) -> None:
    train_student(
        StudentRecipe.model_validate(STUDENTS[name]), given(name), folder / "seed-0", 0, quiet, None, None, crew
    )


def main(rank: int, size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    for name in STUDENTS:
        for fsdp in (False, True):
            learn(name, folder / f"{name}-{'fsdp' if fsdp else 'ddp'}", Crew(rank, size, fsdp))
    dist.destroy_process_group()


def alone(folder: Path) -> None:
    for name in STUDENTS:
        learn(name, folder / name, ALONE)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
