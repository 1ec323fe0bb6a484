"""Which student learns banking77 best: soft or hard labels, encoder or causal, experts or their dense control.

`python -m tests.benchmarks.students --root DIR prepare` has the shared intent teacher label the pool, by the product's
own command, and answer the test; the endpoint has to be up. `... --root DIR train` trains every student once for every
seed, `--at-once` of them side by side, and prints the score of each, every difference with a 90% interval over both
seeds and rows, and milliseconds for one message on one core. Nothing is asked of an endpoint then, so that DIR may be
carried to another machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.data.rows import Answer, Example, Source
from understudy.data.storage import LocalStorage
from understudy.pipeline.contenders import TIMED, latency, student_prompt, student_sampling
from understudy.pipeline.context import Run
from understudy.pipeline.executor import ask_all
from understudy.pipeline.label import AskLabel
from understudy.pipeline.progress import Reporter
from understudy.pipeline.recipe import load_recipe
from understudy.pipeline.run import artifacts, run_stages
from understudy.pipeline.train import all_rows, train_one
from understudy.students.config import StudentRecipe
from understudy.teachers.transformers import TransformersTeacher

RECIPE = Path(__file__).parents[2] / "jobs" / "banking77" / "recipe.yaml"
MINILM = Path(os.environ.get("MINILM", "all-MiniLM-L6-v2")).absolute()
"""Folder of all-MiniLM-L6-v2, which `minilm` begins as."""
STUDENTS: dict[str, dict[str, Any]] = {
    "soft": {"init": {"kind": "dense", "parameters": "2M"}, "train": {"epochs": 20}},
    "hard": {"init": {"kind": "dense", "parameters": "2M"}, "train": {"epochs": 20, "labels": "hard"}},
    "moe": {"init": {"kind": "moe", "parameters": "4M"}, "train": {"epochs": 20}},
    "control": {"init": {"kind": "twin", "parameters": "4M"}, "train": {"epochs": 20}},
    "encoder": {"init": {"kind": "encoder", "parameters": "2M"}, "train": {}},
    "minilm": {"init": {"kind": "encoder", "model": str(MINILM), "layers": 3}, "train": {}},
}
"""The first is what the recipe trains."""
PAIRS = (("soft", "hard"), ("encoder", "soft"), ("minilm", "encoder"), ("moe", "control"))


def opened(given: argparse.Namespace) -> Run:
    loaded = load_recipe(given.recipe, given.set)
    return Run(loaded, LocalStorage(given.root / "runs"), Reporter(quiet=given.quiet))


def prepare(given: argparse.Namespace) -> None:
    """Label and curate the pool, and ask the teacher about the test; all of it stays in the root."""
    run = opened(given)
    run_stages(run, "curate")
    gold = run.gold()["gold"]
    said: dict[str, str | None] = {}

    def keep(row: Source, answer: Any) -> None:
        said[row.id] = answer.output if isinstance(answer, Example) else None

    ask_all(run, AskLabel(), lambda: gold, len(gold), keep, title="ask the test")
    right = [said[row.id] == row.output for row in gold]
    (given.root / "teacher.json").write_text(json.dumps(right))
    run.close()
    print(f"teacher {100 * np.mean(right):.1f} of {len(right)} rows")


def train_and_answer(given: argparse.Namespace, name: str, seed: int) -> None:
    """One student, one seed: whether each row of the test is right goes into its folder, written last."""
    folder = given.root / "runs" / "students" / f"{name}-{seed}"
    if (folder / "right.json").exists():
        return
    run = opened(given)
    reads = partial(all_rows, artifacts(run)["curate"][1].fingerprint)
    student = StudentRecipe.model_validate(STUDENTS[name])
    learnt = train_one(run, student, reads, f"students/{name}-{seed}/seed-{seed}", seed, f"{name} {seed}")
    gold = run.gold()["gold"]
    prompts = [student_prompt(row.id, row.input, list(run.recipe.labels)) for row in gold]
    model = TransformersTeacher(folder / f"seed-{seed}", batch=64)

    async def all_of_them() -> list[Any]:
        said = await asyncio.gather(*(model.answer(prompt, student_sampling(student)) for prompt in prompts))
        await model.close()
        return said

    said = asyncio.run(all_of_them())
    right = [isinstance(a, Answer) and a.text == row.output for a, row in zip(said, gold, strict=True)]
    (folder / "right.json").write_text(json.dumps({**learnt, "right": right}))
    run.close()


def train(given: argparse.Namespace) -> None:
    names = [name for name in STUDENTS if not given.only or name in given.only]
    seeds = list(range(given.seeds))

    def one(which: tuple[str, int]) -> None:
        name, seed = which
        flags = [f"--set={value}" for value in given.set]
        command = [sys.executable, "-m", "tests.benchmarks.students", "--root", str(given.root), *flags, "--quiet"]
        subprocess.run([*command, "one", name, str(seed)], check=True)
        print(f"  {name} seed {seed} done", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(given.at_once) as pool:
        list(pool.map(one, product(names, seeds)))
    report(given, names, seeds)


def report(given: argparse.Namespace, names: list[str], seeds: list[int]) -> None:
    teacher = np.array(json.loads((given.root / "teacher.json").read_text()), float)
    learnt = {
        name: [json.loads((given.root / "runs" / "students" / f"{name}-{n}" / "right.json").read_text()) for n in seeds]
        for name in names
    }
    scores = {name: np.array([one["right"] for one in some], float) for name, some in learnt.items()}
    print(f"teacher {100 * teacher.mean():.1f}, {len(teacher)} rows; {len(seeds)} seeds")
    print("| student | parameters | right, mean | by seed | minus teacher (90%) | ms for one message, p50, p95 |")
    print("|---|---|---|---|---|---|")
    for name in names:
        by_seed = " ".join(f"{100 * one:.1f}" for one in scores[name].mean(1))
        apart = interval(scores[name] - teacher)
        took = milliseconds(given, name)
        print(
            f"| {name} | {learnt[name][0]['parameters']:,} | {100 * scores[name].mean():.1f} | {by_seed} | {apart} |"
            f" {took['p50']:.1f}, {took['p95']:.1f} |"
        )
    for left, right in PAIRS:
        if left in scores and right in scores:
            print(f"{left} minus {right}: {interval(scores[left] - scores[right])} points")


def interval(differences_SR: npt.NDArray[np.float64], resamples: int = 2000) -> str:
    """Mean over seeds and rows in points, and its 90% interval: seeds and rows are both drawn with replacement."""
    draw = np.random.default_rng(0)
    seeds, rows = differences_SR.shape
    means = [
        differences_SR[draw.integers(0, seeds, seeds)].mean(0)[draw.integers(0, rows, rows)].mean()
        for _ in range(resamples)
    ]
    low, high = np.quantile(means, [0.05, 0.95])
    return f"{100 * differences_SR.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def milliseconds(given: argparse.Namespace, name: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    run = opened(given)
    prompts = [student_prompt(row.id, row.input, list(run.recipe.labels)) for row in run.gold()["gold"][:TIMED]]
    run.close()
    model = TransformersTeacher(given.root / "runs" / "students" / f"{name}-0" / "seed-0", device="cpu")
    took = asyncio.run(latency(model, prompts, student_sampling(StudentRecipe.model_validate(STUDENTS[name]))))
    assert took is not None
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--set", action="append", default=[], help="as the product has it")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--only", action="append")
    parser.add_argument("what", choices=["prepare", "train", "one"])
    parser.add_argument("which", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "prepare":
        prepare(given)
    elif given.what == "one":
        train_and_answer(given, given.which[0], int(given.which[1]))
    else:
        train(given)


if __name__ == "__main__":
    main()
