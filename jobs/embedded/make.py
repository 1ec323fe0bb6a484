"""Makes the embedded teacher: composes its corpus, trains it, measures it, and writes its folder and card.

    python -m understudy.jobs.embedded.make --out build/embedded --threads 2

One model learns two skills through one chat template, as any student learns a text task: to write a message for a label
like an example that it is shown, and to name the label of a message. What ships took ten minutes of one H200 (its card
has the commands); on 2 cores count hours.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.fingerprint import row_id
from ...data.rows import Example
from ...pipeline.prompts import Template
from .grammar import Composed, Grammar

if TYPE_CHECKING:
    from ...students.config import StudentRecipe
    from ...students.cut import Larger

JOB = Path(__file__).parent.parent / "support-triage"


def prompt_text(template: Template, values: dict[str, object]) -> str:
    """The user's turn that the demo's own template makes of the values."""
    return template.render(values)[-1].content


def as_user(text: str) -> list[dict[str, str]]:
    """A prompt that is the user's turn as it stands."""
    return [{"role": "user", "content": text}]


def lessons(grammar: Grammar, read: int, written: int, seed: int, *, held_out: bool = False) -> Iterator[Example]:
    """Both skills, mixed, so many of each for every label."""
    write = Template((JOB / "prompts/generate.j2").read_text(encoding="utf-8"), "generate.j2")
    name = Template((JOB / "prompts/label.j2").read_text(encoding="utf-8"), "label.j2")
    draw = random.Random(f"lessons/{seed}/{held_out}")
    typed = {label: grammar.messages(label, seed, held_out=held_out) for label in grammar.labels}
    models = {label: grammar.messages(label, seed + 1000, held_out=held_out) for label in grammar.labels}
    recent: dict[tuple[str, tuple[bool, bool]], list[str]] = {}
    side = "validation" if held_out else "train"
    for number in range(read):
        for label in grammar.labels:
            yield _lesson(prompt_text(name, {"input": next(typed[label]).text}), label, side)
            if number * written // read != (number + 1) * written // read:
                message = next(models[label])
                example = _example_like(message, recent, draw)
                asked = prompt_text(write, {"label": label, "examples": [example] if example else []})
                yield _lesson(asked, message.text, side)


def _example_like(
    message: Composed, recent: dict[tuple[str, tuple[bool, bool]], list[str]], draw: random.Random
) -> str | None:
    """An earlier message of the same label and style; the last few hundred are remembered."""
    shelf = recent.setdefault((message.label, message.style), [])
    example = draw.choice(shelf) if shelf else None
    if len(shelf) < 400:
        shelf.append(message.text)
    else:
        shelf[draw.randrange(400)] = message.text
    return example


def _lesson(asked: str, answer: str, side: str) -> Example:
    name = row_id("lesson", asked, answer)
    return Example(name, asked, answer, name, side, "grammar")  # type: ignore[arg-type]


def grammar_test(grammar: Grammar, rows: int) -> list[dict[str, str]]:
    """Messages whose whole core production no training message has, spread over the labels."""
    each = -(-rows // len(grammar.labels))
    seen: set[str] = set()
    found = []
    for label in grammar.labels:
        fresh = (message.text for message in grammar.messages(label, 1, held_out=True) if message.text not in seen)
        for text in islice(fresh, each):
            seen.add(text)
            found.append({"input": text, "output": label})
    random.Random(0).shuffle(found)
    return found[:rows]


def keep(folder: Path, before: Path | None) -> None:
    """Leave the weights as they ship: in bfloat16; of a model trained further, the mean of before and after.

    Source: Wortsman et al. 2022, arXiv:2203.05482 (averaged weights are better on what neither was trained for).
    """
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    if weights["model.norm.weight"].dtype == torch.bfloat16:
        return  # they were left before
    if before is not None:
        earlier = load_file(before / "model.safetensors")
        weights = {name: (weight + earlier[name].float()) / 2 for name, weight in weights.items()}
    shipped = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(shipped, folder / "model.safetensors", metadata={"format": "pt"})


def recipe(chosen: argparse.Namespace) -> tuple[StudentRecipe, Callable[[], Larger] | None]:
    """What is trained, and the model that it goes on from."""
    from ...students.config import Dense, Layers, StudentRecipe, Train
    from ...students.cut import Larger
    from ...teachers.transformers import TransformersTeacher

    init: Dense | Layers = Dense(
        parameters=chosen.parameters,
        layers=chosen.layers,
        intermediate=chosen.intermediate,
        vocabulary=chosen.vocabulary,
    )
    larger = None
    if chosen.go_on:
        larger = Larger(*TransformersTeacher(chosen.go_on).weights(), str(chosen.go_on), as_user)
        depth = larger.model.config.num_hidden_layers
        init = Layers(kind="layers", teacher="", parameters="100M", layers=depth, vocabulary=65536)
        larger.tokenizer.save_pretrained(chosen.out / "work/tokenizer")  # all of it, also what the rows do not use
    student = StudentRecipe(
        init=init,
        train=Train(
            epochs=chosen.epochs,
            batch=chosen.batch,
            learning_rate=chosen.learning_rate,
            dropout=chosen.dropout,
            max_length=192,
        ),
    )
    return student, (lambda: larger) if larger else None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True, help="folder for the model")
    arguments.add_argument("--read", type=int, default=16_000, help="messages to be labelled, for each label")
    arguments.add_argument("--written", type=int, default=8_000, help="messages to be written, for each label")
    arguments.add_argument("--epochs", type=int, default=1)
    arguments.add_argument("--parameters", default="2.9M")
    arguments.add_argument("--layers", type=int)
    arguments.add_argument("--intermediate", type=int, default=2)
    arguments.add_argument("--vocabulary", type=int, default=3072)
    arguments.add_argument("--go-on", type=Path, help="folder of a model to train further; the mean of both is kept")
    arguments.add_argument("--seed", type=int, default=0, help="order of the rows")
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--learning-rate", type=float, default=2e-3)
    arguments.add_argument("--dropout", type=float, default=0.05)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--write-test", type=Path, help="write the grammar test here and stop")
    chosen = arguments.parse_args()
    grammar = Grammar()
    if chosen.write_test:
        lines = (json.dumps(row, ensure_ascii=False) for row in grammar_test(grammar, 2100))
        chosen.write_test.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    import torch

    from ...students.trainer import train_student
    from ...students.weights import TrainingRows

    torch.set_num_threads(chosen.threads)
    student, larger = recipe(chosen)
    rows = TrainingRows(
        train=lambda: lessons(grammar, chosen.read, chosen.written, 0),
        validation=lambda: lessons(grammar, 40, 0, 1, held_out=True),
        labels=tuple(grammar.labels),
        writes=True,
    )
    started = time.monotonic()
    last = [started]

    def show(step: int, steps: int, detail: str) -> None:
        if time.monotonic() - last[0] > 10:
            last[0] = time.monotonic()
            print(f"{step}/{steps} {time.monotonic() - started:.0f} s {detail}", file=sys.stderr, flush=True)

    result = train_student(student, rows, chosen.out, chosen.seed, show, larger)
    keep(chosen.out, chosen.go_on)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
